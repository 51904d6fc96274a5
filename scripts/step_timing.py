"""Seconds of a training step through segkit and Lightning, without loading, and the rate of a matrix product to compare them with."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from segkit.config.compose import compose
from segkit.data.datamodule import SegmentationData
from segkit.data.dataset import Batch
from segkit.system.hardware import Hardware
from segkit.training import trainer
from segkit.training.callbacks.finite import NonFiniteGuard
from segkit.training.module import SegmentationModule
from segkit.training.run_folder import RunFolder


def product_rate(device: str, dtype: torch.dtype, n: int) -> float:
    """TFLOP/s of the product of two n x n matrices, median of 20."""
    a = torch.rand(n, n, device=device).to(dtype)
    seconds = []
    for _ in range(23):
        synchronize(device)
        start = time.perf_counter()
        a @ a
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / statistics.median(seconds[3:]) / 1e12


def timed_steps(keys: tuple[str, ...], folder: Path, n_warm: int, n: int, strategy: Any = None) -> tuple[Any, SegmentationModule, float]:
    """The config of `segkit train` with `keys`, its module, and seconds of a step: `Trainer.fit` on one batch that lies on the device.

    Args:
        keys: Overrides.
        folder: For what a run leaves.
        n_warm: Steps before the clock starts.
        n: Steps that are timed.
        strategy: Lightning's; None: that of the config.
    """
    cfg: Any = compose("train", ["trainer.max_epochs=1", "logger=none", *keys])
    hardware = Hardware.choose(cfg.trainer.accelerator, cfg.trainer.precision, cfg.trainer.threads)
    hardware.prepare_process()
    data = Repeated.from_config(cfg)
    module = SegmentationModule.from_config(cfg, data, hardware.precision)
    trainer.prepare_network(module.model, cfg, hardware, n, module.metadata)
    strategy = strategy or trainer.build_strategy(cfg, hardware, module.model, module.metadata)
    run, clock = RunFolder(folder), Clock(hardware.device, n_warm, n)
    fitting = trainer.build_trainer(cfg, run, hardware, 0, n_warm + n, strategy)
    fitting.callbacks = [NonFiniteGuard(run, cfg), clock]  # type: ignore[attr-defined]
    fitting.limit_val_batches = 0
    data.batch, data.n = batch_of(cfg, module.metadata.channels, hardware.device), n_warm + n
    fitting.fit(module, data)
    return cfg, module, clock.seconds


class Repeated(SegmentationData):
    """The DataModule of the config, whose loader gives n times the same batch."""

    batch: Batch
    n: int

    def setup(self, stage: str) -> None:
        """Decode nothing."""

    def train_dataloader(self) -> Any:
        batches: Any = [self.batch] * self.n
        return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


def batch_of(cfg: Any, channels: int, device: str) -> Batch:
    """Noise in the shape of the config's batches."""
    size, n = tuple(cfg.sampling.patch or cfg.preprocess.size), cfg.data.batch_size
    image = torch.randint(0, 255, (n, channels, *size), dtype=torch.uint8)
    mask = torch.randint(0, 2, (n, *size), dtype=torch.uint8)
    return Batch(image, mask, tuple(range(n))).to(torch.device(device))


class Clock(L.Callback):
    """Seconds of a step: the mean of `n`, after `n_warm` others."""

    def __init__(self, device: str, n_warm: int, n: int) -> None:
        self.device, self.n_warm, self.n, self.start, self.seconds = device, n_warm, n, 0.0, 0.0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step == self.n_warm:
            synchronize(self.device)
            self.start = time.perf_counter()
        if trainer.global_step == self.n_warm + self.n:
            synchronize(self.device)
            self.seconds = (time.perf_counter() - self.start) / self.n


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
