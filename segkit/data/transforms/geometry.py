"""Invertible geometry: how an image reaches the network's grid, and how a prediction finds its way back exactly.

`plan` turns the preprocessing keys and one image into concrete steps. Each step knows `forward` for images, `forward_mask`
for class indices and `inverse` for probabilities, so the way back is the same list, read from its end. Everything works
alike on images (rows, columns) and volumes (slices, rows, columns).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from segkit.config.schema import MOST_PIXELS, Preprocess
from segkit.data.labels import IGNORE, Array
from segkit.system.errors import SegkitError

Shape = tuple[int, ...]
"""Rows and columns; of a volume slices, rows and columns."""
Interpolation = Literal["area", "linear", "cubic"]
Box = tuple[tuple[int, int], ...]
"""First and one past the last index, by axis."""

_CV2 = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "nearest": cv2.INTER_NEAREST_EXACT}


@dataclass(frozen=True)
class Step(ABC):
    """One spatial step, made for one image shape."""

    source: Shape
    target: Shape

    @abstractmethod
    def forward(self, image: Array) -> Array:
        """(*S, C) -> (*s, C), same dtype."""

    @abstractmethod
    def forward_mask(self, mask: Array) -> Array:
        """(*S) class indices or (K, *S) planes, uint8; no new values but `ignore` where the image holds no data."""

    @abstractmethod
    def inverse(self, probs: Array, outside: Array) -> Array:
        """(C, *s) float32 -> (C, *S); `outside` (C,) fills what the network never saw."""


@dataclass(frozen=True)
class Resize(Step):
    """From one grid to another; images as configured, probabilities linearly, masks by nearest neighbor.

    `soft` masks: every class is resized as an image of its share of each pixel; then the largest share wins.
    """

    interpolation: Interpolation
    soft: bool = False

    def forward(self, image: Array) -> Array:
        return resize(image, self.target, self.interpolation)

    def forward_mask(self, mask: Array) -> Array:
        planes = mask.reshape(-1, *self.source)
        is_class_map = mask.ndim == len(self.source)
        if self.soft:
            out = _soft_classes(planes[0], self.target)[None] if is_class_map else np.stack([_soft_plane(p, self.target) for p in planes])
        else:
            out = np.stack([resize(plane, self.target, "nearest") for plane in planes])
        return out.reshape(*mask.shape[: -len(self.source)], *self.target)

    def inverse(self, probs: Array, outside: Array) -> Array:
        planes = [resize(plane, self.source, "linear") for plane in probs]
        return planes[0][None] if len(planes) == 1 else np.stack(planes)


@dataclass(frozen=True)
class Pad(Step):
    """Added around; an odd remainder goes to the end of each axis."""

    mode: Literal["constant", "reflect", "symmetric", "edge"]

    @property
    def offset(self) -> Shape:
        return tuple((t - s) // 2 for s, t in zip(self.source, self.target, strict=True))

    def _widths(self) -> list[tuple[int, int]]:
        return [(o, t - s - o) for s, t, o in zip(self.source, self.target, self.offset, strict=True)]

    def forward(self, image: Array) -> Array:
        return np.pad(image, [*self._widths(), (0, 0)], mode=self.mode)

    def forward_mask(self, mask: Array) -> Array:
        widths = [*[(0, 0)] * (mask.ndim - len(self.source)), *self._widths()]
        if self.mode == "constant":
            return np.pad(mask, widths, constant_values=IGNORE)
        return np.pad(mask, widths, mode=self.mode)

    def inverse(self, probs: Array, outside: Array) -> Array:
        window: tuple[Any, ...] = tuple(slice(o, o + s) for o, s in zip(self.offset, self.source, strict=True))
        return np.asarray(probs[(..., *window)])


@dataclass(frozen=True)
class Crop(Step):
    """A box of the image, from `start`."""

    start: Shape

    @classmethod
    def centered(cls, source: Shape, target: Shape) -> Crop:
        return cls(source, target, tuple((s - t) // 2 for s, t in zip(source, target, strict=True)))

    @property
    def _window(self) -> tuple[Any, ...]:
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.target, strict=True))

    def forward(self, image: Array) -> Array:
        return np.asarray(image[self._window])

    def forward_mask(self, mask: Array) -> Array:
        return np.asarray(mask[(..., *self._window)])

    def inverse(self, probs: Array, outside: Array) -> Array:
        full = np.empty((len(probs), *self.source), probs.dtype)
        full[:] = outside.reshape(-1, *[1] * len(self.source))
        full[(..., *self._window)] = probs
        return full


def plan(config: Preprocess, shape: Shape, spacing_mm: Sequence[float] = (), box: Box | None = None) -> tuple[Step, ...]:
    """The steps for an image of `shape`. `box` is where its foreground lies, for `crop_foreground`."""
    steps: list[Step] = []
    if box is not None and config.crop_foreground is not None:
        target = tuple(stop - start for start, stop in box)
        shape = _add(steps, Crop(shape, target, tuple(start for start, _ in box)))
    if config.spacing_mm is not None:
        target = respaced(shape, spacing_mm, config.spacing_mm)
        shape = _add(steps, Resize(shape, target, config.interpolation, config.mask_interpolation == "soft"))
    if config.size is not None:
        for step in _fit(config, shape, config.size):
            shape = _add(steps, step)
    if config.pad_to is not None:
        _add(steps, Pad(shape, _padded(shape, config.pad_to), config.pad_mode))
    return tuple(steps)


def _add(steps: list[Step], step: Step) -> Shape:
    """Steps that change nothing are left out. Raises SegkitError where an image would become too large."""
    if math.prod(step.target) > max(MOST_PIXELS, math.prod(step.source)):
        raise SegkitError(f"preprocess makes {step.target} pixels of an image of {step.source};   check preprocess.spacing_mm and size")
    if step.target != step.source:
        steps.append(step)
    return step.target


def respaced(shape: Shape, spacing_mm: Sequence[float], wanted: Sequence[float]) -> Shape:
    """The size at which a pixel measures `wanted` mm."""
    if len(wanted) != len(shape):
        raise SegkitError(f"preprocess.spacing_mm has {len(wanted)} numbers, but images have {len(shape)} axes")
    if len(spacing_mm) < len(shape):
        raise SegkitError("preprocess.spacing_mm is set, but this image has no known pixel size;   add  preprocess.spacing_mm=null")
    known = spacing_mm[-len(shape) :]
    return tuple(max(1, round(n * have / want)) for n, have, want in zip(shape, known, wanted, strict=True))


def _fit(config: Preprocess, shape: Shape, size: Shape) -> tuple[Step, ...]:
    if len(size) != len(shape):
        kind = "images (rows, columns)" if len(shape) == 2 else "volumes (slices, rows, columns)"
        raise SegkitError(f"preprocess.size={list(size)} has {len(size)} numbers, but these are {kind};   add  preprocess.size=auto")
    soft = config.mask_interpolation == "soft"
    if config.fit == "stretch":
        return (Resize(shape, size, config.interpolation, soft),)
    if config.fit == "keep":
        kept = tuple(min(s, t) for s, t in zip(shape, size, strict=True))
        return Crop.centered(shape, kept), Pad(kept, size, config.pad_mode)
    ratios = [t / s for t, s in zip(size, shape, strict=True)]
    scale = min(ratios) if config.fit == "pad" else max(ratios)
    scaled = _scaled(shape, scale, size, at_most=config.fit == "pad")
    resized = Resize(shape, scaled, config.interpolation, soft)
    return (resized, Pad(scaled, size, config.pad_mode) if config.fit == "pad" else Crop.centered(scaled, size))


def _scaled(shape: Shape, scale: float, size: Shape, at_most: bool) -> Shape:
    """`shape` times `scale`, kept within (or beyond) `size` against rounding."""
    clamp = min if at_most else max
    return tuple(clamp(max(1, round(n * scale)), limit) for n, limit in zip(shape, size, strict=True))


def _padded(shape: Shape, pad_to: Literal["square"] | int) -> Shape:
    """Rows and columns as long as the longer of them; or every side up to the next multiple."""
    if pad_to == "square":
        return (*shape[:-2], max(shape[-2:]), max(shape[-2:]))
    return tuple(-(-n // pad_to) * pad_to for n in shape)


def foreground_box(image: Array, share: float) -> Box | None:
    """The box (by axis) of the pixels of (*S, C) in which some channel exceeds `share` of the largest value; None: there are none."""
    return bounding_box(np.asarray((image > share * float(image.max())).any(axis=-1)))


def bounding_box(mask: Array) -> Box | None:
    """The smallest box (by axis) around a mask (*S); None where it is empty."""
    axes = range(mask.ndim)
    found = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple((int(line[0]), int(line[-1]) + 1) for line in found) if found[0].size else None


def positions(mask: Array) -> Array:
    """Indices (N, D) of the pixels of a bool mask (*S), as `np.argwhere`, which is several times slower in more than one dimension."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)


