"""A callback of Lightning: says when the validation has become better."""

from __future__ import annotations

import lightning as L


class Announce(L.Callback):
    """Prints a metric of the validation whenever it is higher than before."""

    def __init__(self, metric: str = "val/dice") -> None:
        self.metric, self.best = metric, float("-inf")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = float(trainer.callback_metrics.get(self.metric, float("-inf")))
        if not trainer.sanity_checking and value > self.best:
            self.best = value
            trainer.print(f"new best   {self.metric} {value:.3f} in epoch {trainer.current_epoch}")
