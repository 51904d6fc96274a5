"""Tables of a sweep as text: for the console, for sweep.html and as trials.csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from segkit.training.sweeps.names import shown
from segkit.training.sweeps.results import Sweep, Trial, repeats, settings


@dataclass(frozen=True)
class Table:
    """Headings and rows. `numbers`: headings of right-aligned columns."""

    headings: Sequence[str]
    numbers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def trials_table(sweep: Sweep) -> Table:
    """One row a trial in the order of `Sweep.in_order`, best first."""
    objectives = [f"{name} ({mode})" for name, mode in sweep.objectives.items()] or ["own metric"]
    headings = ["rank", "trial", *objectives, *sweep.keys.values(), "state", "seconds", "epochs", "folder"]
    rows = [_cells(sweep, trial, rank) for rank, trial in enumerate(sweep.in_order, 1)]
    return Table(headings, ["rank", "trial", *objectives, "seconds", "epochs"], rows, _notes(sweep))


def _cells(sweep: Sweep, trial: Trial, rank: int) -> list[str]:
    values = [_value(sweep, trial, i) for i in range(len(sweep.objectives))] or [trial.own_score]
    keys = [shown(trial.keys.get(key, "")) for key in sweep.keys]
    numbers = [f"{trial.seconds:.0f}", str(trial.epochs)]
    return [sweep.place(trial, rank), str(trial.number), *values, *keys, trial.state, *numbers, trial.folder]


def _value(sweep: Sweep, trial: Trial, objective: int) -> str:
    """In brackets unless it is final."""
    score, is_final = sweep.score(trial, objective)
    return "" if math.isnan(score) else f"{score:.4g}" if is_final else f"({score:.4g})"


def _notes(sweep: Sweep) -> list[str]:
    lines = []
    if any(not trial.values and not math.isnan(sweep.score(trial, 0)[0]) for trial in sweep.trials if sweep.objectives):
        lines.append("in brackets: the best epoch of a trial that has not finished")
    if len(sweep.objectives) > 1:
        lines.append("front: no other trial is better in all objectives")
    if not sweep.objectives:
        lines.append("no ranks: the trials are judged by different metrics")
    return lines


def means_table(sweep: Sweep) -> Table | None:
    """Means over seeds and folds, the best setting first; None where no setting has been repeated."""
    found = settings(sweep)
    if not found:
        return None
    numbers = [f"{name} {what}" for name in sweep.objectives for what in ("mean", "SD")]
    labels = [sweep.keys[key] for key in found[0].keys]
    rows = []
    for setting in found:
        pairs = zip(setting.means, setting.sds, strict=True)
        values = [text for mean, sd in pairs for text in (f"{mean:.4g}", "-" if math.isnan(sd) else f"{sd:.2g}")]
        rows.append([*map(shown, setting.keys.values()), *values, str(setting.n)])
    note = f"means over {' and '.join(repeats(sweep))}, of finished trials; SD between them, n - 1"
    return Table([*labels, *numbers, "n"], [*numbers, "n"], rows, [note])


def trials_csv(sweep: Sweep) -> str:
    """One row a trial, best first, with the values in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", *sweep.objectives, *sweep.keys, "seconds", "epochs", "folder", "reason"])
    for trial in sweep.in_order:
        values = trial.values or [""] * len(sweep.objectives)
        keys = [trial.keys.get(key, "") for key in sweep.keys]
        writer.writerow([trial.number, trial.state, *values, *keys, round(trial.seconds, 2), trial.epochs, trial.folder, trial.reason])
    return text.getvalue()
