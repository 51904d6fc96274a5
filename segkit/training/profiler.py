"""Where the time of an epoch goes: `trainer.profiler=epoch`, or `debug=profile`."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from lightning.pytorch.profilers import Profiler
from rich import box
from rich.table import Table

from segkit.system.files import write_csv_atomic
from segkit.system.progress import console

TABLE = "profile.csv"
"""Seconds and share of each part, by epoch."""
COLUMNS = ("epoch", "part", "seconds", "share")
REST = "everything else"
MOST_WIDTH = 200
"""A terminal that is narrower wraps the lines: no number is ever cut."""
PARTS = {
    "checkpoint": r"save_checkpoint|\[Callback\](Model)?Checkpoints?\b|\[Callback\]Interruption",
    "pictures": r"\[Callback\](Pictures|ValidationCurves)\b",
    "optimizer": r"optimizer_(step|zero_grad)|configure_gradient_clipping|lr_scheduler_step|WeightAveraging|StochasticWeightAveraging",
    "forward": r"\.training_step",
    "backward": r"\.backward$",
    "loading": r"_next$|batch_to_device|batch_transfer|transfer_batch",
    "metrics": r"^metrics$|\.on_validation_epoch_end",
    "validation": r"\.validation_step",
    "logging": r"^logging$|\[Callback\](EpochTable|BestSoFar|Throughput|DeviceStatsMonitor|LearningRateMonitor|\w*ProgressBar)\b",
}
"""Part of an epoch -> pattern of the names that Lightning gives to what it runs; the first that is found counts."""
SHOWN = ("forward", "backward", "optimizer", "loading", "validation", "metrics", "pictures", "checkpoint", "logging", REST)
TRAINING = ("forward", "backward")

Epoch = Mapping[str, float]
"""Part -> seconds."""


class EpochProfiler(Profiler):
    """Measures the wall seconds of the parts of each epoch; prints them as a table when the training ends, and writes profile.csv.

    An action counts without those inside it, so that the parts add up to the epoch, which lasts until the next one begins. GPUs are
    waited for at the start and the end of each action. The step is therefore a little slower than without a profiler.
    `validation` is the network alone; an own LightningModule has its metrics in there as well.

    Args:
        folder: Of profile.csv; None: the table is printed only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.epochs: list[defaultdict[str, float]] = []
        self._is_open = False
        self._stack: list[str] = []
        self._since = 0.0

    def start(self, action_name: str) -> None:
        self._charge()
        if action_name == "run_training_epoch":
            self.epochs.append(defaultdict(float))
            self._is_open = True
        self._is_open &= not action_name.endswith(".on_train_end")
        inside = self._stack[-1] if self._stack else REST
        self._stack.append(part_of(action_name) or inside)

    def stop(self, action_name: str) -> None:
        self._charge()
        if self._stack:
            self._stack.pop()

    def _charge(self) -> None:
        """Count the time since the last event for the part that was running."""
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._is_open:
            self.epochs[-1][self._stack[-1] if self._stack else REST] += now - self._since
        self._since = now

    def describe(self) -> None:
        if self._local_rank in (None, 0) and self.epochs:
            table = layout(self.epochs)
            table.width = console.measure(table, options=console.options.update(width=MOST_WIDTH)).maximum
            console.print(table, crop=False, no_wrap=True, overflow="ignore")
            if self.folder is not None:
                write_csv_atomic(self.folder / TABLE, rows(self.epochs))
                console.print(f"each epoch {self.folder / TABLE}", markup=False)
        self.epochs = []


@cache
def part_of(action: str) -> str | None:
    """The part of the epoch that an action of Lightning belongs to; None: that of the action around it."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, action)), None)


def rows(epochs: Sequence[Epoch]) -> list[Sequence[object]]:
    """Of profile.csv, its header first."""
    found: list[Sequence[object]] = [COLUMNS]
    for number, epoch in enumerate(epochs):
        total = sum(epoch.values())
        found += [(number, part, round(epoch.get(part, 0.0), 4), round(epoch.get(part, 0.0) / total, 4)) for part in SHOWN]
    return found


def layout(epochs: Sequence[Epoch]) -> Table:
    """A column of seconds and one of shares for the first epoch, the mean of those after it, and the last, which also draws pictures."""
    table = Table(title="profile    wall seconds", title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD)
    table.add_column("part", no_wrap=True)
    columns = groups(epochs)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("share", justify="right", no_wrap=True)
    for part in SHOWN:
        table.add_row(part, *(text for epoch in columns.values() for text in cells(epoch, (part,))))
    table.add_section()
    table.add_row("epoch", *(text for epoch in columns.values() for text in cells(epoch, SHOWN)))
    beside = [part for part in SHOWN if part not in TRAINING]
    table.add_row("neither forward nor backward", *(text for epoch in columns.values() for text in cells(epoch, beside)))
    return table


def groups(epochs: Sequence[Epoch]) -> dict[str, Epoch]:
    """The first epoch warms up and the last one is complete, so they stand apart from those between them."""
    last = len(epochs) - 1
    between = epochs[1:last]
    found = {"epoch 0": epochs[0]}
    if between:
        mean = {part: sum(epoch.get(part, 0.0) for epoch in between) / len(between) for part in SHOWN}
        found["epoch 1" if last == 2 else f"epochs 1-{last - 1}"] = mean
    return found if last == 0 else {**found, f"epoch {last}": epochs[last]}


def cells(epoch: Epoch, parts: Sequence[str]) -> tuple[str, str]:
    seconds, total = sum(epoch.get(part, 0.0) for part in parts), sum(epoch.values())
    return f"{seconds:.3f}", f"{seconds / total:.1%}"
