"""Dice and IoU with an explicit rule for empty masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segkit.data.case import Case
from segkit.metrics import NAN, Array, Statistic


@dataclass(frozen=True)
class Overlap:
    """Dice = (2 |P n T| + s) / (|P| + |T| + s) and IoU = (|P n T| + s) / (|P u T| + s); s = `smooth`, normally 0.

    Without a structure in truth both are a matter of agreement, not of measurement, and published numbers disagree:
    `both_empty` is the score where neither truth nor prediction has a pixel (1: rightly nothing; 0: as UW-Madison words
    its score), `truth_empty` the score where only truth has none. None leaves such cases out, as missing.
    A structure that is there and was not found scores 0 under every rule (with `smooth`, which some published numbers
    contain, a little more).
    """

    both_empty: float | None = 1.0
    truth_empty: float | None = 0.0
    smooth: float = 0.0

    names = ("dice", "iou")

    @property
    def rule(self) -> str:
        text = empty_rule(self.both_empty, self.truth_empty)
        return f"{text}, smooth {self.smooth:g}" if self.smooth else text

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(Statistic(name, name, self.rule) for name in self.names)

    def __call__(self, pred: Array, truth: Array, case: Case) -> dict[str, float]:
        n_pred, n_truth = int(np.count_nonzero(pred)), int(np.count_nonzero(truth))
        if n_truth == 0:
            score = self.truth_empty if n_pred else self.both_empty
            return dict.fromkeys(self.names, as_number(score))
        common, s = int(np.count_nonzero(pred & truth)), self.smooth
        return {"dice": (2 * common + s) / (n_pred + n_truth + s), "iou": (common + s) / (n_pred + n_truth - common + s)}


def told(score: float | None) -> str:
    """The words of a rule: None = left out."""
    return "left out" if score is None else f"= {score:g}"


def as_number(score: float | None) -> float:
    return NAN if score is None else float(score)


def empty_rule(both_empty: float | None, truth_empty: float | None) -> str:
    return f"both empty {told(both_empty)}, only truth empty {told(truth_empty)}"
