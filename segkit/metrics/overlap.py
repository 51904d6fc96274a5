"""Dice and IoU with an explicit rule for empty masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segkit.data.manifest import Case
from segkit.metrics import NAN, Array, Statistic


@dataclass(frozen=True)
class Overlap:
    """Dice = 2 |P n T| / (|P| + |T|) and IoU = |P n T| / |P u T|.

    Without a structure in truth both are a matter of agreement, not of measurement, and published numbers disagree:
    `both_empty` is the score where neither truth nor prediction has a pixel (1: rightly nothing; 0: as UW-Madison words
    its score), `truth_empty` the score where only truth has none. None leaves such cases out, as missing.
    A structure that is there and was not found scores 0 under every rule.
    """

    both_empty: float | None = 1.0
    truth_empty: float | None = 0.0

    names = ("dice", "iou")

    @property
    def rule(self) -> str:
        parts = (("both empty", self.both_empty), ("only truth empty", self.truth_empty))
        return ", ".join(f"{name} {'left out' if score is None else f'= {score:g}'}" for name, score in parts)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(Statistic(name, name, self.rule) for name in self.names)

    def __call__(self, pred: Array, truth: Array, case: Case) -> dict[str, float]:
        n_pred, n_truth = int(np.count_nonzero(pred)), int(np.count_nonzero(truth))
        if n_truth == 0:
            score = self.truth_empty if n_pred else self.both_empty
            return dict.fromkeys(self.names, NAN if score is None else float(score))
        common = int(np.count_nonzero(pred & truth))
        return {"dice": 2 * common / (n_pred + n_truth), "iou": common / (n_pred + n_truth - common)}
