"""How fast a training goes, and how much memory it takes."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import lightning as L
import psutil
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.data import extract_batch_size

from segkit.data.dataset import Batch


class Throughput(L.Callback):
    """Log `train/images_per_second`, `train/memory_gb` and, on a GPU, `train/gpu_memory_gb` once an epoch.

    The speed is that of the training steps and their loading, of all processes together; validation is left out.
    """

    def __init__(self) -> None:
        self.speeds: list[float] = []
        """Images a second by epoch."""
        self._images: int | None = 0
        """Of this epoch so far; None where a batch does not tell how many it holds."""
        self._start, self._end = 0.0, 0.0

    @property
    def images_per_second(self) -> float | None:
        """The median over the epochs; None before the first has ended."""
        return statistics.median(self.speeds) if self.speeds else None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._images, self._start = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        n = images_in(batch)
        self._images = None if n is None or self._images is None else self._images + n
        self._end = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or not self._images:
            return
        self.speeds.append(self._images * trainer.world_size / max(self._end - self._start, 1e-9))
        found = {"train/images_per_second": self.speeds[-1], **memory_gb()}
        for logger in trainer.loggers:
            logger.log_metrics(found, max(0, trainer.global_step - 1))  # where Lightning puts what is logged now


def images_in(batch: Any) -> int | None:
    """By the indices of segkit's own batch, else by the first tensor in it; None where Lightning finds none."""
    if isinstance(batch, Batch):
        return len(batch.indices)
    with warnings.catch_warnings(action="ignore"):  # of tensors of unequal length, with advice on `self.log`
        try:
            return extract_batch_size(batch)
        except (MisconfigurationException, RecursionError):
            return None


def memory_gb() -> dict[str, float]:
    """What this process holds at the moment, and the most that it has held of its GPU."""
    found = {"train/memory_gb": psutil.Process().memory_info().rss / 1e9}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["train/gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found
