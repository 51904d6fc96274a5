"""From a checkpoint and images to masks, tables of scores and files in other formats.

`predictor.py` predicts one image: `sliding_window.py` blends overlapping windows, `tta.py` averages over flips and turns,
`postprocess.py` applies `inference.postprocess` (which `choose` in `cli/calibrate.py` chooses). `evaluation.py` scores, `ensemble.py` joins
several networks, `writers/` writes.

Imports `models`, `metrics`, `data`, `config` and `system`; knows neither Lightning nor Hydra. Names are imported when they are used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
