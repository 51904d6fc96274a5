"""Centre-line Dice: are thin structures found in their whole length (Shit et al., clDice, CVPR 2021)?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.morphology import skeletonize

from segkit.data.case import Case
from segkit.metrics import Array, Statistic
from segkit.metrics.overlap import as_number, empty_rule


@dataclass(frozen=True)
class Centreline:
    """clDice: harmonic mean of the share of the predicted skeleton that lies in the truth, and of the true skeleton that
    lies in the prediction. A gap costs what it is long, a wrong width nothing.

    For vessels, membranes and other threads. Skeletons by Zhang and Suen (1984) in 2-D, Lee et al. (1994) in 3-D, in pixels.
    `both_empty` and `truth_empty` as in Overlap.
    """

    both_empty: float | None = 1.0
    truth_empty: float | None = 0.0

    names = ("cldice",)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        return (Statistic("cldice", "cldice", empty_rule(self.both_empty, self.truth_empty)),)

    def __call__(self, pred: Array, truth: Array, case: Case) -> dict[str, float]:
        found, there = bool(pred.any()), bool(truth.any())
        if not there:
            return {"cldice": as_number(self.truth_empty if found else self.both_empty)}
        precision, sensitivity = within(pred, truth), within(truth, pred)
        total = precision + sensitivity
        return {"cldice": 2 * precision * sensitivity / total if total else 0.0}


def within(mask: Array, other: Array) -> float:
    """The share of the skeleton of `mask` that lies in `other`; 0 where the mask is empty."""
    skeleton = np.asarray(skeletonize(mask)) > 0  # type: ignore[no-untyped-call]
    if not skeleton.any():
        skeleton = mask  # Lee's thinning leaves nothing of cubes with an even side
    n = int(np.count_nonzero(skeleton))
    return int(np.count_nonzero(skeleton & other)) / n if n else 0.0
