"""How a training ends: at its time limit, which a resume renews, and never without a last validation."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
from lightning.pytorch import callbacks


class Timer(callbacks.Timer):
    """Stops after so long. A run that was killed resumes with what is left, one that ended by time with all of it.

    Args:
        duration: days:hours:minutes:seconds, such as 00:12:00:00; or `{minutes: 90}`, with any of the keywords of `timedelta`.
        interval: step, or epoch to let an epoch end.
    """

    state_key = "Timer"  # as Lightning's own, which wrote earlier checkpoints

    def __init__(self, duration: str | dict[str, float], interval: Literal["step", "epoch"] = "step") -> None:
        super().__init__(duration, interval, verbose=False)  # type: ignore[arg-type]

    @property
    def is_over(self) -> bool:
        return (self.time_remaining() or 0) <= 0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.is_over:
            self._offset = 0


class LastValidation(L.Callback):
    """Validates before the training ends, whatever ends it: the last epoch, time, or another callback. Must come after those."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._prepare(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self._prepare(trainer)

    def _prepare(self, trainer: L.Trainer) -> None:
        if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True
        if ends_here(trainer):
            trainer.check_val_every_n_epoch = 1


def ends_here(trainer: L.Trainer) -> bool:
    """Whether this epoch is the last."""
    return trainer.should_stop or is_last_epoch(trainer)


def is_last_epoch(trainer: L.Trainer) -> bool:
    """Whether it is the last of `trainer.max_epochs`."""
    return trainer.max_epochs is not None and 0 < trainer.max_epochs <= trainer.current_epoch + 1
