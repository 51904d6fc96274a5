"""Ctrl-C and SIGTERM stop after the current batch, with a checkpoint. A second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

from segkit.system.progress import console
from segkit.training.callbacks.checkpoints import Checkpoints, can_save, on_any_process
from segkit.training.run_folder import Interrupted


class Interruption(L.Callback):
    """Raises `Interrupted` once last.ckpt is written: after the batch, or after validation if that has begun."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python hands signals to the main thread alone
        for sign in (signal.SIGINT, signal.SIGTERM):
            self._previous[sign] = signal.signal(sign, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        console.print("stopping after this batch, to write a checkpoint; Ctrl-C once more to stop at once")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if can_save(trainer) and on_any_process(trainer, self.asked):
            self.checkpoints.save_last(trainer)
            raise Interrupted

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The epoch that was under way has ended, and `Checkpoints` has saved."""
        if trainer.global_step and on_any_process(trainer, self.asked):
            raise Interrupted

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for sign, handler in self._previous.items():
            signal.signal(sign, handler)
        self._previous = {}
