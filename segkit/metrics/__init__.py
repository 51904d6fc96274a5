"""Metrics of one case and class, on the original grid, and the tables that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from segkit.data.case import Case

Array = npt.NDArray[Any]
NAN = float("nan")


@dataclass(frozen=True)
class Statistic:
    """How a column of the case table becomes one number: its mean over cases, or the mean of its absolute values."""

    name: str
    column: str
    rule: str = ""
    """What was done with empty masks; stands beside the number wherever it is shown."""
    absolute: bool = False

    def of(self, values: Array) -> Array:
        return np.abs(values) if self.absolute else values

    def of_rows(self, rows: Sequence[Mapping[str, float]]) -> Array:
        """A value for each row, from its columns: their mean is the number. NaN is missing."""
        return self.of(np.array([row.get(self.column, NAN) for row in rows], float))


class CaseMetric(Protocol):
    """Any class with these members can be named in `metric.cases`.

    It sees one class of one case at a time: two bool masks (H, W), from which the caller has removed what does not
    count. It returns a value for each of `names`; NaN means 'not defined under the rule' and is counted as missing.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of `cases.csv`, in this order."""

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """What the summary shows of these columns."""

    def __call__(self, pred: Array, truth: Array, case: Case) -> dict[str, float]: ...
