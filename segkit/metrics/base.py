"""The protocols of a metric, and what all metrics share: the rule for empty masks, and objects."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy import ndimage

from segkit.data.case import Case
from segkit.data.labels import Array as Array

NAN = float("nan")
PRESENT = "_present"
"""End of the name of a mean over the cases that hold the structure."""
Slices = Array | slice
"""Picks slices of a volume: a mask (D,), or a slice."""


@dataclass(frozen=True)
class Statistic:
    """How a column of the case table becomes one number: its mean over cases, or the mean of its absolute values.

    Args:
        name: its name in the summary.
        column: the column of the table.
        rule: what was done with empty masks; stands beside the number wherever it is shown.
        absolute: whether absolute values are averaged.
        scores_empty: whether a case without the structure has a score, by convention: its mean over the other cases stands beside it.
    """

    name: str
    column: str
    rule: str = ""
    absolute: bool = False
    scores_empty: bool = False

    @property
    def of_present(self) -> Statistic:
        """The same over the cases whose reference holds the structure (as MONAI's `ignore_empty`)."""
        return replace(self, name=f"{self.name}{PRESENT}", rule="cases that hold the structure")

    def of_rows(self, rows: Sequence[Mapping[str, float]]) -> Array:
        """A value for each row, from its columns: their mean is the number. NaN is missing."""
        values = np.array([row.get(self.column, NAN) for row in rows], float)
        return np.abs(values) if self.absolute else values


class CaseMetric(Protocol):
    """Any class with these members can be named in `metric.cases`.

    It sees one class of one case at a time: two bool masks (H, W) or (D, H, W), from which the caller has removed what
    does not count. It returns a value for each of `names`; NaN means 'not defined under the rule' and is counted as missing.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of `cases.csv`, in this order."""

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The numbers that the summary shows of these columns."""

    def __call__(self, pred: Array, target: Array, case: Case, /) -> dict[str, float]: ...


class VolumeMetric(Protocol):
    """Any class with these members can be named in `metric.volumes`. As `CaseMetric`, but it sees all classes at once."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def statistics(self) -> tuple[Statistic, ...]: ...

    def __call__(self, pred: Array, target: Array, case: Case, known: Slices, /) -> Sequence[Mapping[str, float]]:
        """bool planes (K, D, H, W) -> the values of each class. `case` is the volume: its `pixel_mm` has three axes.

        `known` picks the slices that are known; others are empty in both, so that their neighbors keep their distance.
        """


def rule_text(score: float | None) -> str:
    """Word a rule: None = left out."""
    return "left out" if score is None else f"= {score:g}"


def empty_rule(both_empty: float | None, truth_empty: float | None) -> str:
    return f"both empty {rule_text(both_empty)}, only truth empty {rule_text(truth_empty)}"


def known_as(name: str, names: Container[str]) -> str:
    """The name of a statistic among `names`: without `_present` where every case holds every structure, and both means are one; without
    `val/` where an own LightningModule logs it so."""
    without = name.replace(PRESENT, "", 1)
    return next((one for one in (name, without, name.removeprefix("val/")) if one in names), without)


def as_number(score: float | None) -> float:
    return NAN if score is None else float(score)


def label_objects(mask: Array) -> tuple[Array, int]:
    """Objects numbered from 1 in the shape of the mask (*S), and how many; touching by a corner is touching."""
    objects, n = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return objects, int(n)
