"""The ellipse of a fetal head and its circumference in mm (van den Heuvel et al., PLoS ONE 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from segkit.data.case import Case
from segkit.data.transforms.geometry import bounding_box, positions
from segkit.metrics.base import NAN, Array, Statistic
from segkit.metrics.surface import Surface


@dataclass(frozen=True)
class Ellipse:
    """Center (x, y) and semi-axes (a >= b) in the unit of the spacing; angle of a from the x axis, radians, y down."""

    center: tuple[float, float]
    semi_axes: tuple[float, float]
    angle_rad: float

    def shrunk(self, by: float) -> Ellipse | None:
        """Subtract `by` from both semi-axes; None where nothing is left."""
        a, b = (axis - by for axis in self.semi_axes)
        return replace(self, semi_axes=(a, b)) if b > 0 else None

    def filled(self, shape: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0)) -> Array:
        """The pixels whose middle lies inside. (H, W) bool. Only those near either end of a row have to be asked."""
        (x0, y0), (a, b), cos, sin = self.center, self.semi_axes, math.cos(self.angle_rad), math.sin(self.angle_rad)
        reach = (math.hypot(a * sin, b * cos), math.hypot(a * cos, b * sin))
        rows, columns = (within(n, mm, middle, far) for n, mm, middle, far in zip(shape, spacing, (y0, x0), reach, strict=True))
        filled = np.zeros(shape, bool)
        if not (part := filled[rows, columns]).size:
            return filled
        y, x = (np.arange(side.start, side.stop) * mm for side, mm in zip((rows, columns), spacing, strict=True))
        square = (cos / a) ** 2 + (sin / b) ** 2
        middle = x0 - (y - y0) * sin * cos * (1 / a**2 - 1 / b**2) / square
        half = np.sqrt(np.maximum(square - ((y - y0) / (a * b)) ** 2, 0)) / square
        ends = [np.clip(end / spacing[1] - columns.start, -9, len(x) + 9).astype(np.int32) for end in (middle - half, middle + half)]
        place = np.arange(len(x), dtype=np.int32)
        np.logical_and(place > ends[0][:, None] + 1, place < ends[1][:, None] - 1, out=part)
        for end in ends:
            near = np.clip(end[:, None] + np.arange(-2, 3), 0, len(x) - 1)
            np.put_along_axis(part, near, self.holds(x[near], y[:, None]), axis=1)
        return filled

    def holds(self, x: Array, y: Array) -> Array:
        """Whether points lie inside."""
        (x0, y0), (a, b), cos, sin = self.center, self.semi_axes, math.cos(self.angle_rad), math.sin(self.angle_rad)
        along, across = (x - x0) * cos + (y - y0) * sin, (y - y0) * cos - (x - x0) * sin
        return np.asarray((along / a) ** 2 + (across / b) ** 2 <= 1)


def within(n: int, mm: float, middle: float, reach: float) -> slice:
    """The pixels of an axis of `n` that may lie within `reach` of `middle`."""
    low, high = ((middle + far) / mm for far in (-reach, reach))
    start = min(max(0, math.floor(low)), n)
    return slice(start, max(start, min(n, math.ceil(high) + 1)))


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
    bytes_ = mask.view(np.uint8) if mask.dtype == bool else mask.astype(np.uint8)
    contours, _ = cv2.findContours(bytes_, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(mask.shape, np.uint8)
    if contours:
        cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled.view(bool)


def border_points(mask: Array) -> Array:
    """(x, y) halfway between each inner pixel and its outer neighbor. (N, 2)

    The contour through the centers of the outermost pixels would lie half a pixel inside: 0.8 % of the circumference of
    a head 120 pixels long.
    """
    box = tuple(slice(max(0, start - 1), stop + 1) for start, stop in bounding_box(mask) or ((0, 0), (0, 0)))
    corner, mask = (box[1].start, box[0].start), mask[box]
    beside, below = positions(mask[:, 1:] != mask[:, :-1]), positions(mask[1:] != mask[:-1])
    return np.concatenate([np.add(beside, (0, 0.5)), np.add(below, (0.5, 0))])[:, ::-1] + corner


def head_circumference_mm(semi_axes: tuple[float, float], pixel_mm: float = 1.0) -> float:
    """Perimeter of an ellipse: Ramanujan's second approximation, exact to 1e-5 for the axis ratios of a fetal head.

    `semi_axes` are in pixels of the original image, after padding and scaling have been undone; or in mm, `pixel_mm` 1.
    """
    a, b = (axis * pixel_mm for axis in semi_axes)
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


@dataclass(frozen=True)
class HeadCircumference:
    """Circumference of the ellipse fitted to the prediction, in mm, against the one that a sonographer measured.

    The reference is the fact `hc_mm` of the case, or, without it, the ellipse fitted to the true mask. Where no ellipse
    can be fitted to the prediction, the head was missed: its error is the whole circumference, so that a miss never
    improves a mean, and `missed_head` is 1. Missing where the pixel size is not known, or there is no reference.

    `hd_ellipse_mm`: Hausdorff distance of the filled ellipses of prediction and true mask, as Surface has it.

    Args:
        outline_px: how far the border of the masks lies outside the annotated curve. HC18's annotations are lines about 2.6
            pixels wide, so a mask filled to their outer border, and what a network learns from it, is 1.29 pixels too large
            all around: 8.1 pixels or 1.1 mm of circumference (122 training images, SD 0.06 pixels).
    """

    outline_px: float = 0.0

    names = ("hc_pred_mm", "hc_ref_mm", "hc_error_mm", "hd_ellipse_mm", "missed_head")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        rule, unknown = "missed head = -reference", "; pixel size unknown = missing"
        errors = (Statistic(f"hc_{name}_mm", "hc_error_mm", rule + unknown, absolute=name == "mae") for name in ("mae", "bias"))
        distance = Statistic("hd_ellipse_mm", "hd_ellipse_mm", f"one side without head = image diagonal, both left out{unknown}")
        return *errors, distance, Statistic("missed_head", "missed_head", "share of cases with reference")

    def __call__(self, pred: Array, target: Array, case: Case) -> dict[str, float]:
        spacing = case.pixel_mm
        if len(spacing) != 2:
            return dict.fromkeys(self.names, NAN)
        found, there = (self.ellipse(mask, spacing) for mask in (pred, target))
        measured = case.facts.get("hc_mm")
        predicted, fitted = (head_circumference_mm(ellipse.semi_axes) if ellipse else NAN for ellipse in (found, there))
        reference = fitted if measured is None else float(measured)
        error = predicted - reference if found else -reference
        missed = NAN if math.isnan(reference) else float(found is None)
        filled = [ellipse.filled(target.shape, spacing) if ellipse else np.zeros(target.shape, bool) for ellipse in (found, there)]
        distance = Surface().distances(filled[0], filled[1], spacing)[0]
        return dict(zip(self.names, (predicted, reference, error, distance, missed), strict=True))

    def ellipse(self, mask: Array, spacing_mm: tuple[float, ...]) -> Ellipse | None:
        """Fit the ellipse of a mask, in mm."""
        fitted = fit_ellipse(mask, spacing_mm)
        return fitted.shrunk(self.outline_px * sum(spacing_mm) / 2) if fitted else None
