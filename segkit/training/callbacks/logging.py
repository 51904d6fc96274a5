"""metrics.csv, one row an epoch, and a line a epoch on consoles that are no terminal."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor

from segkit.system.files import write_text_atomic
from segkit.system.progress import console


class EpochTable(L.Callback):
    """Means over the epoch and the processes that share it. The checkpoint holds the rows: a resumed run rewrites what it repeats."""

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
        for name, value in outputs.items():
            # Lightning hands the loss back divided by the number of batches whose gradients are gathered
            whole = value.detach() * (trainer.accumulate_grad_batches if name == "loss" else 1)
            self._sums[name] = self._sums.get(name, torch.zeros_like(whole)) + whole
        self._count += 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/") and self._validated}
        sums = everywhere({name: float(total) for name, total in self._sums.items()})
        train = {f"train/{name}": sum(one.get(name, 0.0) for one in sums) / (len(sums) * self._count) for name in sums[0]}
        lr = trainer.optimizers[0].param_groups[0]["lr"]
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
        write_text_atomic(self.path, text.getvalue())
        if self.announce:
            row = self.rows[-1]
            shown = [f"{k} {row[k]:.4f}" for k in row if k in ("train/loss", "val/loss", "val/dice")]
            console.print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {row['seconds']:.0f} s  {'  '.join(shown)}")

    def state_dict(self) -> dict[str, Any]:
        """Of all processes, of which one saves; all of them save at the same moment."""
        sums = everywhere({name: float(total) for name, total in self._sums.items()})
        return {"rows": self.rows, "sums": sums, "count": self._count, "seconds": self._elapsed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self._count, self._seconds = list(state["rows"]), state["count"], state["seconds"]
        mine = dict(enumerate(state["sums"])).get(dist.get_rank() if together() else 0, {})  # it may go on with more processes
        self._sums = {name: torch.tensor(total) for name, total in mine.items()}


def together() -> bool:
    return dist.is_available() and dist.is_initialized()


def everywhere(mine: dict[str, float]) -> list[dict[str, float]]:
    """The same of each process of this training."""
    if not together():
        return [mine]
    everyone: list[dict[str, float]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    return everyone
