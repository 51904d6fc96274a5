"""A trial of a tuning: an ordinary training with a fixed folder, and what came of it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from segkit.config.schema import Train
from segkit.data.labels import Array
from segkit.system.errors import SegkitError, first_line
from segkit.system.progress import console
from segkit.training import train as run
from segkit.training.plots import has_values, read_columns
from segkit.training.run_folder import Interrupted, RunFolder, config_hash

FOLDER = "tuning"


@dataclass(frozen=True)
class Trial:
    """`job`: its overrides; `tried`: those of them that differ from trial to trial; `failure`: why it broke off, or ''."""

    stage: str
    job: tuple[str, ...]
    tried: tuple[str, ...]
    config: Train
    failure: str = ""

    @classmethod
    def of(cls, stage: str, job: Sequence[str], tried: Sequence[str], config: Train) -> Trial:
        """In a folder that its config decides: the same trial is found again, in another stage as well, and no other one is."""
        config = run.with_absolute_root(config)
        home, mark = Path(config.output_dir) / str(config.name), config_hash(config)[:8]
        words = [re.sub(r"[^\w.+-]+", "-", text) for text in short(tried)]
        there = sorted(home.glob(f"{FOLDER}/*/*{mark}"))
        place = there[0].relative_to(home) if there else Path(FOLDER, stage, "_".join([*words, mark]))
        return cls(stage, tuple(job), tuple(tried), config.model_copy(update={"run": place.as_posix(), "resume": "auto"}))

    def attempt(self, is_first: bool = False) -> Trial:
        """Train it, go on with it, or find it finished. What breaks off one trial leaves the others, but a mistake of input
        that the first one meets is theirs as well."""
        self.folder.path.parent.mkdir(parents=True, exist_ok=True)
        torch.compiler.reset()  # networks that other trials have compiled count against a limit
        try:
            run.train(self.config, overrides=self.job)
        except Exception as error:
            if isinstance(error, Interrupted) or (is_first and isinstance(error, SegkitError)):
                raise
            console.print(f"failed     {type(error).__name__}: {error}", markup=False)
            return replace(self, failure=first_line(error))
        return self

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.config.output_dir) / str(self.config.name) / str(self.config.run))

    @property
    def label(self) -> str:
        return " ".join(short(self.tried)) or "the preset's own"

    @cached_property
    def columns(self) -> dict[str, Array]:
        """metrics.csv, epoch by epoch. Empty where no epoch ended."""
        path = self.folder.path / "metrics.csv"
        return read_columns(path) if path.is_file() else {}

    @property
    def monitor(self) -> str:
        return f"val/{self.config.metric.monitor}"

    @property
    def score(self) -> float:
        """The best value of what is monitored; NaN where there is none, or the trial failed."""
        if self.problem or not self.columns:
            return math.nan
        best = np.nanmax if self.config.metric.mode == "max" else np.nanmin
        return float(best(self.columns[self.monitor]))

    @property
    def problem(self) -> str:
        if self.failure or not self.columns:
            return self.failure
        ended_well = np.isfinite(self.columns["train/loss"][-1]) and has_values(self.columns, self.monitor)
        return "" if ended_well else "diverged: the loss is no longer a number"


def short(tried: Sequence[str]) -> list[str]:
    """`optimizer.lr=0.1` as `lr=0.1`."""
    return [re.sub(r"^[+~]*(\w+\.)*", "", text.partition("=")[0]) + "=" + text.partition("=")[2] for text in tried]
