"""How much there is of a structure: volume or area, against the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from segkit.data.case import Case
from segkit.metrics import NAN, Array, Statistic

DIMS = {"ml": 3, "mm3": 3, "mm2": 2}
MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class VolumeError:
    """Prediction minus truth, in `unit`, and as a share of the truth.

    ml and mm3 are for volumes, mm2 is for images and slices. A signed mean (bias) near 0 may hide large errors that
    cancel, so the mean of the absolute values (mae) stands beside it.
    """

    unit: Literal["ml", "mm3", "mm2"] = "ml"

    @property
    def what(self) -> str:
        return "area" if DIMS[self.unit] == 2 else "volume"

    @property
    def names(self) -> tuple[str, ...]:
        own = tuple(f"{self.what}_{name}_{self.unit}" for name in ("pred", "truth", "error"))
        return *own, f"{self.what}_error_rel"

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        _, _, error, relative = self.names
        rules = (f"pixel size unknown or not {DIMS[self.unit]}-D = missing", "truth empty = missing")
        return tuple(
            Statistic(column.replace("error", name), column, rule, absolute=name == "mae")
            for column, rule in zip((error, relative), rules, strict=True)
            for name in ("mae", "bias")
        )

    def __call__(self, pred: Array, truth: Array, case: Case) -> dict[str, float]:
        n_pred, n_truth = int(np.count_nonzero(pred)), int(np.count_nonzero(truth))
        one = self.of_one_pixel(case.pixel_mm, truth.ndim)
        relative = (n_pred - n_truth) / n_truth if n_truth else NAN
        return dict(zip(self.names, (n_pred * one, n_truth * one, (n_pred - n_truth) * one, relative), strict=True))

    def of_one_pixel(self, pixel_mm: tuple[float, ...], dims: int) -> float:
        """NaN where it is not known in this unit."""
        if len(pixel_mm) != dims or dims != DIMS[self.unit]:
            return NAN
        return float(np.prod(pixel_mm)) / (MM3_PER_ML if self.unit == "ml" else 1.0)
