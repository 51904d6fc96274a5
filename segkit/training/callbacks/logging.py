"""Everything a training logs: metrics.csv and a line an epoch, images, costs for a sweep."""

from __future__ import annotations

import csv
import io
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from segkit.data.dataset import CaseDataset
from segkit.data.labels import Array
from segkit.data.overlays import Panel, panel, sample_grid
from segkit.metrics.table import Row
from segkit.system.files import write_text_atomic
from segkit.system.progress import console
from segkit.training.callbacks.finite import learning_rate
from segkit.training.distributed import all_gather, is_distributed
from segkit.training.media import log_image
from segkit.training.module import SegmentationModule
from segkit.training.run_folder import RunFolder

COST_NAMES = ("parameters", "ms_per_image")
"""Objectives of a sweep that `Costs` measures."""
COST_REPEATS = 5
N_PICTURES = 8
"""Validation images that are drawn, unless `callbacks.pictures` says otherwise."""


class EpochTable(L.Callback):
    """metrics.csv: one row an epoch, means over its steps and over all processes.

    The checkpoint holds the rows, so a resumed run rewrites the epochs that it repeats.
    """

    def __init__(self, path: Path, announce: bool) -> None:
        self.path, self.announce = path, announce
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._seconds = 0.0
        self._since = time.monotonic()
        self._validated = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        for name, value in scalars_in(outputs):
            # Lightning hands the loss back divided by the number of batches whose gradients are gathered
            whole = value.detach() * (trainer.accumulate_grad_batches if name == "loss" else 1)
            self._sums[name] = self._sums.get(name, torch.zeros_like(whole)) + whole
        self._count += 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        known = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith("_step")}
        metrics = {
            k: v for k, v in known.items() if (self._validated if k.startswith("val") else not isinstance(pl_module, SegmentationModule))
        }
        sums = all_gather({name: float(total) for name, total in self._sums.items()})
        train = {f"train/{name}": sum(one.get(name, 0.0) for one in sums) / (len(sums) * self._count) for name in sums[0]}
        lr = learning_rate(trainer)
        place = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        self.rows.append({**place, "seconds": round(self._elapsed(), 2), "lr": lr, **train, **metrics})
        self._sums, self._count, self._seconds, self._validated = {}, 0, 0.0, False
        self._since = time.monotonic()
        if trainer.is_global_zero:
            self._write(trainer)

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._since

    def _write(self, trainer: L.Trainer) -> None:
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        RunFolder(self.path.parent).check_exists()
        write_text_atomic(self.path, text.getvalue())
        if self.announce:
            row = self.rows[-1]
            shown = [f"{k} {row[k]:.4f}" for k in row if k in ("train/loss", "val/loss", "val/dice", "val/dice_present")]
            # counted from 0, as in metrics.csv, the progress bar and the figures
            last = f"/{trainer.max_epochs - 1}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
            console.print(f"epoch {trainer.current_epoch}{last}  {row['seconds']:.0f} s  {'  '.join(shown)}")

    def state_dict(self) -> dict[str, Any]:
        """Sums of all processes, since one of them saves for all; they save at the same moment."""
        sums = all_gather({name: float(total) for name, total in self._sums.items()})
        return {"rows": self.rows, "sums": sums, "count": self._count, "seconds": self._elapsed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self._count, self._seconds = list(state["rows"]), state["count"], state["seconds"]
        mine = dict(enumerate(state["sums"])).get(dist.get_rank() if is_distributed() else 0, {})  # it may resume with more processes
        self._sums = {name: torch.tensor(total) for name, total in mine.items()}


def scalars_in(outputs: Any) -> Iterator[tuple[str, Tensor]]:
    """What a training step has returned, by name: of segkit's own module the parts of the loss."""
    named = outputs.items() if isinstance(outputs, Mapping) else [("loss", outputs)]
    yield from ((str(name), value) for name, value in named if isinstance(value, Tensor) and value.numel() == 1)


class Pictures(L.Callback):
    """Log the first `n_images` validation cases with outlines, every `every_n_epochs` epochs and after the last."""

    def __init__(self, every_n_epochs: Annotated[int, Field(gt=0)] = 5, n_images: Annotated[int, Field(gt=0)] = N_PICTURES) -> None:
        self.every_n_epochs, self.n_images = every_n_epochs, n_images
        self._panels: dict[int, Panel] = {}

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._panels = {}
        dataset = getattr(getattr(trainer, "datamodule", None), "val", None)
        if not isinstance(pl_module, SegmentationModule) or not isinstance(dataset, CaseDataset):
            return
        if self._due(trainer) and not trainer.sanity_checking:
            n = self.n_images * trainer.world_size  # the cases are dealt out in turn: the first process draws n_images
            pl_module.watchers.append(partial(self._watch, dataset, n))

    def _watch(self, dataset: CaseDataset, n: int, index: int, rows: list[Row], mask: Array) -> None:
        if index < n:
            case, labels = dataset.cases[index], dataset.labels
            self._panels[index] = panel(case.image.read(), labels.planes(mask), labels.planes(dataset.reference(index)), case.id)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        panels = [self._panels[i] for i in sorted(self._panels)]
        self._panels = {}
        if panels and trainer.loggers and trainer.is_global_zero:
            figure = sample_grid(panels, pl_module.labels, f"epoch {trainer.current_epoch}")
            for logger in trainer.loggers:
                log_image(logger, "validation", figure, trainer.global_step)

    def _due(self, trainer: L.Trainer) -> bool:
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs or 1
        return epoch % self.every_n_epochs == 0 or epoch == last


class Costs(L.Callback):
    """costs.json, for a sweep that weighs them against the score: number of parameters, milliseconds a validation image.

    The time is the network's alone, the median of five passes of the first validation batch; of an own LightningModule it is not known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._image: Tensor | None = None

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *args: Any) -> None:
        self._image = getattr(batch, "image", None) if self._image is None else self._image  # (B, C, *S)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Not `on_fit_end`: by then Lightning has moved the weights from the GPU to the processor, and the image is still there."""
        if not trainer.is_global_zero:
            return
        is_ours = isinstance(pl_module, SegmentationModule)
        network = pl_module.model if is_ours else pl_module
        costs: dict[str, float] = {"parameters": sum(p.numel() for p in network.parameters())}
        if is_ours and self._image is not None:
            costs["ms_per_image"] = 1000 * statistics.median(self._seconds(pl_module) for _ in range(COST_REPEATS)) / len(self._image)
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
