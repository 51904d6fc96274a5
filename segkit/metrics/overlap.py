"""Metrics from counts of pixels: overlap, precision and recall, volume error; each with explicit rules for empty masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from segkit.data.case import Case
from segkit.metrics.base import NAN, Array, Statistic, as_number, empty_rule, rule_text

DIMS = {"ml": 3, "mm3": 3, "mm2": 2}
MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Overlap:
    """Dice = (2 |P n T| + s) / (|P| + |T| + s) and IoU = (|P n T| + s) / (|P u T| + s), in 0..1.

    Without a structure in the target both are a matter of convention, not of measurement, and published numbers disagree.
    A structure that was missed scores 0 under every rule (with `smooth` a little more).

    Args:
        both_empty: the score where neither target nor prediction has a pixel (1: rightly nothing; 0: as UW-Madison words
            its score). None leaves such cases out, as missing.
        truth_empty: the score where only the target is empty, or None.
        smooth: s, normally 0; some published numbers contain it.
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
        scores_empty = (self.both_empty, self.truth_empty) != (None, None)
        return tuple(Statistic(name, name, self.rule, scores_empty=scores_empty) for name in self.names)

    def __call__(self, pred: Array, target: Array, case: Case) -> dict[str, float]:
        n_pred, n_target = int(np.count_nonzero(pred)), int(np.count_nonzero(target))
        if n_target == 0:
            score = self.truth_empty if n_pred else self.both_empty
            return dict.fromkeys(self.names, as_number(score))
        common, s = int(np.count_nonzero(pred & target)), self.smooth
        return {"dice": (2 * common + s) / (n_pred + n_target + s), "iou": (common + s) / (n_pred + n_target - common + s)}


@dataclass(frozen=True)
class Confusion:
    """Precision TP / (TP + FP), recall (sensitivity) TP / (TP + FN), specificity TN / (TN + FP) of pixels, in 0..1.

    Specificity is close to 1 wherever a structure is small against the image; ignored pixels count in it as true
    negatives. It is missing where the target fills the image.

    Args:
        both_empty: precision and recall where both masks are empty; None leaves the case out.
        truth_empty: recall where only the target is empty, or None.
        pred_empty: precision where only the prediction is empty, or None (0: a missed structure improves no mean).
    """

    both_empty: float | None = None
    truth_empty: float | None = None
    pred_empty: float | None = 0.0

    names = ("precision", "recall", "specificity")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        precision = f"both empty {rule_text(self.both_empty)}, only prediction empty {rule_text(self.pred_empty)}"
        recall = empty_rule(self.both_empty, self.truth_empty)
        rules = (precision, recall, "no background = left out")
        return tuple(Statistic(name, name, rule) for name, rule in zip(self.names, rules, strict=True))

    def __call__(self, pred: Array, target: Array, case: Case) -> dict[str, float]:
        n_pred, n_target, common = (int(np.count_nonzero(mask)) for mask in (pred, target, pred & target))
        background = target.size - n_target
        if n_pred or n_target:
            precision = common / n_pred if n_pred else as_number(self.pred_empty)
            recall = common / n_target if n_target else as_number(self.truth_empty)
        else:
            precision = recall = as_number(self.both_empty)
        specificity = (background - (n_pred - common)) / background if background else NAN
        return {"precision": precision, "recall": recall, "specificity": specificity}


@dataclass(frozen=True)
class VolumeError:
    """Volume or area of prediction minus target, in `unit` and relative to the target.

    A signed mean (bias) near 0 may hide large errors that cancel, so the mean of the absolute values (mae) stands beside it.

    Args:
        unit: ml or mm3 for volumes, mm2 for images and slices. Missing where the pixel size is not known.
    """

    unit: Literal["ml", "mm3", "mm2"] = "ml"

    @property
    def names(self) -> tuple[str, ...]:
        quantity = "area" if DIMS[self.unit] == 2 else "volume"
        own = tuple(f"{quantity}_{name}_{self.unit}" for name in ("pred", "truth", "error"))
        return *own, f"{quantity}_error_rel"

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        _, _, error, relative = self.names
        rules = (f"pixel size unknown or not {DIMS[self.unit]}-D = missing", "truth empty = missing")
        return tuple(
            Statistic(column.replace("error", name), column, rule, absolute=name == "mae")
            for column, rule in zip((error, relative), rules, strict=True)
            for name in ("mae", "bias")
        )

    def __call__(self, pred: Array, target: Array, case: Case) -> dict[str, float]:
        n_pred, n_target = int(np.count_nonzero(pred)), int(np.count_nonzero(target))
        one = self.of_one_pixel(case.pixel_mm, target.ndim)
        relative = (n_pred - n_target) / n_target if n_target else NAN
        return dict(zip(self.names, (n_pred * one, n_target * one, (n_pred - n_target) * one, relative), strict=True))

    def of_one_pixel(self, pixel_mm: tuple[float, ...], dims: int) -> float:
        """Size of one pixel; NaN where it is not known in this unit."""
        if len(pixel_mm) != dims or dims != DIMS[self.unit]:
            return NAN
        return float(np.prod(pixel_mm)) / (MM3_PER_ML if self.unit == "ml" else 1.0)
