"""Precision, recall and specificity, with explicit rules for empty masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segkit.data.case import Case
from segkit.metrics import NAN, Array, Statistic
from segkit.metrics.overlap import as_number, empty_rule, told


@dataclass(frozen=True)
class Confusion:
    """Of pixels: precision TP / (TP + FP), recall (sensitivity) TP / (TP + FN), specificity TN / (TN + FP).

    Where nothing is divided by nothing a rule decides, None leaves the case out: `both_empty` of precision and recall,
    `truth_empty` of recall where only truth has no pixel, `pred_empty` of precision where only the prediction has none
    (0: a structure that was missed improves no mean). Specificity is close to 1 wherever a structure is small against the
    image; pixels that truth ignores count in it as rightly left out. It is missing where truth fills the image.
    """

    both_empty: float | None = None
    truth_empty: float | None = None
    pred_empty: float | None = 0.0

    names = ("precision", "recall", "specificity")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        precision = f"both empty {told(self.both_empty)}, only prediction empty {told(self.pred_empty)}"
        recall = empty_rule(self.both_empty, self.truth_empty)
        rules = (precision, recall, "no background = left out")
        return tuple(Statistic(name, name, rule) for name, rule in zip(self.names, rules, strict=True))

    def __call__(self, pred: Array, truth: Array, case: Case) -> dict[str, float]:
        n_pred, n_truth, common = (int(np.count_nonzero(mask)) for mask in (pred, truth, pred & truth))
        background = truth.size - n_truth
        if n_pred or n_truth:
            precision = common / n_pred if n_pred else as_number(self.pred_empty)
            recall = common / n_truth if n_truth else as_number(self.truth_empty)
        else:
            precision = recall = as_number(self.both_empty)
        specificity = (background - (n_pred - common)) / background if background else NAN
        return {"precision": precision, "recall": recall, "specificity": specificity}
