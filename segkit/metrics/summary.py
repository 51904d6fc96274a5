"""Numbers with meaning: a mean with its spread, interval, n, missing and rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segkit.metrics.base import NAN, Array, Statistic, known_as

OVERALL = "overall"
N_RESAMPLES = 2000
CONFIDENCE = 0.95
MOST_DRAWS = 2_000_000
"""Group numbers held at once by the bootstrap: 16 MB."""
MOST_WIDTH = 2000
Tree = dict[str, dict[str, dict[str, dict[str, Any]]]]


@dataclass(frozen=True)
class Line:
    """One statistic of one class. `low` and `high` bound the 95 % interval of the mean; NaN where it is not defined."""

    subset: str
    class_name: str
    statistic: str
    mean: float
    low: float
    high: float
    median: float
    sd: float
    n: int
    missing: int
    n_groups: int
    rule: str


def summarize(values: Array, groups: Sequence[str], statistic: Statistic, class_name: str, subset: str = "", seed: int = 0) -> Line:
    """`values` (N,) with NaN for missing; cases of one group are resampled together."""
    known = values == values
    kept = values[known]
    names, index = np.unique(np.asarray(groups, dtype=str)[known], return_inverse=True)
    low, high = bootstrap_interval(kept, index, len(names), seed)
    return Line(
        subset=subset,
        class_name=class_name,
        statistic=statistic.name,
        mean=float(kept.mean()) if kept.size else NAN,
        low=low,
        high=high,
        median=float(np.median(kept)) if kept.size else NAN,
        sd=float(kept.std(ddof=1)) if kept.size > 1 else NAN,
        n=int(kept.size),
        missing=int(values.size - kept.size),
        n_groups=len(names),
        rule=statistic.rule,
    )


def bootstrap_interval(values: Array, group: Array, n_groups: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of the mean over cases, drawing whole groups (Davison and Hinkley 1997, 3.8, strategy 1).

    `group` (N,) numbers the group of each value. One group has no spread to draw from: (NaN, NaN).
    """
    if n_groups < 2:
        return NAN, NAN
    sums = np.bincount(group, weights=values, minlength=n_groups)
    sizes = np.bincount(group, minlength=n_groups)
    rng = np.random.default_rng(seed)
    step = max(1, MOST_DRAWS // n_groups)
    means = []
    for start in range(0, N_RESAMPLES, step):
        drawn = rng.integers(n_groups, size=(min(step, N_RESAMPLES - start), n_groups))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Summary:
    """All lines of a table. Cases of several subsets are never mixed into one mean."""

    lines: tuple[Line, ...]

    def line(self, statistic: str, class_name: str = OVERALL, subset: str | None = None) -> Line:
        """The first line of that name (`subset=None`: of the first subset). KeyError where there is none.

        That of `dice_present` is `dice` where every case holds every structure, or none holds any.
        """
        statistic = known_as(statistic, {line.statistic for line in self.lines if line.class_name == class_name})
        for line in self.lines:
            if (line.statistic, line.class_name) == (statistic, class_name) and subset in (None, line.subset):
                return line
        raise KeyError(f"{statistic} of {class_name}; there is {', '.join(sorted({x.statistic for x in self.lines}))}")

    def as_dict(self) -> Tree:
        """subset -> class or 'overall' -> statistic -> numbers. For JSON: what is not a number is None."""
        tree: Tree = {}
        for line in self.lines:
            entry = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(line).items()}
            for name in ("subset", "class_name", "statistic"):
                del entry[name]
            tree.setdefault(line.subset, {}).setdefault(line.class_name, {})[line.statistic] = entry
        return tree

    @classmethod
    def from_dict(cls, tree: Tree) -> Summary:
        """The inverse of `as_dict`, after JSON."""
        lines = []
        for subset, classes in tree.items():
            for name, statistics in classes.items():
                for statistic, entry in statistics.items():
                    numbers: dict[str, Any] = {k: NAN if v is None else v for k, v in entry.items()}
                    lines.append(Line(subset, name, statistic, **numbers))
        return cls(tuple(lines))

    def print(self, console: Console, title: str = "") -> None:
        """The fullest layout that fits: the rules move from their column to below the table, then median and SD go.

        What is no terminal gets everything. No number is ever cut: a terminal that is too narrow wraps the lines.
        """
        for rules, spread in ((True, True), (False, True), (False, False)):
            table = self.layout(rules, spread, title)
            table.width = console.measure(table, options=console.options.update(width=MOST_WIDTH)).maximum
            if table.width <= console.width or not console.is_terminal:
                break
        console.print(table, crop=False, no_wrap=True, overflow="ignore")

    def layout(self, rules: bool, spread: bool, title: str) -> Table:
        caption = None if rules else "\n".join(f"{', '.join(names)}: {rule}" for rule, names in rules_of(self.lines).items())
        table = Table(title=title or None, caption=caption, title_justify="left", caption_justify="left", pad_edge=False)
        table.box = box.SIMPLE_HEAD
        shown = self.shown()
        several = len({line.subset for line in shown}) > 1
        for heading in (*(("subset",) if several else ()), "class", "metric"):
            table.add_column(heading, no_wrap=True)
        for heading in ("mean", "95 % interval", *(("median", "SD") if spread else ()), "n", "missing"):
            table.add_column(heading, justify="right", no_wrap=True)
        if rules:
            table.add_column("rule", no_wrap=True)
        for line in shown:
            names = (*((line.subset,) if several else ()), escape(line.class_name), escape(line.statistic))
            shown_as = unit(line.statistic)
            middle = (shown_as(line.median), shown_as(line.sd)) if spread else ()
            counts = (str(line.n), str(line.missing), *((line.rule,) if rules else ()))
            table.add_row(*names, shown_as(line.mean), interval(line), *middle, *counts)
        return table

    def shown(self) -> list[Line]:
        """Leave out the overall lines where there is only one class, which would repeat everything."""
        classes = {line.class_name for line in self.lines if line.class_name != OVERALL}
        return [line for line in self.lines if len(classes) > 1 or line.class_name != OVERALL]


def rules_of(lines: Iterable[Any]) -> dict[str, list[str]]:
    """Rule -> the statistics that follow it, of lines with these two fields."""
    rules: dict[str, list[str]] = {}
    for statistic, rule in dict.fromkeys((line.statistic, line.rule) for line in lines if line.rule):
        rules.setdefault(rule, []).append(statistic)
    return rules


def unit(statistic: str) -> Callable[[float], str]:
    """Return how a statistic is written: millimeters with two decimals, scores with four; a dash for what is not defined."""
    digits = 2 if statistic.endswith("_mm") else 4
    return lambda value: f"{value:.{digits}f}" if math.isfinite(value) else "-"


def interval(line: Line) -> str:
    shown_as = unit(line.statistic)
    return f"[{shown_as(line.low)}, {shown_as(line.high)}]" if math.isfinite(line.low) else "-"
