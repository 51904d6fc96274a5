"""What a report reads of a run folder: whatever is there, of a run that is going on, was stopped, failed or has finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segkit.inference.examples import Shown, read_examples
from segkit.metrics import calibration
from segkit.metrics.base import known_as
from segkit.metrics.calibration import Calibration
from segkit.metrics.summary import OVERALL, Line, Summary, Tree, interval, unit
from segkit.metrics.table import SUMMARY, TABLE, CaseTable
from segkit.system.errors import SegkitError
from segkit.system.plain import fitted, read_json, read_lines, read_yaml
from segkit.training.config_hash import flat
from segkit.training.plots import Columns, duration, read_columns
from segkit.training.run_folder import RunFolder

STATES = {
    "running": ("This run is still going: the page shows what there is so far.", "warning"),
    "interrupted": ("This run was stopped before its end: the page shows what there is.", "warning"),
    "pruned": ("The pruner of its sweep stopped this run: the page shows what there is.", "warning"),
    "failed": ("This run failed: the page shows what there is.", "error"),
    "killed": ("This run was killed: the page shows what there is.", "error"),
    "unknown": ("This run has not begun.", "warning"),
}


@dataclass(frozen=True)
class Evaluated:
    """One evaluation: its name, its lines, and its table as written, whose statistics are plain means of the columns."""

    name: str
    summary: Summary
    table: CaseTable
    folder: Path


@dataclass(frozen=True)
class Run:
    """A run folder. Raises SegkitError where a file of it is damaged, as its parts are read when they are asked for."""

    path: Path

    @classmethod
    def named(cls, place: str | Path) -> Run:
        """The run of a folder. SegkitError where it is none."""
        path = Path(place).expanduser()
        if not (path / "config.yaml").is_file():
            what = "is no run folder (it has no config.yaml)" if path.is_dir() else "does not exist"
            raise SegkitError(f"{path} {what};   segkit report outputs/EXPERIMENT/RUN")
        return cls(path)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def name(self) -> str:
        return f"{self.config.get('name') or self.path.absolute().parent.name}/{self.path.absolute().name}"

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_yaml(self.path / "config.yaml")

    @cached_property
    def leaves(self) -> dict[str, Any]:
        return dict(flat(self.config))

    def section(self, name: str) -> Mapping[str, Any]:
        found = self.config.get(name)
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def status(self) -> dict[str, Any]:
        return self.folder.status

    @property
    def state(self) -> str:
        """As in status.json; `killed` where the process that is said to run is gone."""
        state = str(self.status.get("state", "unknown"))
        return "killed" if state == "running" and not self.folder.is_alive() else state

    @cached_property
    def columns(self) -> Columns:
        """metrics.csv by column; empty where no epoch has ended."""
        path = self.path / "metrics.csv"
        return read_columns(path) if path.is_file() and path.stat().st_size else {}

    @cached_property
    def split(self) -> dict[str, Any]:
        return read_json(self.path / "split.json")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return read_json(self.path / "provenance.json")

    @property
    def sessions(self) -> Sequence[Mapping[str, Any]]:
        return list(self.provenance.get("sessions", []))

    @cached_property
    def overrides(self) -> list[str]:
        path = self.path / "overrides.yaml"
        return read_lines(path) if path.is_file() else []

    @property
    def monitor(self) -> str:
        return str(self.section("metric").get("monitor", "dice"))

    @property
    def mode(self) -> str:
        return str(self.section("metric").get("mode", "max"))

    # --- results ------------------------------------------------------------------------------------------------------

    @cached_property
    def evaluation(self) -> Evaluated | None:
        """That of the validation cases at the end of the training; None before."""
        return evaluated(self.path, "validation")

    @cached_property
    def others(self) -> list[Evaluated]:
        """Further evaluations in the folder: the test subset, the benchmark, and those of `segkit evaluate`."""
        folders = sorted({path.parent for pattern in ("*", "evaluation/*") for path in self.path.glob(f"{pattern}/{SUMMARY}")})
        found = [evaluated(folder, str(folder.relative_to(self.path))) for folder in folders]
        return [one for one in found if one and one.name != "evaluation/val"]

    @property
    def examples(self) -> list[Shown]:
        return [one for one in read_examples(self.path) if one.path.is_file()]

    @property
    def calibration(self) -> Calibration:
        return Calibration.from_csv(self.path / calibration.TABLE)

    @property
    def result(self) -> Line | None:
        """The line of the monitored statistic; of a run that monitors its loss that of the first statistic."""
        lines = self.evaluation.summary.lines if self.evaluation else ()
        of_all = [line for line in lines if line.class_name == OVERALL]
        wanted = known_as(self.monitor.split("/")[0], {line.statistic for line in of_all})
        return next((line for line in of_all if line.statistic == wanted), of_all[0] if of_all else None)

    @property
    def result_text(self) -> str:
        return f"{self.result.statistic} {value_text(self.result)}, n = {self.result.n}" if self.result else ""

    # --- costs --------------------------------------------------------------------------------------------------------

    @property
    def epochs(self) -> int:
        return len(self.columns.get("epoch", ()))

    @property
    def seconds(self) -> float:
        return float(np.nansum(self.columns.get("seconds", 0.0)))

    @property
    def time(self) -> str:
        return duration(self.seconds) if self.epochs else ""

    @property
    def parameters(self) -> str:
        n = self.status.get("parameters")
        return f"{n:,}" if isinstance(n, int) else ""


def evaluated(folder: Path, name: str) -> Evaluated | None:
    """The evaluation in a folder; None where there is none."""
    if not (folder / SUMMARY).is_file() or not (folder / TABLE).is_file():
        return None
    path = folder / SUMMARY
    summary = Summary.from_dict(fitted(path, read_json(path).get("results") or {}, Tree))
    return Evaluated(name, summary, CaseTable.from_csv(folder / TABLE), folder)


def value_text(line: Line) -> str:
    """The mean with its interval."""
    return f"{unit(line.statistic)(line.mean)} {interval(line)}"
