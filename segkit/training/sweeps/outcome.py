"""How a trial ended, read from its run folder: the truth that the study is told."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segkit.system.errors import nearest
from segkit.training.run_folder import read_json

Row = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """`values` in the order of the objectives. `reason`: one line, of what failed."""

    state: Literal["finished", "pruned", "failed"]
    values: tuple[float, ...] = ()
    reason: str = ""


def read_outcome(run: Path, objectives: Mapping[str, str]) -> Outcome | None:
    """None where the run has not come to its end. Objectives are columns of metrics.csv without `val/`, `seconds` of training, or
    what costs.json has."""
    match read_json(run / "status.json").get("state"):
        case "pruned":
            return Outcome("pruned")
        case "finished":
            try:
                return Outcome("finished", values(run, objectives))
            except ValueError as error:
                return Outcome("failed", reason=str(error))
    return None


def values(run: Path, objectives: Mapping[str, str]) -> tuple[float, ...]:
    """At the epoch where the first measured objective is best. ValueError names an objective that is missing or NaN."""
    rows = read_rows(run / "metrics.csv")
    totals = {**read_json(run / "costs.json"), "seconds": sum(row["seconds"] for row in rows)}
    measured = [name for name in objectives if name not in totals]
    known = {name.removeprefix("val/") for row in rows for name in row if name.startswith("val/")} | set(totals)
    for name in objectives:
        if name not in known:
            raise ValueError(f"objective {name} is not logged; {nearest(name, known) or 'there is ' + ', '.join(sorted(known))}")
    best = best_row(rows, measured[0], objectives[measured[0]]) if measured else {}
    found = tuple(float(totals[name]) if name in totals else best.get(f"val/{name}", math.nan) for name in objectives)
    for name, value in zip(objectives, found, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"objective {name} is {value}")
    return found


def best_row(rows: list[Row], name: str, mode: str) -> Row:
    """NaN never is the best."""
    scored = [row for row in rows if not math.isnan(row.get(f"val/{name}", math.nan))]
    if not scored:
        raise ValueError(f"objective {name} is NaN in every epoch")
    return (max if mode == "max" else min)(scored, key=lambda row: row[f"val/{name}"])


def read_rows(path: Path) -> list[Row]:
    """Epochs without a validation lack its columns."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
