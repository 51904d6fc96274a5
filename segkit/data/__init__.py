"""Data sets, from files on disk to batches. Imports `config` and `system`.

Layouts are in `sources/`; a source sets the patient of a case (`sources/base.py: Source.group_of`). Files are decoded in `io/`
(`images.py`: PNG, JPEG, indexed PNG). `labels.py` maps mask values to classes, `naming.py` finds or proposes their names,
`splits.py` divides the cases, `audit/` checks them (`checks.py` refuses patients in two subsets, `label_checks.py` values without
a name), `transforms/` makes the network's input, `phantoms/` draws synthetic data.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
