"""The ellipse of a fetal head and its circumference in mm (van den Heuvel et al., PLoS ONE 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from segkit.data.manifest import Case
from segkit.metrics import NAN, Array, Statistic


@dataclass(frozen=True)
class Ellipse:
    """Centre (x, y) and semi-axes (a >= b) in the unit of the spacing; angle of a from the x axis, radians, y down."""

    centre: tuple[float, float]
    semi_axes: tuple[float, float]
    angle_rad: float


def fit_ellipse(mask: Array, spacing: tuple[float, ...] = (1.0, 1.0)) -> Ellipse | None:
    """Direct least squares ellipse (Fitzgibbon et al., 1999) through the outer border of the largest object.

    `mask` is (H, W). `spacing` is (row, column); points are scaled before the fit, because in pixels that are not
    square it is another ellipse. Where the object leaves the image its border is unknown: only what is inside counts.
    None where there are too few points or no ellipse through them.
    """
    points = border_points(largest_object(mask))
    if len(points) <= 5:
        return None
    row_mm, column_mm = spacing
    (x, y), (width, height), degrees = cv2.fitEllipseDirect((points * (column_mm, row_mm)).astype(np.float32))
    if not all(math.isfinite(v) for v in (x, y, width, height)) or min(width, height) <= 0:
        return None
    if width < height:
        width, height, degrees = height, width, degrees + 90
    return Ellipse((x, y), (width / 2, height / 2), math.radians(degrees % 180))


def largest_object(mask: Array) -> Array:
    """The object with the largest outline, its holes filled. (H, W) bool."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(mask.shape, np.uint8)
    if contours:
        cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled.astype(bool)


def border_points(mask: Array) -> Array:
    """(x, y) halfway between each inner pixel and its outer neighbour. (N, 2)

    The contour through the centres of the outermost pixels would lie half a pixel inside: 0.8 % of the circumference of
    a head 120 pixels long.
    """
    y, x = np.nonzero(mask[:, 1:] != mask[:, :-1])
    beside = np.stack([x + 0.5, y], axis=1)
    y, x = np.nonzero(mask[1:] != mask[:-1])
    return np.concatenate([beside, np.stack([x, y + 0.5], axis=1)])


def head_circumference_mm(semi_axes: tuple[float, float], pixel_mm: float = 1.0) -> float:
    """Perimeter of an ellipse: Ramanujan's second approximation, exact to 1e-5 for the axis ratios of a fetal head.

    `semi_axes` are in pixels of the original image, after padding and scaling have been undone; or in mm, `pixel_mm` 1.
    """
    a, b = (axis * pixel_mm for axis in semi_axes)
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


@dataclass(frozen=True)
class HeadCircumference:
    """Circumference of the ellipse fitted to the prediction, against the one measured by a sonographer.

    The reference is the fact `hc_mm` of the case, or, without it, the ellipse fitted to the true mask. Missing where no
    head was predicted, or the pixel size is not known: a mean error says little without its count of missing cases.

    `outline_px` is how far the border of the masks lies outside the annotated curve. HC18's annotations are lines about
    2.6 pixels wide, so a mask filled to their outer border, and what a network learns from it, is 1.29 pixels too large
    all around: 8.1 pixels or 1.1 mm of circumference (122 training images, SD 0.06 pixels).
    """

    outline_px: float = 0.0

    names = ("hc_pred_mm", "hc_ref_mm", "hc_error_mm")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        rule = "no head found = missing"
        return Statistic("hc_mae_mm", "hc_error_mm", rule, absolute=True), Statistic("hc_bias_mm", "hc_error_mm", rule)

    def __call__(self, pred: Array, truth: Array, case: Case) -> dict[str, float]:
        predicted = self.measure(pred, case.pixel_mm)
        measured = case.facts.get("hc_mm")
        reference = self.measure(truth, case.pixel_mm) if measured is None else float(measured)
        return {"hc_pred_mm": predicted, "hc_ref_mm": reference, "hc_error_mm": predicted - reference}

    def measure(self, mask: Array, spacing_mm: tuple[float, ...]) -> float:
        """Circumference in mm, or NaN."""
        ellipse = fit_ellipse(mask, spacing_mm) if len(spacing_mm) == 2 else None
        if ellipse is None:
            return NAN
        shrink = self.outline_px * sum(spacing_mm) / 2
        a, b = (max(axis - shrink, 0.0) for axis in ellipse.semi_axes)
        return head_circumference_mm((a, b)) if a > 0 else NAN
