"""The callbacks that a config names (`callbacks/`), and those that are always there, as promises hang on them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
