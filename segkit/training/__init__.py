"""Training, on Lightning. Imports everything below `cli`.

`train.py` is the procedure; `module.py` the LightningModule, which adds the metadata to a checkpoint; `trainer.py` builds the
Trainer (what `auto` stands for is in `system/hardware.py`); `callbacks/checkpoints.py` decides when a checkpoint is written;
`run_folder.py` finds an unfinished run; `sweeps/` runs many trainings.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
