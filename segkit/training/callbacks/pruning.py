"""Inside a sweep: report the score of each validation, and stop a trial that the pruner gives up."""

from __future__ import annotations

import lightning as L

from segkit.system.progress import console
from segkit.training.callbacks.checkpoints import on_any_process
from segkit.training.run_folder import Pruned
from segkit.training.trial import RunningTrial


class Pruning(L.Callback):
    """Raises `Pruned` at the end of an epoch, once its checkpoint and its row are written; must come after those callbacks.

    The first process asks the pruner, and all stop together. The last epoch is not pruned: there is nothing left to save.
    """

    def __init__(self, monitor: str, trial: RunningTrial) -> None:
        self.monitor, self.trial = monitor, trial
        self._score: float | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._score = float(trainer.callback_metrics[f"val/{self.monitor}"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        score, self._score = self._score, None
        if score is None:
            return
        pruned = trainer.is_global_zero and self._report(trainer.current_epoch + 1, score)
        is_last = trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs
        if on_any_process(trainer, pruned) and not is_last:
            raise Pruned(f"pruned after epoch {trainer.current_epoch + 1}: {self.monitor} {score:.4f}")

    def _report(self, epochs: int, score: float) -> bool:
        """Whether to prune. A storage that cannot be reached for a moment must not end the training."""
        try:
            return self.trial.report(epochs, score)
        except Exception as error:  # whatever a database raises
            console.print(f"epoch {epochs} could not be reported to the study: {error}", markup=False)
            return False
