"""From the network's probabilities to a mask on the grid of the image: restore, threshold, post-process.

Post-processing steps work on one class at a time, in the order of the config. Where classes exclude each other, what a step
removes becomes background, and it adds pixels only where background was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from scipy import ndimage

from segkit.config.schema import Inference
from segkit.config.targets import instantiate
from segkit.data.labels import Array, LabelMap
from segkit.data.transforms import geometry
from segkit.metrics.base import label_objects
from segkit.metrics.head_circumference import fit_ellipse
from segkit.system.errors import SegkitError, nearest

Threshold = float | Mapping[str, float]
"""For all classes, or by class (0.5 for those that are not named)."""


def restore(probs: Array, steps: Sequence[geometry.Step], labels: LabelMap) -> Array:
    """Bring probabilities (C, *s) of the network's grid to the original grid (C, *S); pixels it never saw are background."""
    outside = np.zeros(len(probs), np.float32)
    if labels.mode == "multiclass":
        outside[0] = 1.0
    return geometry.undo(steps, probs, outside)


def check_finite(probs: Array, pixels: Array, name: str) -> None:
    """Raise SegkitError, with the likely cause, where probabilities (C, *s) hold NaN. Their sum does as well, and is quick."""
    if np.isfinite(probs.sum()):
        return
    if not np.isfinite(np.sum(pixels, dtype=np.float64)):
        why, fix = "the image holds values that are NaN or infinite", "repair or leave out the image"
    else:
        why, fix = "the weights of the checkpoint are not finite, or overflow in half precision", "choose another  ckpt=FILE"
    raise SegkitError(f"{name}: the probabilities are not finite: {why};   {fix}")


def decide(probs: Array, labels: LabelMap, threshold: Threshold) -> Array:
    """Class indices (H, W) uint8 of exclusive maps (the likeliest; from `threshold` on if there is one class), else planes (K, H, W)."""
    if labels.mode == "multiclass":
        return likeliest(probs)
    limits = np.array([threshold_of(name, threshold) for name in labels.classes], probs.dtype)
    above: Array = (probs >= limits.reshape(-1, *[1] * (probs.ndim - 1))).view(np.uint8)
    return above if labels.overlap else above[0]


def likeliest(probs: Array) -> Array:
    """argmax over the first axis of (C, *S), row by row: numpy's own would need eight bytes for each index."""
    out = np.empty(probs.shape[1:], np.uint8)
    for i in range(len(out)):
        out[i] = probs[:, i].argmax(axis=0)
    return out


def threshold_of(name: str, threshold: Threshold) -> float:
    return float(threshold.get(name, 0.5)) if isinstance(threshold, Mapping) else float(threshold)


@dataclass(frozen=True)
class Decision:
    """From probabilities on the original grid to the mask: thresholds, then post-processing steps."""

    labels: LabelMap
    threshold: Threshold
    steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, config: Inference, labels: LabelMap, allow: Sequence[str]) -> Decision:
        nodes = {name: node for name, node in config.postprocess.items() if node is not None}
        steps = tuple(instantiate(node, f"inference.postprocess.{name}", allow=allow) for name, node in nodes.items())
        check_classes(steps, labels, config.threshold)
        return cls(labels, config.threshold, steps)

    def __call__(self, probs: Array, pixel_mm: tuple[float, ...] = ()) -> Array:
        return postprocess(decide(probs, self.labels, self.threshold), self.labels, self.steps, pixel_mm)


def check_classes(steps: Sequence[Step], labels: LabelMap, threshold: Threshold) -> None:
    """SegkitError where an unknown class is named, or a threshold that has no effect."""
    named = {"inference.threshold": list(threshold) if isinstance(threshold, Mapping) else []}
    named["inference.postprocess"] = [name for step in steps for name in step.classes or ()]
    for key, names in named.items():
        for name in names:
            if name not in labels.classes:
                hint = nearest(name, labels.classes) or f"available: {', '.join(labels.classes)}"
                raise SegkitError(f"{key} names the class {name}; {hint}")
    if labels.mode == "multiclass" and threshold != 0.5:
        raise SegkitError("inference.threshold has no effect: the likeliest of exclusive classes is taken;   leave it at 0.5")


# --- steps ------------------------------------------------------------------------------------------------------------


class Step(Protocol):
    """Any class with these members can be named in `inference.postprocess`."""

    classes: Sequence[str] | None
    """The classes it is applied to; None: all."""

    def __call__(self, mask: Array, pixel_mm: tuple[float, ...]) -> Array:
        """bool (*S) -> bool (*S). `pixel_mm`: size of a pixel along each axis; empty where it is unknown."""


@dataclass(frozen=True)
class LargestComponents:
    """Keep the `k` largest objects (pixels that touch by a corner are connected)."""

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
    """Remove objects of fewer than `px` pixels, and, where the pixel size is known, of less than `mm` mm2 (in volumes mm3)."""

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
    """Fill enclosed holes; with `px`, only those of up to so many pixels."""

    px: int | None = None
    classes: Sequence[str] | None = None

    def __call__(self, mask: Array, pixel_mm: tuple[float, ...] = ()) -> Array:
        holes = ndimage.binary_fill_holes(mask) & ~mask
        if self.px is not None:
            objects, _ = ndimage.label(holes)  # across faces: objects that touch by a corner part their holes
            small = np.bincount(objects.ravel()) <= self.px
            holes = small[objects] & holes
        return np.asarray(mask | holes)


@dataclass(frozen=True)
class Smooth:
    """Smooth borders: a pixel is foreground where a Gaussian of `sigma` pixels around it finds more than half foreground."""

    sigma: float = 2.0
    classes: Sequence[str] | None = None

    def __call__(self, mask: Array, pixel_mm: tuple[float, ...] = ()) -> Array:
        return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), self.sigma, mode="nearest") > 0.5)


@dataclass(frozen=True)
class FitEllipse:
    """Replace the mask by the ellipse fitted to the border of its largest object, as for fetal heads; unchanged where none fits."""

    classes: Sequence[str] | None = None

    def __call__(self, mask: Array, pixel_mm: tuple[float, ...] = ()) -> Array:
        ellipse = fit_ellipse(mask) if mask.ndim == 2 else None
        return mask if ellipse is None else ellipse.filled(mask.shape)


def components(mask: Array) -> tuple[Array, Array]:
    """Objects (*S), numbered from 1, and their sizes in pixels (n,)."""
    if mask.ndim == 2:
        n, objects, statistics, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=8)
        return objects, statistics[1:n, cv2.CC_STAT_AREA]
    objects, n = label_objects(mask)
    return objects, np.bincount(objects.ravel(), minlength=n + 1)[1:]


def postprocess(mask: Array, labels: LabelMap, steps: Sequence[Step], pixel_mm: tuple[float, ...] = ()) -> Array:
    """Apply all steps to class indices (*S) of exclusive classes, or to planes (K, *S)."""
    for step in steps:
        for k, name in enumerate(labels.classes):
            if step.classes is None or name in step.classes:
                mask = _with_class(mask, labels, k, step, pixel_mm)
    return mask


def _with_class(mask: Array, labels: LabelMap, k: int, step: Step, pixel_mm: tuple[float, ...]) -> Array:
    here = labels.plane(mask, k)
    if not here.any():
        return mask
    after = np.asarray(step(here, pixel_mm), bool)
    if labels.mode == "binary":
        return after.view(np.uint8)
    out = mask.copy()
    if labels.overlap:
        out[k] = after
    else:
        np.copyto(out, 0, where=here > after)
        np.copyto(out, k + 1, where=(mask == 0) & after)
    return out
