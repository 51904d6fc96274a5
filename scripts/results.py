"""Train and evaluate the presets on real samples, and write the table of results in README.

    SEGKIT_DATA=FOLDER python scripts/results.py              # all rows whose data are there
    SEGKIT_DATA=FOLDER python scripts/results.py fetal_head   # rows by name
    python scripts/results.py fetal_head --dry                # its commands alone

FOLDER holds hc18, chest_xray, em_membrane, gi_tract and hippocampus, each in its original layout, of any size. What is finished
is not trained again, an interrupted run goes on. Numbers are read from the case tables: the mean over the validation cases of
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
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
OUT = "outputs/results"
README = REPOSITORY / "README.md"
HEAD = ("| preset | data | n | Dice | task metric | training | published |", "|---|---|---|---|---|---|---|")
BEGIN, END = "<!-- results: written by scripts/results.py -->", "<!-- end of results -->"
PELVIS = ("preprocess.size=[300,300]", "sampling.patch=[176,176]", "sampling.patches_per_image=2", "inference.window=[176,176]")
PELVIS_PHANTOM = ("data=pelvis", f"output={OUT}/pelvis_phantom", "n=60", "seed=0")
PELVIS = (f"data.root={OUT}/pelvis_phantom", *PELVIS, "optimizer.lr=1e-3", "trainer.check_val_every_n_epoch=4")
OTHERS = ["airways", "cardiomediastinum", "central_venous_line", "consolidation", "endotracheal_tube", "ground_glass_opacities", "tubings"]
LUNGS = ", ".join(["left_lung: left_lung", "right_lung: right_lung", *(f"{name}: background" for name in OTHERS)])


@dataclass(frozen=True)
class Result:
    name: str
    """Folder below outputs/results."""
    preset: str
    on: str
    data: str = ""
    """Folder below SEGKIT_DATA; '' needs none."""
    keys: tuple[str, ...] = ()
    folds: int = 0
    """0: one hold-out."""
    metric: str = ""
    """The task's own statistic beside Dice."""
    published: str = ""
    note: str = ""
    """Why the number is what it is, where a reader would take it for a fault."""
    members: tuple[str, ...] = ()
    """Of a combination: the results that it joins, nothing being trained."""
    benchmark: str = ""
    """Folder below SEGKIT_DATA of the external set."""
    phantom: tuple[str, ...] = ()
    """Of `segkit phantom`, where that is the data."""

    def runs(self) -> list[str]:
        return [f"fold{i}" for i in range(self.folds)] or ["seed0"]

    def commands(self, root: str) -> list[list[str]]:
        where = [f"data.root={root}/{self.data}"] if self.data else []
        if self.members:
            keys = [f"members.{letter}.ckpt={OUT}/{member}/seed0" for letter, member in zip("abcdef", self.members, strict=False)]
            return [["evaluate", f"experiment={self.preset}", *keys, f"output={OUT}/{self.name}/seed0"]]
        if self.benchmark:
            where += [f"benchmark.root={root}/{self.benchmark}", f"benchmark.labels={{{LUNGS}}}"]
        folds = [["split=kfold", f"split.n_folds={self.folds}", f"split.fold={i}"] for i in range(self.folds)] or [[]]
        common = ["train", f"experiment={self.preset}", *where, *self.keys, f"output_dir={OUT}", f"name={self.name}", "resume=auto"]
        written = [["phantom", *self.phantom]] if self.phantom else []
        return [*written, *([*common, *fold, f"run={run}"] for fold, run in zip(folds, self.runs(), strict=True))]


RESULTS = (
    Result("fetal_head", "fetal_head", "HC18, 123 of 999 images", "hc18", metric="hc_mae_mm", published="0.9775, 1.90 mm (a)"),
    Result(
        "fetal_head_as_coded",
        "fetal_head_as_coded",
        "HC18, 122 of 999 images",
        "hc18",
        ("data.exclude=[392_HC]", "trainer.max_epochs=8"),
        published="0.9168 (c)",
    ),
    Result(
        "chest_organs",
        "chest_organs",
        "JSRT, 40 of 247 images",
        "chest_xray",
        ("data.source.annotations=labelme",),
        folds=4,
        benchmark="chest_xray/benchmark",
    ),
    Result(
        "em_membrane",
        "em_membrane",
        "ISBI 2012, 30 slices",
        "em_membrane",
        folds=5,
        metric="adapted_rand_error",
        note="5 epochs, as its demo (e)",
    ),
    Result(
        "em_membrane_fast",
        "em_membrane_fast",
        "ISBI 2012, 30 slices",
        "em_membrane",
        ("trainer.max_epochs=30", "trainer.check_val_every_n_epoch=5"),
        folds=5,
        metric="adapted_rand_error",
    ),
    Result(
        "hippocampus",
        "gi_tract_3d",
        "hippocampus, 40 of 260 volumes",
        "hippocampus",
        (
            "data=decathlon",
            "data.labels={0: background, 1: anterior, 2: posterior}",
            "split=holdout",
            "split.val_fraction=0.25",
            "model.widths=[16,32,64,128]",
            "sampling.patch=[32,48,32]",
            "sampling.patches_per_image=2",
            "trainer.max_epochs=100",
            "trainer.check_val_every_n_epoch=5",
        ),
    ),
    Result(
        "gi_tract_25d",
        "gi_tract_25d",
        "UW-Madison, 36 single slices",
        "gi_tract",
        ("data.batch_size=8", "trainer.max_epochs=40"),
        published="0.862 score (b)",
        note="too few to train its random encoder (d)",
    ),
    Result(
        "pelvis_134",
        "pelvis_134",
        "phantom, 60 images",
        phantom=PELVIS_PHANTOM,
        keys=(*PELVIS, "trainer.max_epochs=12"),
        published="0.9522",
    ),
    Result(
        "pelvis_256",
        "pelvis_256",
        "phantom, 60 images",
        phantom=PELVIS_PHANTOM,
        keys=(*PELVIS, "trainer.max_epochs=12"),
        published="0.7454",
    ),
    Result(
        "pelvis_combination", "pelvis_combination", "phantom, 60 images", published="0.8488, expected", members=("pelvis_134", "pelvis_256")
    ),
    Result(
        "pelvis_joint",
        "pelvis_joint",
        "phantom, 60 images",
        phantom=PELVIS_PHANTOM,
        keys=(*PELVIS, "trainer.max_epochs=24"),
        published="0.82",
    ),
)


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
        table, f"`{result.name}`{keys}", f"{result.on}, {how}{result.note and f'; {result.note}'}", result.metric, took, result.published
    )
    if result.benchmark:
        lines.append(benchmark_line(folders, f"`{result.name}`"))
    return lines


def benchmark_line(folders: list[Path], name: str) -> str:
    """Every fold's network has seen none of its images: the mean over folds, and their range."""
    from segkit.metrics.table import read_table

    summaries = [read_table(folder / "benchmark").summary() for folder in folders]
    cells = []
    for class_name in dict.fromkeys(line.class_name for line in summaries[0].lines):
        means = [summary.line("dice", class_name).mean for summary in summaries]
        cells.append(f"{class_name} {statistics.mean(means):.3f} ({min(means):.3f} to {max(means):.3f})")
    n = summaries[0].line("dice").n
    return f"| {name}, other hospitals | the same networks on a benchmark, never used to choose | {n} | {'; '.join(cells)} | | | |"


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
