"""Early stopping that a resumed run remembers."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping


class StopEarly(EarlyStopping):
    """Lightning keeps the count of bad epochs in the checkpoint, but not the decision that followed from it."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True
