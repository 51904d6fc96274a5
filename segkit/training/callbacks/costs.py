"""What a network costs, for a sweep that weighs it against its score: costs.json in the run folder."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from segkit.system.files import write_text_atomic

REPEATS = 5
NAMES = ("parameters", "ms_per_image")


class Costs(L.Callback):
    """Weights in number; milliseconds of a validation image through the network, the median of five batches like the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._image: Tensor | None = None

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *args: Any) -> None:
        self._image = batch.image if self._image is None else self._image  # (B, C, *S)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        costs: dict[str, float] = {"parameters": sum(p.numel() for p in pl_module.model.parameters())}
        if self._image is not None:
            costs["ms_per_image"] = 1000 * statistics.median(self._seconds(pl_module) for _ in range(REPEATS)) / len(self._image)
        write_text_atomic(self.path, json.dumps(costs))

    def _seconds(self, pl_module: Any) -> float:
        image, training = self._image, pl_module.training
        pl_module.eval()
        with torch.inference_mode(), pl_module.trainer.precision_plugin.forward_context():
            start = time.perf_counter()
            pl_module.model.logits(image).float().sum().item()  # which waits for a GPU
            seconds = time.perf_counter() - start
        pl_module.train(training)
        return seconds
