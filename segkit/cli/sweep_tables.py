"""Tables of a sweep for the console."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from segkit.system.errors import SegkitError
from segkit.system.progress import console
from segkit.training.sweeps.importance import FEWEST, n_top
from segkit.training.sweeps.names import shown
from segkit.training.sweeps.repeats import repeats, settings
from segkit.training.sweeps.results import Sweep, Trial, read_sweep

MOST = 30
"""Rows of a table that is not asked for as a whole."""
FAILURES = 10
WIDEST = 2000
STYLES = {"pruned": "dim", "waiting": "dim", "failed": "red", "running": "green", "broken off": "yellow"}


def print_table(table: Table) -> None:
    """As wide as it is, whatever the terminal: a row stays in one line."""
    table.width = console.measure(table, options=console.options.update(width=WIDEST)).maximum
    console.print(table, crop=False, no_wrap=True, overflow="ignore")


def new_table(texts: Sequence[str], numbers: Sequence[str], caption: Sequence[str] = ()) -> Table:
    """`numbers` are headings of columns that stand to the right; `texts` all headings, in their order."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=escape("\n".join(caption)) or None, caption_justify="left")
    for heading in texts:
        table.add_column(escape(heading), justify="right" if heading in numbers else "left", no_wrap=True)
    return table


def overview_table(folders: Sequence[Path]) -> Table:
    table = new_table(["sweep", "trials", "best", "folder"], [])
    for folder in folders:
        try:
            sweep = read_sweep(folder)
            best = ", ".join(
                f"{name} {value:.4g}" for trial in sweep.ranked[:1] for name, value in zip(sweep.objectives, trial.values, strict=True)
            )
            cells = [sweep.name, sweep.counts, best if len(sweep.objectives) == 1 else f"{len(sweep.front)} on the front", str(folder)]
        except SegkitError as error:
            cells = [folder.name, str(error).partition(";")[0], "", str(folder)]
        table.add_row(*map(escape, cells))
    return table


def trials_table(sweep: Sweep, most: int) -> Table:
    objectives = [f"{name} ({mode})" for name, mode in sweep.objectives.items()] or ["judged by"]
    headings = ["rank", "trial", *objectives, *sweep.keys.values(), "state", "seconds", "epochs", "folder"]
    table = new_table(headings, ["rank", "trial", *objectives, "seconds", "epochs"], notes(sweep, most))
    for rank, trial in enumerate(sweep.in_order[:most], 1):
        table.add_row(*map(escape, cells(sweep, trial, rank)), style=STYLES.get(trial.state))
    return table


def cells(sweep: Sweep, trial: Trial, rank: int) -> list[str]:
    values = [value(sweep, trial, i) for i in range(len(sweep.objectives))] or [trial.judged_by]
    keys = [shown(trial.keys.get(key, "")) for key in sweep.keys]
    return [
        sweep.place(trial, rank),
        str(trial.number),
        *values,
        *keys,
        trial.state,
        f"{trial.seconds:.0f}",
        str(trial.epochs),
        trial.folder,
    ]


def value(sweep: Sweep, trial: Trial, objective: int) -> str:
    """In brackets where it is not the last word."""
    score, is_final = sweep.score(trial, objective)
    return "" if math.isnan(score) else f"{score:.4g}" if is_final else f"({score:.4g})"


def notes(sweep: Sweep, most: int) -> list[str]:
    lines = []
    if len(sweep.trials) > most:
        lines.append(f"and {len(sweep.trials) - most} more;   all=true shows them, sweep.html and trials.csv have them")
    if any(sweep.score(trial, 0)[0] > -math.inf for trial in sweep.in_order[:most] if not trial.values and sweep.objectives):
        lines.append("in brackets: the best epoch of a trial that has not finished")
    if not sweep.objectives:
        lines.append("no ranks: the trials are judged by different metrics")
    return lines


def means_table(sweep: Sweep) -> Table | None:
    """Over seeds and folds, the best setting first; None where none has been repeated."""
    found = settings(sweep)
    if not found:
        return None
    numbers = [f"{name} {what}" for name in sweep.objectives for what in ("mean", "SD")]
    labels = [sweep.keys[key] for key in found[0].keys]
    over = f"means over {' and '.join(repeats(sweep))}, of finished trials; SD between them, n - 1"
    more = [f"and {len(found) - MOST} more settings"] if len(found) > MOST else []
    table = new_table([*labels, *numbers, "n"], [*numbers, "n"], [over, *more])
    for setting in found[:MOST]:
        pairs = zip(setting.means, setting.sds, strict=True)
        values = [text for mean, sd in pairs for text in (f"{mean:.4g}", "-" if math.isnan(sd) else f"{sd:.2g}")]
        table.add_row(*map(escape, [*map(shown, setting.keys.values()), *values, str(setting.n)]))
    return table


def importance_lines(sweep: Sweep, shares: Mapping[str, Mapping[str, float]]) -> list[str]:
    n = len(sweep.of("finished"))
    if not shares:
        few = n < FEWEST and len(sweep.keys) > 1
        return [f"importance said from {FEWEST} finished trials on; there are {n}"] if few else []
    lines = [f"importance what sets the best {n_top(n)} of {n} finished trials apart (PED-ANOVA)"]
    for name, of_keys in shares.items():
        lines.append(f"  {name}   " + "  ".join(f"{sweep.keys[key]} {share:.2f}" for key, share in of_keys.items()))
    return lines


def failed_lines(sweep: Sweep) -> list[str]:
    """Why, and where the traceback lies."""
    failed = sweep.of("failed")
    lines = [f"failed     {len(failed)};   the same command takes up what broke off"] if failed else []
    for trial in failed[:FAILURES]:
        traceback = trial.path / "traceback.txt"
        lines.append(f"  trial {trial.number}   {trial.reason or 'no reason told'};   {traceback if traceback.exists() else trial.path}")
    return [*lines, *([f"  and {len(failed) - FAILURES} more"] if len(failed) > FAILURES else [])]
