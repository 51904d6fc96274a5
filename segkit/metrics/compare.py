"""Two case tables of the same cases: paired differences with interval and test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import wilcoxon

from segkit.metrics.base import NAN, Array, Statistic
from segkit.metrics.summary import OVERALL, bootstrap_interval, rules_of, unit
from segkit.metrics.table import CaseTable, Row, mean_of_known
from segkit.system.errors import SegkitError

NOTE = "p: Wilcoxon signed-rank test of the groups (patients), for each line by itself: of 20 lines one is below 0.05 by chance"
DIGITS = 12
"""Beyond them differences are rounding errors, which would part ties and turn zeros into wins."""


@dataclass(frozen=True)
class Difference:
    """B minus A of one statistic and class, over the cases in which both have a value.

    `low` and `high` bound the 95 % interval of the mean difference (bootstrap over groups). `p` is the two-sided Wilcoxon
    signed-rank test on the mean difference of each group, because cases of one patient are no independent evidence.
    """

    subset: str
    class_name: str
    statistic: str
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p: float
    n: int
    missing: int
    n_groups: int
    rule: str = ""

    def cells(self) -> list[str]:
        """Subset, class and statistic, then A, B, B - A, interval, p, n, groups and missing as text."""
        shown_as, known = unit(self.statistic), math.isfinite(self.difference)
        change = f"{'+' if self.difference > 0 else ''}{shown_as(self.difference)}" if known else "-"
        interval = f"[{shown_as(self.low)}, {shown_as(self.high)}]" if math.isfinite(self.low) else "-"
        numbers = [shown_as(self.mean_a), shown_as(self.mean_b), change, interval, f"{self.p:.3g}" if known else "-"]
        return [self.subset, self.class_name, self.statistic, *numbers, str(self.n), str(self.n_groups), str(self.missing)]


@dataclass(frozen=True)
class Unlike:
    """A statistic that the tables made by different rules, and so none to compare: 1 for an empty mask is not 0 for it."""

    statistic: str
    rule_a: str
    rule_b: str


@dataclass(frozen=True)
class Comparison:
    """`only_a` and `only_b`: cases that one table lacks; they count nowhere."""

    lines: tuple[Difference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    unlike: tuple[Unlike, ...] = ()

    def rules(self) -> dict[str, list[str]]:
        """Rule -> the statistics that follow it."""
        return rules_of(self.lines)


def compare(a: CaseTable, b: CaseTable, seed: int = 0) -> Comparison:
    """A line a subset, class and statistic that both tables have; `overall` averages the classes of each case first.

    Lines over the cases that hold the structure (`dice_present`) stand where `CaseTable.summary` has them.

    SegkitError where they have none that both made by one rule.
    """
    rows_a, rows_b = ({(row.subset, row.case, row.class_name): row for row in table.rows} for table in (a, b))
    pairs = [(row, rows_b[key]) for key, row in rows_a.items() if key in rows_b]
    check(pairs)
    shared, unlike = shared_statistics(a, b)
    lines = []
    for subset in dict.fromkeys(row.subset for row, _ in pairs):
        of_subset = [pair for pair in pairs if pair[0].subset == subset]
        classes = list(dict.fromkeys(row.class_name for row, _ in of_subset))
        for class_name in (OVERALL, *classes):
            chosen = [pair for pair in of_subset if class_name in (OVERALL, pair[0].class_name)]
            lacks = CaseTable(tuple(row for row, _ in chosen), ()).lacks(class_name)
            for statistic in shared:
                lines.append(difference(chosen, statistic, class_name, seed))
                if statistic.scores_empty and lacks:
                    lines.append(difference(chosen, statistic.of_present, class_name, seed, only_present=True))
    only_a, only_b = (
        tuple(dict.fromkeys(key[1] for key in ours if key not in theirs)) for ours, theirs in ((rows_a, rows_b), (rows_b, rows_a))
    )
    return Comparison(tuple(lines), only_a, only_b, unlike)


def shared_statistics(a: CaseTable, b: CaseTable) -> tuple[list[Statistic], tuple[Unlike, ...]]:
    """Statistics of both under one rule, and those under different ones. Where a table alone does not know its rules, the rule says so."""
    theirs = {statistic.name: statistic.rule for statistic in b.statistics}
    shared: list[Statistic] = []
    unlike: list[Unlike] = []
    for ours in (statistic for statistic in a.statistics if statistic.name in theirs):
        rule = theirs[ours.name]
        if ours.rule == rule:
            shared.append(ours)
        elif ours.rule and rule:
            unlike.append(Unlike(ours.name, ours.rule, rule))
        else:
            shared.append(replace(ours, rule=f"{ours.rule or rule} ({'B' if ours.rule else 'A'}: not known)"))
    if unlike and not shared:
        one = unlike[0]
        what = f"{one.statistic} is made by different rules ({one.rule_a}; {one.rule_b})"
        raise SegkitError(f"{what}, and so is all else;   evaluate both alike with  segkit evaluate ckpt=RUN metric=NAME")
    return shared, tuple(unlike)


def check(pairs: Sequence[tuple[Row, Row]]) -> None:
    """Raise SegkitError unless both tables evaluate the same masks."""
    if not pairs:
        raise SegkitError("the two tables share no case and class of one subset;   evaluate both on the same data and split")
    for a, b in pairs:
        if a.n_truth_px != b.n_truth_px:
            sizes = f"{a.n_truth_px} pixels in one table and {b.n_truth_px} in the other"
            raise SegkitError(f"{a.case}: the true {a.class_name} has {sizes}: they were evaluated against different masks")


def difference(
    pairs: Sequence[tuple[Row, Row]], statistic: Statistic, class_name: str, seed: int, only_present: bool = False
) -> Difference:
    values: dict[str, list[Array]] = {}
    columns = [statistic.of_rows([row.values for row in side]) for side in zip(*pairs, strict=True)]
    for (row, _), of_pair in zip(pairs, np.stack(columns, axis=1), strict=True):
        counts = row.n_truth_px or not only_present
        values.setdefault(row.case, []).append(of_pair if counts else np.full(2, NAN))
    groups = {row.case: row.group for row, _ in pairs}
    both = {case: known for case, found in values.items() if len(known := np.array([v for v in found if not np.isnan(v).any()]))}
    means = np.array([known.mean(axis=0) for known in both.values()]).reshape(-1, 2)  # (N, 2)
    paired = means[:, 1] - means[:, 0]
    names, index = np.unique(np.array([groups[case] for case in both], dtype=str), return_inverse=True)
    low, high = bootstrap_interval(paired, index, len(names), seed)
    a, b, mean = (mean_of_known(list(map(float, column))) for column in (means[:, 0], means[:, 1], paired))
    by_group = np.bincount(index, weights=paired) / np.bincount(index) if len(names) else paired
    subset = pairs[0][0].subset
    n = len(both)
    p = signed_rank_p(by_group)
    return Difference(subset, class_name, statistic.name, a, b, mean, low, high, p, n, len(values) - n, len(names), statistic.rule)


def signed_rank_p(differences: Array) -> float:
    """1 where no pair differs, which is no evidence at all; NaN without a pair."""
    if not len(differences):
        return NAN
    exact = np.round(differences, DIGITS)
    return float(wilcoxon(exact).pvalue) if np.any(exact) else 1.0
