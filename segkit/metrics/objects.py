"""Object-wise F1: how many of the separate objects were found (Caicedo et al., Nature Methods 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from segkit.data.case import Case
from segkit.metrics import Array, Statistic
from segkit.metrics.overlap import as_number, empty_rule
from segkit.metrics.surface import ROUNDING
from segkit.system.errors import SegkitError


@dataclass(frozen=True)
class ObjectScores:
    """F1 = 2 matched / (objects in truth + objects predicted), and the counts.

    Objects are connected pixels (touching by a corner is touching). A pair matches from an IoU of `iou` on; each object
    has one partner at most, chosen so that there are as many pairs as possible. `both_empty` and `truth_empty` as in
    Overlap.
    """

    iou: float = 0.5
    both_empty: float | None = 1.0
    truth_empty: float | None = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise SegkitError(f"ObjectScores: iou is {self.iou:g}, but must lie above 0 and not above 1;   iou=0.5 is usual")

    names = ("object_f1", "n_truth_objects", "n_pred_objects", "object_count_error")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        rule = f"IoU >= {self.iou:g}, {empty_rule(self.both_empty, self.truth_empty)}"
        count = Statistic("object_count_mae", "object_count_error", "counts every case", absolute=True)
        return Statistic("object_f1", "object_f1", rule), count

    def __call__(self, pred: Array, truth: Array, case: Case) -> dict[str, float]:
        (objects_pred, n_pred), (objects_truth, n_truth) = labelled(pred), labelled(truth)
        if n_truth:
            f1 = 2 * n_matched(objects_pred, objects_truth, self.iou) / (n_pred + n_truth)
        else:
            f1 = as_number(self.truth_empty if n_pred else self.both_empty)
        return dict(zip(self.names, (f1, float(n_truth), float(n_pred), float(n_pred - n_truth)), strict=True))


def labelled(mask: Array) -> tuple[Array, int]:
    """Objects numbered from 1 in the shape of the mask (*S), and how many."""
    objects, n = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return objects, int(n)


def n_matched(pred: Array, truth: Array, iou: float) -> int:
    """Most pairs of an object of each with at least that IoU. Both numbered from 1, 0 is background."""
    sizes = [np.bincount(objects.ravel()) for objects in (pred, truth)]
    both = (pred > 0) & (truth > 0)
    pairs, common = np.unique(np.stack([pred[both], truth[both]]), axis=1, return_counts=True)
    p, t = pairs
    good = common * ROUNDING >= iou * (sizes[0][p] + sizes[1][t] - common)
    (rows, row), (columns, column) = (np.unique(side[good], return_inverse=True) for side in (p, t))
    matches = np.zeros((len(rows), len(columns)))
    matches[row, column] = 1
    return int(matches[linear_sum_assignment(matches, maximize=True)].sum())
