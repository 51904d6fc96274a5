"""`segkit compare RUN_A RUN_B`: paired differences of two runs, case by case, with a significance test."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segkit.config.commands import Compare
from segkit.metrics.compare import NOTE, Comparison, compare
from segkit.metrics.summary import MOST_WIDTH, OVERALL
from segkit.metrics.table import read_table
from segkit.system.errors import SegkitError
from segkit.system.progress import console as shared

MAX_NAMES = 5


def command(cfg: Compare) -> None:
    """Print the comparison of two run folders, evaluation folders or case tables."""
    runs = [cfg.runs] if isinstance(cfg.runs, str) else cfg.runs
    if len(runs) != 2:
        raise SegkitError(f"two runs are needed, and {len(runs)} given;   segkit compare RUN_A RUN_B")
    a, b = (read_table(run, cfg.allow_targets) for run in runs)
    for name, run in zip("AB", runs, strict=True):
        shared.print(f"{name}   {run}", markup=False)
    show(compare(a, b), shared)


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
            table.add_row(*map(escape, line.cells()))
    table.width = console.measure(table, options=console.options.update(width=MOST_WIDTH)).maximum
    console.print(table, crop=False, no_wrap=True, overflow="ignore")
    for one in comparison.unlike:
        rules_of = f"A: {one.rule_a};  B: {one.rule_b}"
        console.print(f"NOT COMPARED: {one.statistic}, which has different rules   {rules_of}", markup=False)
    for name, cases in (("A", comparison.only_a), ("B", comparison.only_b)):
        if cases:
            shown = ", ".join(cases[:MAX_NAMES]) + (" ..." if len(cases) > MAX_NAMES else "")
            console.print(f"in {name} alone, not compared: {len(cases)} ({shown})", markup=False)
