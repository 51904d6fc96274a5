"""`segkit compare RUN_A RUN_B`: is one run better than the other, case by case, and could it be chance?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segkit.config.targets import instantiate
from segkit.metrics import CaseMetric
from segkit.metrics.compare import Comparison, Difference, compare
from segkit.metrics.summary import MOST_WIDTH, OVERALL, unit
from segkit.metrics.table import CaseTable
from segkit.system.errors import SegkitError, plain_command
from segkit.system.files import read_json
from segkit.system.progress import console as shared

TABLE, VOLUMES, SUMMARY = "cases.csv", "volumes.csv", "summary.json"
OUT_OF_FOLD = "evaluation/val"
"""In the folder of a sweep over folds: what  segkit evaluate sweep=NAME  writes."""
MOST_NAMES = 5
ALLOW = "allow_targets="
NOTE = "p: Wilcoxon signed-rank test of the groups (patients), for each line by itself: of 20 lines one is below 0.05 by chance"

HELP = """segkit compare A B [allow_targets=PACKAGE,…]

A and B: run folders, folders of sweeps over folds (after  segkit evaluate sweep=NAME), folders that segkit evaluate wrote, or case
tables (cases.csv, volumes.csv). Shows for each class and metric the paired difference B - A with its 95 % interval and a Wilcoxon
signed-rank test, over the cases that both have."""


@plain_command("compare", HELP)
def main(argv: Sequence[str] = ()) -> int:
    """Exit code 0, or 2 for what cannot be compared."""
    allow = [package for arg in argv if arg.startswith(ALLOW) for package in arg.removeprefix(ALLOW).strip("[]").split(",")]
    places = [arg for arg in argv if not arg.startswith(ALLOW)]
    if len(places) != 2:
        raise SegkitError(f"two runs are needed, and {len(places)} given;   segkit compare RUN_A RUN_B")
    a, b = places
    comparison = compare_runs(a, b, allow)
    for name, place in (("A", a), ("B", b)):
        shared.print(f"{name}   {place}", markup=False)
    show(comparison, shared)
    return 0


def compare_runs(a: str | Path, b: str | Path, allow: Sequence[str] = ()) -> Comparison:
    """Each a run folder, a folder that `segkit evaluate` wrote, or a case table."""
    return compare(read_table(a, allow), read_table(b, allow))


def read_table(place: str | Path, allow: Sequence[str] = ()) -> CaseTable:
    """With the statistics of the run's metrics, of which some compare absolute values; without a config, plain columns."""
    path = Path(place).expanduser()
    path = path / OUT_OF_FOLD if (path / "sweep.json").exists() else path
    path = path / TABLE if path.is_dir() else path
    section = metric_of(path.parent)
    if section is None:
        return CaseTable.from_csv(path)
    nodes = section.get("volumes" if path.name == VOLUMES else "cases") or {}
    metrics: dict[str, CaseMetric] = {name: instantiate(node, allow=allow) for name, node in nodes.items() if node is not None}
    return CaseTable.from_csv(path, metrics)


def metric_of(folder: Path) -> dict[str, Any] | None:
    """The metric section that the table was made by: of summary.json beside it, else of the run's config.

    An evaluation may judge by another metric than its run; older ones do not say.
    """
    section = read_json(folder / SUMMARY).get("metric")
    if isinstance(section, dict):
        return section
    config = config_of(folder)
    return None if config is None else config["metric"]


def config_of(folder: Path) -> dict[str, Any] | None:
    """config.yaml of the run: in its folder, or above one of its evaluations (RUN/evaluation/PART, RUN/benchmark)."""
    for home in (folder, *folder.resolve().parents[:2]):
        if (home / "config.yaml").is_file():
            content = yaml.safe_load((home / "config.yaml").read_text(encoding="utf-8"))
            if not isinstance(content, dict) or "metric" not in content:
                raise SegkitError(f"{home / 'config.yaml'} is not the config of a run: it has no section metric")
            return content
    return None


def show(comparison: Comparison, console: Console) -> None:
    several = len({line.class_name for line in comparison.lines} - {OVERALL}) > 1
    rules = [escape(f"{', '.join(names)}: {rule}") for rule, names in comparison.rules().items()]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="\n".join([*rules, NOTE]), caption_justify="left")
    for heading in ("subset", "class", "metric"):
        table.add_column(heading, no_wrap=True)
    for heading in ("A", "B", "B - A", "95 % interval", "p", "n", "groups", "missing"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in comparison.lines:
        if several or line.class_name != OVERALL:
            table.add_row(*cells(line))
    table.width = console.measure(table, options=console.options.update(width=MOST_WIDTH)).maximum
    console.print(table, crop=False, no_wrap=True, overflow="ignore")
    for one in comparison.unlike:
        rules_of = f"A: {one.rule_a};  B: {one.rule_b}"
        console.print(f"NOT COMPARED: {one.statistic}, which has different rules   {rules_of}", markup=False)
    for name, cases in (("A", comparison.only_a), ("B", comparison.only_b)):
        if cases:
            shown = ", ".join(cases[:MOST_NAMES]) + (" ..." if len(cases) > MOST_NAMES else "")
            console.print(f"in {name} alone, not compared: {len(cases)} ({shown})", markup=False)


def cells(line: Difference) -> list[str]:
    shown_as = unit(line.statistic)
    known = math.isfinite(line.difference)
    change = f"{'+' if line.difference > 0 else ''}{shown_as(line.difference)}" if known else "-"
    interval = f"[{shown_as(line.low)}, {shown_as(line.high)}]" if math.isfinite(line.low) else "-"
    numbers = [shown_as(line.mean_a), shown_as(line.mean_b), change, interval, f"{line.p:.3g}" if known else "-"]
    return [line.subset, escape(line.class_name), escape(line.statistic), *numbers, str(line.n), str(line.n_groups), str(line.missing)]
