"""What is done to a predicted mask before it counts: small things removed, holes filled, borders smoothed.

Steps work on one class at a time, in the order in which the config names them. Where classes exclude each other, what a step
removes becomes background, and what it adds is taken from the background alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segkit.data.labels import LabelMap
from segkit.metrics.head_circumference import fit_ellipse

Array = npt.NDArray[Any]


class Step(Protocol):
    """Any class with these members can be named in `inference.postprocess`."""

    classes: Sequence[str] | None
    """To which it is applied; None: to all."""

    def __call__(self, mask: Array, pixel_mm: tuple[float, ...]) -> Array:
        """bool (*S) -> bool (*S). `pixel_mm`: size of a pixel along each axis; empty where it is not known."""


@dataclass(frozen=True)
class LargestComponents:
    """Keeps the `k` largest objects (touching by a corner is touching)."""

    k: int = 1
    classes: Sequence[str] | None = None

    def __call__(self, mask: Array, pixel_mm: tuple[float, ...] = ()) -> Array:
        objects, sizes = components(mask)
        if len(sizes) <= self.k:
            return mask
        kept = np.zeros(len(sizes) + 1, bool)
        kept[1 + np.argsort(-sizes, kind="stable")[: self.k]] = True
        return np.asarray(kept[objects])


@dataclass(frozen=True)
class MinimumSize:
    """Removes objects of fewer than `px` pixels; `mm`: of less than so many mm2 (mm3), where the pixel size is known."""

    px: int = 0
    mm: float = 0.0
    classes: Sequence[str] | None = None

    def __call__(self, mask: Array, pixel_mm: tuple[float, ...] = ()) -> Array:
        objects, sizes = components(mask)
        one = float(np.prod(pixel_mm)) if pixel_mm else float("inf")
        kept = np.concatenate([[False], (sizes >= self.px) & (sizes * one >= self.mm)])
        return np.asarray(kept[objects])


@dataclass(frozen=True)
class FillHoles:
    """Fills what a structure encloses; with `px`, holes of up to so many pixels only."""

    px: int | None = None
    classes: Sequence[str] | None = None

    def __call__(self, mask: Array, pixel_mm: tuple[float, ...] = ()) -> Array:
        holes = ndimage.binary_fill_holes(mask) & ~mask
        if self.px is not None:
            objects, sizes = components(holes)
            holes = np.concatenate([[False], sizes <= self.px])[objects]
        return np.asarray(mask | holes)


@dataclass(frozen=True)
class Smooth:
    """Rounds borders: a pixel belongs where more than half of its Gaussian neighbourhood of `sigma` pixels does."""

    sigma: float = 2.0
    classes: Sequence[str] | None = None

    def __call__(self, mask: Array, pixel_mm: tuple[float, ...] = ()) -> Array:
        return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), self.sigma, mode="nearest") > 0.5)


@dataclass(frozen=True)
class FitEllipse:
    """The ellipse fitted to the border of the largest object, filled (fetal heads); the mask itself where none can be."""

    classes: Sequence[str] | None = None

    def __call__(self, mask: Array, pixel_mm: tuple[float, ...] = ()) -> Array:
        ellipse = fit_ellipse(mask) if mask.ndim == 2 else None
        if ellipse is None:
            return mask
        (x, y), (a, b) = ellipse.centre, ellipse.semi_axes
        rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
        along = (columns - x) * np.cos(ellipse.angle_rad) + (rows - y) * np.sin(ellipse.angle_rad)
        across = (rows - y) * np.cos(ellipse.angle_rad) - (columns - x) * np.sin(ellipse.angle_rad)
        return np.asarray((along / a) ** 2 + (across / b) ** 2 <= 1)


def components(mask: Array) -> tuple[Array, Array]:
    """Objects numbered from 1 in the shape of the mask, and their sizes in pixels."""
    if mask.ndim == 2:
        n, objects, statistics, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=8)
        return objects, statistics[1:n, cv2.CC_STAT_AREA]
    objects, n = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return objects, np.bincount(objects.ravel(), minlength=n + 1)[1:]


def postprocess(mask: Array, labels: LabelMap, steps: Sequence[Step], pixel_mm: tuple[float, ...] = ()) -> Array:
    """Class indices (*S) of exclusive classes, or planes (K, *S), after all steps."""
    for step in steps:
        for k, name in enumerate(labels.classes):
            if step.classes is None or name in step.classes:
                mask = with_class(mask, k, step, labels.overlap, pixel_mm)
    return mask


def with_class(mask: Array, k: int, step: Step, overlap: bool, pixel_mm: tuple[float, ...]) -> Array:
    here = mask[k] == 1 if overlap else mask == k + 1
    if not here.any():
        return mask
    after, out = step(here, pixel_mm), mask.copy()
    if overlap:
        out[k] = after
    else:
        out[here & ~after] = 0
        out[after & (mask == 0)] = k + 1
    return out
