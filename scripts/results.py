"""Train and evaluate the presets on real samples, and write the table of results in README.

    SEGKIT_DATA=FOLDER python scripts/results.py              # all rows whose data are there
    SEGKIT_DATA=FOLDER python scripts/results.py fetal_head   # rows by name
    python scripts/results.py fetal_head --dry                # its commands alone

FOLDER holds hc18, chest_xray, em_membrane, gi_tract and hippocampus, each in its original layout, of any size. What is finished
is not trained again, an interrupted run is resumed. Numbers are read from the case tables: the mean over the validation cases of
all folds, with the 95 % bootstrap interval over groups. Minutes are the training's: epochs times their median duration, validation
included, summed over folds. Rows whose outputs are not there stay as README has them.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
OUT = "outputs/results"
README = REPOSITORY / "README.md"
HEAD = (
    "| preset (or row name) and overrides | data | n | Dice | other metric | training time | published |",
    "|---|---|---|---|---|---|---|",
)
BEGIN, END = "<!-- results: written by scripts/results.py -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Result:
    """A row of the table; results.yaml explains the keys."""

    name: str
    cases: str
    preset: str = ""
    data: str = ""
    keys: Sequence[str] = ()
    folds: int = 0
    metric: str = ""
    published: str = ""
    note: str = ""
    members: Sequence[str] = ()
    benchmark: str = ""
    benchmark_note: str = ""
    benchmark_labels: Mapping[str, str] = field(default_factory=dict)
    phantom: Sequence[str] = ()

    def runs(self) -> list[str]:
        return [f"fold{i}" for i in range(self.folds)] or ["seed0"]

    def commands(self, root: str) -> list[list[str]]:
        experiment = f"experiment={self.preset or self.name}"
        where = [f"data.root={root}/{self.data}"] if self.data else []
        if self.members:
            keys = [f"members.{letter}.ckpt={OUT}/{member}/seed0" for letter, member in zip("abcdef", self.members, strict=False)]
            return [["evaluate", experiment, *keys, f"output={OUT}/{self.name}/seed0"]]
        if self.benchmark:
            labels = ", ".join(f"{theirs}: {ours}" for theirs, ours in self.benchmark_labels.items())
            where += [f"benchmark.root={root}/{self.benchmark}", f"benchmark.labels={{{labels}}}"]
        folds = [["split=kfold", f"split.n_folds={self.folds}", f"split.fold={i}"] for i in range(self.folds)] or [[]]
        common = ["train", experiment, *where, *self.keys, f"output_dir={OUT}", f"name={self.name}", "resume=auto"]
        written = [["phantom", *self.phantom]] if self.phantom else []
        return [*written, *([*common, *fold, f"run={run}"] for fold, run in zip(folds, self.runs(), strict=True))]


ROWS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
RESULTS = [Result(name, **keys) for name, keys in ROWS.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="rows to make; all without")
    parser.add_argument("--dry", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--table", action="store_true", help="train nothing: the table of what is there")
    args = parser.parse_args()
    if unknown := set(args.names) - {result.name for result in RESULTS}:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(result.name for result in RESULTS)}")
    root = os.environ.get("SEGKIT_DATA", "../shared/data")
    wanted = [result for result in RESULTS if not args.names or result.name in args.names]
    os.chdir(REPOSITORY)
    for result in wanted:
        if args.table or (result.data and not args.dry and not Path(root, result.data).is_dir()):
            continue
        for command in result.commands("$SEGKIT_DATA" if args.dry else root):
            print("segkit", *(shlex.quote(word).replace("$SEGKIT_DATA", "'$SEGKIT_DATA'") for word in command), flush=True)
            if not args.dry and (code := segkit(command)):
                return code
    if not args.dry:
        write({result.name: rows_of(result) for result in RESULTS})
    return 0


def segkit(command: list[str]) -> int:
    if command[0] == "phantom" and Path(OUT, "pelvis_phantom").is_dir():
        return 0
    return subprocess.run([sys.executable, "-m", "segkit", *command]).returncode


def rows_of(result: Result) -> list[str]:
    """Lines of the table; none where a fold lacks."""
    from segkit.training.sweeps.folds import out_of_fold

    folders = [Path(OUT, result.name, run) for run in result.runs()]
    if not all((folder / "summary.json").is_file() for folder in folders):
        return []
    table = out_of_fold(folders)
    table.to_csv(Path(OUT, result.name, "cases.csv"))
    minutes = sum(minutes_of(folder) for folder in folders)
    how = f"{result.folds} folds" if result.folds else "hold-out"
    keys = "".join(f" `{key}`" for key in result.keys if key.startswith(("trainer.max_epochs", "model.")))
    took = f"{minutes:.0f} min" if minutes else ""
    lines = table_lines(
        table, f"`{result.name}`{keys}", f"{result.cases}, {how}{result.note and f'; {result.note}'}", result.metric, took, result.published
    )
    if result.benchmark:
        lines.append(benchmark_line(folders, f"`{result.name}`", result.benchmark_note))
    return lines


def benchmark_line(folders: list[Path], name: str, note: str) -> str:
    """Every fold's network has seen none of its images: the mean over folds, and their range."""
    from segkit.metrics.table import read_table

    summaries = [read_table(folder / "benchmark").summary() for folder in folders]
    cells = []
    for class_name in dict.fromkeys(line.class_name for line in summaries[0].lines):
        means = [summary.line("dice", class_name).mean for summary in summaries]
        cells.append(f"{class_name} {statistics.mean(means):.3f} ({min(means):.3f} to {max(means):.3f})")
    n = summaries[0].line("dice").n
    return f"| {name}, other hospitals | the same networks on {n} {note} | {n} | {'; '.join(cells)} | | | |"


def table_lines(table, name: str, on: str, metric: str, minutes: str, published: str) -> list[str]:  # type: ignore[no-untyped-def]
    summary = table.summary()
    task = summary.line(metric) if metric else None
    shown = f"{metric} {task.mean:.3g} [{task.low:.3g}, {task.high:.3g}]" if task else ""
    overall = summary.line("dice")
    classes = [f"{class_name} {summary.line('dice', class_name).mean:.3f}" for class_name in table.classes]
    dice = "; ".join([interval(overall), *(classes if len(classes) > 1 else ())])
    return [f"| {name} | {on} | {overall.n} | {dice} | {shown} | {minutes} | {published} |"]


def interval(line) -> str:  # type: ignore[no-untyped-def]
    return f"{line.mean:.3f} [{line.low:.3f}, {line.high:.3f}]"


def minutes_of(run: Path) -> float:
    path = run / "metrics.csv"
    if not path.is_file():
        return 0.0
    with path.open(newline="") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    return len(seconds) * statistics.median(seconds) / 60


def write(rows: dict[str, list[str]]) -> None:
    """Between the two marks in README; what was not made here stays as it stands there."""
    text = README.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{README} lacks the lines\n  {BEGIN}\n  {END}")
    there: dict[str, list[str]] = {}
    for line in old.strip().splitlines()[2:]:
        name = line.split("`")[1] if line.startswith("| `") else next(reversed(there), "")
        there.setdefault(name, []).append(line)
    lines = [line for name, new in rows.items() for line in new or there.get(name, [])]
    table = "\n".join([*HEAD, *lines])
    print(table)
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
