"""`segkit sweep`: lists the sweeps, or shows what one of them has found so far. The sweep itself is left unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from segkit.system.errors import SegkitError, nearest, plain_command
from segkit.system.progress import console

if TYPE_CHECKING:
    from segkit.training.sweeps.results import Sweep
    from segkit.training.sweeps.tables import Table

HELP = """\
segkit sweep [output_dir=outputs]
  list all sweeps with their counts

segkit sweep show NAME [output_dir=outputs] [storage=URL] [all=true]
  NAME: of the sweep, EXPERIMENT/NAME, or its folder. Prints the table so far, best first, means over seeds and folds, the importance
  of the keys, and failures with their reasons. Writes figures (history, parallel, importance, curves, pareto), trials.csv and
  sweep.html into its folder.
  storage: the database, where it has a password, which the sweep's folder does not keep.  all=true: every row of a long table."""
KEYS = ("output_dir", "storage", "all")
MAX_ROWS, MAX_FAILURES, MAX_WIDTH = 30, 10, 2000
STYLES = {"pruned": "dim", "waiting": "dim", "failed": "red", "running": "green", "interrupted": "yellow"}


@dataclass(frozen=True)
class Request:
    name: str | None
    output_dir: Path = Path("outputs")
    storage: str | None = None
    all: bool = False


@plain_command("sweep", HELP)
def main(argv: Sequence[str] = ()) -> int:
    """Exit code 0, or 2 for mistakes of input."""
    request = parse(argv)
    return show(request) if request.name else overview(request)


def parse(argv: Sequence[str]) -> Request:
    keys = dict(word.split("=", 1) for word in argv if word.partition("=")[0] in KEYS and "=" in word)
    words = [word for word in argv if "=" not in word or word.partition("=")[0] not in KEYS]
    if wrong := [word for word in words if "=" in word and not Path(word).exists()]:
        raise SegkitError(f"{wrong[0]}: no such key; {nearest(wrong[0].partition('=')[0], KEYS) or 'segkit sweep --help'}")
    if keys.get("all", "true") not in ("true", "false"):
        raise SegkitError(f"all={keys['all']} must be true or false")
    if words and words[0] != "show":
        hint = nearest(words[0], ["show"], "segkit sweep ") or f"segkit sweep show {words[0]}"
        raise SegkitError(f"there is no segkit sweep {words[0]};   {hint}")
    if words and len(words) != 2:
        raise SegkitError(f"show takes the name of one sweep, and got {len(words) - 1};   segkit sweep  lists them")
    where = {"output_dir": Path(keys["output_dir"]).expanduser()} if "output_dir" in keys else {}
    return Request(words[1] if words else None, storage=keys.get("storage"), all=keys.get("all") == "true", **where)


def overview(request: Request) -> int:
    """One line a sweep."""
    from segkit.training.sweeps.names import all_sweeps
    from segkit.training.sweeps.tables import Table

    folders = all_sweeps(request.output_dir)
    if not folders:
        console.print(f"no sweep in {request.output_dir};   segkit train -m optimizer.lr=1e-3,1e-4  makes one", markup=False)
        return 0
    print_table(Table(["sweep", "trials", "best", "folder"], [], [_overview_row(folder) for folder in folders]))
    console.print("segkit sweep show NAME   shows one of them", markup=False)
    return 0


def _overview_row(folder: Path) -> list[str]:
    from segkit.training.sweeps.results import read_sweep

    try:
        sweep = read_sweep(folder)
    except SegkitError as error:
        return [folder.name, str(error).partition(";")[0], "", str(folder)]
    best = ", ".join(
        f"{name} {value:.4g}" for trial in sweep.ranked[:1] for name, value in zip(sweep.objectives, trial.values, strict=True)
    )
    return [sweep.name, sweep.counts, best if len(sweep.objectives) == 1 else f"{len(sweep.front)} on the front", str(folder)]


def show(request: Request) -> int:
    """Tables, importance and failures of one sweep."""
    from segkit.training.sweeps.names import find_sweep
    from segkit.training.sweeps.plots import draw_sweep, importances
    from segkit.training.sweeps.results import read_sweep
    from segkit.training.sweeps.tables import means_table, trials_table

    sweep = read_sweep(find_sweep(str(request.name), request.output_dir), request.storage)
    console.print(f"sweep      {sweep.folder}\ntrials     {sweep.counts}", markup=False)
    if not sweep.trials:
        return 0
    print_table(trials_table(sweep), None if request.all else MAX_ROWS, [STYLES.get(trial.state, "") for trial in sweep.in_order])
    if means := means_table(sweep):
        print_table(means, MAX_ROWS)
    for line in [*importance_lines(sweep, importances(sweep)), *failure_lines(sweep)]:
        console.print(line, markup=False)
    written = [path.name for path in draw_sweep(sweep)]
    console.print(f"written    {', '.join(written[:-1])}\npage       {sweep.folder / written[-1]}", markup=False)
    return 0


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
    from segkit.training.sweeps.plots import FEWEST, n_top

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
