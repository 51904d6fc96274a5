"""Training: the recipe (`train`), the LightningModule, Trainer, callbacks, run folder, sweeps. Imports everything below `cli`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
