"""Data sets: sources and readers, cases and labels, audit, splits, transforms, datasets and the DataModule. Imports config and system."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
