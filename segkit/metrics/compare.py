"""Two case tables of the same cases: paired differences with interval and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from segkit.errors import SegkitError
from segkit.metrics import NAN, Array, Statistic
from segkit.metrics.summary import OVERALL, bootstrap_interval
from segkit.metrics.table import CaseTable, Row, mean_of_known

Key = tuple[str, str, str]
"""Subset, case, class."""
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


@dataclass(frozen=True)
class Comparison:
    """`only_a` and `only_b`: cases that one table lacks; they count nowhere."""

    lines: tuple[Difference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def compare(a: CaseTable, b: CaseTable, seed: int = 0) -> Comparison:
    """A line a subset, class and statistic that both tables have; `overall` averages the classes of each case first."""
    rows_a, rows_b = by_key(a), by_key(b)
    pairs = [(row, rows_b[key]) for key, row in rows_a.items() if key in rows_b]
    check(pairs)
    shared = {statistic.name for statistic in b.statistics}
    lines = []
    for subset in dict.fromkeys(row.subset for row, _ in pairs):
        of_subset = [pair for pair in pairs if pair[0].subset == subset]
        classes = list(dict.fromkeys(row.class_name for row, _ in of_subset))
        for class_name in (OVERALL, *classes):
            chosen = [pair for pair in of_subset if class_name in (OVERALL, pair[0].class_name)]
            lines += [difference(chosen, statistic, class_name, seed) for statistic in a.statistics if statistic.name in shared]
    return Comparison(tuple(lines), only(rows_a, rows_b), only(rows_b, rows_a))


def by_key(table: CaseTable) -> dict[Key, Row]:
    return {(row.subset, row.case, row.class_name): row for row in table.rows}


def only(these: Mapping[Key, Row], others: Mapping[Key, Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(case for subset, case, name in these if (subset, case, name) not in others))


def check(pairs: Sequence[tuple[Row, Row]]) -> None:
    """SegkitError unless both tables judge the same masks."""
    if not pairs:
        raise SegkitError("the two tables share no case and class of one subset;   evaluate both on the same data and split")
    for a, b in pairs:
        if a.n_truth_px != b.n_truth_px:
            sizes = f"{a.n_truth_px} pixels in one table and {b.n_truth_px} in the other"
            raise SegkitError(f"{a.case}: the true {a.class_name} has {sizes}: they were judged against different masks")


def difference(pairs: Sequence[tuple[Row, Row]], statistic: Statistic, class_name: str, seed: int) -> Difference:
    values: dict[str, list[Array]] = {}
    for rows in pairs:
        values.setdefault(rows[0].case, []).append(statistic.of(np.array([row.values.get(statistic.column, NAN) for row in rows])))
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
    return Difference(subset, class_name, statistic.name, a, b, mean, low, high, signed_rank_p(by_group), n, len(values) - n, len(names))


def signed_rank_p(differences: Array) -> float:
    """1 where no pair differs, which is no evidence at all; NaN without a pair."""
    if not len(differences):
        return NAN
    exact = np.round(differences, DIGITS)
    return float(wilcoxon(exact).pvalue) if np.any(exact) else 1.0
