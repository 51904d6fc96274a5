"""`segkit sweep`: the sweeps there are, and what one of them has found so far. Reads, and leaves the sweep as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit.system.errors import SegkitError, nearest, plain_command

HELP = """\
segkit sweep [output_dir=outputs]
  the sweeps there are, with their counts

segkit sweep show NAME [output_dir=outputs] [storage=URL] [all=true]
  NAME: of the sweep, EXPERIMENT/NAME, or its folder. Table so far, best first; means over seeds and folds; importance of the keys;
  what failed and why. Writes history.png, parallel.png, importance.png, curves.png, trials.csv and sweep.html into its folder.
  storage: the database, where it has a password, which the sweep's folder does not keep.  all=true: every row of a long table."""
KEYS = ("output_dir", "storage", "all")


@dataclass(frozen=True)
class Request:
    name: str | None
    output_dir: Path = Path("outputs")
    storage: str | None = None
    all: bool = False


@plain_command("sweep", HELP)
def main(argv: Sequence[str] = ()) -> int:
    """Exit code 0, or 2 for what is not understood or not there."""
    request = parse(argv)
    return show(request) if request.name else overview(request)


def parse(argv: Sequence[str]) -> Request:
    keys = dict(word.split("=", 1) for word in argv if word.partition("=")[0] in KEYS and "=" in word)
    words = [word for word in argv if "=" not in word or word.partition("=")[0] not in KEYS]
    if wrong := [word for word in words if "=" in word and not Path(word).exists()]:
        raise SegkitError(f"{wrong[0]} is not understood; {nearest(wrong[0].partition('=')[0], KEYS) or 'segkit sweep --help'}")
    if keys.get("all", "true") not in ("true", "false"):
        raise SegkitError(f"all={keys['all']} must be true or false")
    if words and words[0] != "show":
        fix = nearest(words[0], ["show"], "segkit sweep ") or f"segkit sweep show {words[0]}"
        raise SegkitError(f"there is no segkit sweep {words[0]};   {fix}")
    if words and len(words) != 2:
        raise SegkitError(f"show takes the name of one sweep, and got {len(words) - 1};   segkit sweep  lists them")
    where = {"output_dir": Path(keys["output_dir"]).expanduser()} if "output_dir" in keys else {}
    return Request(words[1] if words else None, storage=keys.get("storage"), all=keys.get("all") == "true", **where)


def overview(request: Request) -> int:
    from segkit.cli.sweep_tables import overview_table, print_table
    from segkit.system.progress import console
    from segkit.training.sweeps.find import all_sweeps

    folders = all_sweeps(request.output_dir)
    if not folders:
        console.print(f"no sweep in {request.output_dir};   segkit train -m optimizer.lr=1e-3,1e-4  makes one", markup=False)
        return 0
    print_table(overview_table(folders))
    console.print("segkit sweep show NAME   shows one of them", markup=False)
    return 0


def show(request: Request) -> int:
    from segkit.cli import sweep_tables
    from segkit.system.progress import console
    from segkit.training.sweeps.find import find_sweep
    from segkit.training.sweeps.importance import importances
    from segkit.training.sweeps.pictures import draw
    from segkit.training.sweeps.results import read_sweep

    sweep = read_sweep(find_sweep(str(request.name), request.output_dir), request.storage)
    console.print(f"sweep      {sweep.folder}\ntrials     {sweep.counts}", markup=False)
    if not sweep.trials:
        return 0
    sweep_tables.print_table(sweep_tables.trials_table(sweep, len(sweep.trials) if request.all else sweep_tables.MOST))
    if means := sweep_tables.means_table(sweep):
        sweep_tables.print_table(means)
    for line in [*sweep_tables.importance_lines(sweep, importances(sweep)), *sweep_tables.failed_lines(sweep)]:
        console.print(line, markup=False)
    written = [path.name for path in draw(sweep)]
    console.print(f"written    {', '.join(written[:-1])}\npage       {sweep.folder / written[-1]}", markup=False)
    return 0
