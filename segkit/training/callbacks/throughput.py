"""How fast a training goes, and how much memory it takes."""

from __future__ import annotations

import statistics
import time
from typing import Any

import lightning as L
import psutil
import torch
from lightning.pytorch.utilities.data import extract_batch_size


class Throughput(L.Callback):
    """Log `train/images_per_second`, `train/memory_gb` and, on a GPU, `train/gpu_memory_gb` once an epoch.

    The speed is that of the training steps and their loading, of all processes together; validation is left out.
    """

    def __init__(self) -> None:
        self.speeds: list[float] = []
        """Images a second by epoch."""
        self._images, self._start, self._end = 0, 0.0, 0.0

    @property
    def images_per_second(self) -> float | None:
        """The median over the epochs; None before the first has ended."""
        return statistics.median(self.speeds) if self.speeds else None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._images, self._start = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        indices = getattr(batch, "indices", None)
        self._images += extract_batch_size(batch) if indices is None else len(indices)
        self._end = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or not self._images:
            return
        self.speeds.append(self._images * trainer.world_size / max(self._end - self._start, 1e-9))
        found = {"train/images_per_second": self.speeds[-1], **memory_gb()}
        for logger in trainer.loggers:
            logger.log_metrics(found, max(0, trainer.global_step - 1))  # where Lightning puts what is logged now


def memory_gb() -> dict[str, float]:
    """What this process holds at the moment, and the most that it has held of its GPU."""
    found = {"train/memory_gb": psutil.Process().memory_info().rss / 1e9}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["train/gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found
