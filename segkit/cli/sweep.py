"""`segkit sweep`: lists the sweeps, or shows what one of them has found so far. The sweep itself is left unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from segkit.config.commands import SweepResults
from segkit.system.errors import SegkitError, nearest
from segkit.system.page import Table
from segkit.system.progress import console
from segkit.training.sweeps.names import all_sweeps, find_sweep
from segkit.training.sweeps.plots import FEWEST, draw_sweep, importances, n_top
from segkit.training.sweeps.results import Sweep, means_table, read_sweep, trials_table
from segkit.training.sweeps.ties import tie_line

MAX_ROWS, MAX_FAILURES, MAX_WIDTH = 30, 10, 2000
STYLES = {"pruned": "dim", "waiting": "dim", "failed": "red", "running": "green", "interrupted": "yellow"}


def command(cfg: SweepResults) -> None:
    """List the sweeps, or show one. Raises `SegkitError` for mistakes of input."""
    words = [cfg.words] if isinstance(cfg.words, str) else list(cfg.words or ())
    output_dir = Path(cfg.output_dir).expanduser()
    if not words:
        overview(output_dir)
        return
    if words[0] != "show":
        hint = nearest(words[0], ["show"], "segkit sweep ") or f"segkit sweep show {words[0]}"
        raise SegkitError(f"segkit sweep {words[0]} is not a valid command;   {hint}")
    if len(words) != 2:
        raise SegkitError(f"show takes the name of one sweep, and got {len(words) - 1};   segkit sweep  lists them")
    show(words[1], output_dir, cfg.storage, cfg.all)


def overview(output_dir: Path) -> None:
    folders = all_sweeps(output_dir)
    if not folders:
        console.print(f"no sweep in {output_dir};   segkit train -m optimizer.lr=1e-3,1e-4  makes one", markup=False)
        return
    print_table(Table(["sweep", "trials", "best", "folder"], [], [_overview_row(folder) for folder in folders]))
    console.print("segkit sweep show NAME   shows one of them", markup=False)


def _overview_row(folder: Path) -> list[str]:
    try:
        sweep = read_sweep(folder)
    except SegkitError as error:
        return [folder.name, str(error).partition(";")[0], "", str(folder)]
    best = ", ".join(
        f"{name} {value:.4g}" for trial in sweep.ranked[:1] for name, value in zip(sweep.objectives, trial.values, strict=True)
    )
    return [sweep.name, sweep.counts, best if len(sweep.objectives) == 1 else f"{len(sweep.front)} on the front", str(folder)]


def show(name: str, output_dir: Path, storage: str | None = None, is_whole: bool = False) -> None:
    """Tables, importance and failures of one sweep."""
    sweep = read_sweep(find_sweep(name, output_dir), storage)
    console.print(f"sweep      {sweep.folder}\ntrials     {sweep.counts}", markup=False)
    if not sweep.trials:
        return
    print_table(trials_table(sweep), None if is_whole else MAX_ROWS, [STYLES.get(trial.state, "") for trial in sweep.in_order])
    if means := means_table(sweep):
        print_table(means, MAX_ROWS)
    tie = tie_line(sweep)
    for line in [*([f"tie        {tie}"] if tie else []), *importance_lines(sweep, importances(sweep)), *failure_lines(sweep)]:
        console.print(line, markup=False)
    written = [path.name for path in draw_sweep(sweep)]
    console.print(f"written    {', '.join(written[:-1])}\npage       {sweep.folder / written[-1]}", markup=False)


def print_table(table: Table, limit: int | None = None, styles: Sequence[str] = ()) -> None:
    """As wide as its content, whatever the terminal, so that a row stays on one line."""
    left = len(table.rows) - len(table.rows[:limit])
    more = [f"and {left} more;   all=true shows them, sweep.html and trials.csv have them"] if left else []
    caption = escape("\n".join([*more, *table.notes])) or None
    rich = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    for heading in table.headings:
        rich.add_column(escape(heading), justify="right" if heading in table.numbers else "left", no_wrap=True)
    for i, row in enumerate(table.rows[:limit]):
        rich.add_row(*map(escape, row), style=styles[i] if styles else None)
    rich.width = console.measure(rich, options=console.options.update(width=MAX_WIDTH)).maximum
    console.print(rich, crop=False, no_wrap=True, overflow="ignore")


def importance_lines(sweep: Sweep, shares: Mapping[str, Mapping[str, float]]) -> list[str]:
    n = len(sweep.of("finished"))
    if not shares:
        few = n < FEWEST and len(sweep.keys) > 1
        return [f"importance needs {FEWEST} finished trials; there are {n}"] if few else []
    lines = [f"importance which keys set the best {n_top(n)} of {n} finished trials apart (PED-ANOVA)"]
    for name, of_keys in shares.items():
        lines.append(f"  {name}   " + "  ".join(f"{sweep.keys[key]} {share:.2f}" for key, share in of_keys.items()))
    return lines


def failure_lines(sweep: Sweep) -> list[str]:
    """Reasons, and the paths of the tracebacks."""
    failed = sweep.of("failed")
    lines = [f"failed     {len(failed)};   the same command runs those once more that did not end"] if failed else []
    for trial in failed[:MAX_FAILURES]:
        traceback = trial.path / "traceback.txt"
        lines.append(f"  trial {trial.number}   {trial.reason or 'reason unknown'};   {traceback if traceback.exists() else trial.path}")
    return [*lines, *([f"  and {len(failed) - MAX_FAILURES} more"] if len(failed) > MAX_FAILURES else [])]
