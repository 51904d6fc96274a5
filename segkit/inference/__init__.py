"""From a checkpoint and images to masks, tables of scores and files in other formats.

Imports `models`, `metrics`, `data`, `config` and `system`; knows neither Lightning nor Hydra. Names are imported when they are used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
