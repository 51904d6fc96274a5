"""Networks, the model around them (normalization, padding, activation), checkpoints, and weights of other programs.

A network is a torch module that is built with `in_channels`, `out_channels` and, for volumes, `dims`, and returns logits (see
`SegmentationModel` in `segmentation.py`). One of segkit's own also needs a line in `__init__.pyi`, a file `conf/model/NAME.yaml`,
and its name in `ALLOWED` of `config/targets.py`. Imports `data`, `config` and `system`; what is exported here is imported when it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