def apply(steps: Sequence[Step], image: Array) -> Array:
    for step in steps:
        image = step.forward(image)
    return image


def apply_mask(steps: Sequence[Step], mask: Array) -> Array:
    for step in steps:
        mask = step.forward_mask(mask)
    return mask


def undo(steps: Sequence[Step], probs: Array, outside: Array) -> Array:
    """Probabilities (C, *s) back on the original grid (C, *S)."""
    for step in reversed(steps):
        probs = step.inverse(probs, outside)
    return np.ascontiguousarray(probs)


def resize(array: Array, target: Shape, how: Interpolation | Literal["nearest"]) -> Array:
    """(*S) or (*S, C) -> (*target) or (*target, C). Volumes slice by slice, then along the slices."""
    if len(target) == 2:
        return _resize_plane(array, (target[0], target[1]), how)
    if array.shape[1:3] != target[1:]:
        array = np.stack([_resize_plane(plane, (target[1], target[2]), how) for plane in array])
    if len(array) == target[0]:
        return array
    rows = (array[:, row].reshape(len(array), -1) for row in range(target[1]))  # each (D, columns * channels)
    out = [_resize_plane(row, (target[0], row.shape[1]), how) for row in rows]
    return np.stack(out, axis=1).reshape(target[0], *array.shape[1:])


def _resize_plane(array: Array, target: tuple[int, int], how: Interpolation | Literal["nearest"]) -> Array:
    """cv2.resize, which drops a channel axis of length one, and whose area mode is for shrinking."""
    if array.shape[:2] == target:
        return array
    if array.dtype == np.float16:  # of very large probability maps; OpenCV does not know it
        array = array.astype(np.float32)
    grows = how == "area" and target[0] * target[1] > array.shape[0] * array.shape[1]
    out = cv2.resize(array, (target[1], target[0]), interpolation=_CV2["linear" if grows else how])
    return out[..., None] if array.ndim == 3 and out.ndim == 2 else out


def _soft_plane(plane: Array, target: Shape) -> Array:
    out = (resize((plane == 1).astype(np.float32), target, "area") >= 0.5).astype(np.uint8)
    out[resize(plane, target, "nearest") == IGNORE] = IGNORE
    return out


def _soft_classes(classes: Array, target: Shape) -> Array:
    present = np.unique(classes)
    shares = np.stack([resize((classes == index).astype(np.float32), target, "area") for index in present])
    strongest: Array = present[shares.argmax(axis=0)]
    return strongest
