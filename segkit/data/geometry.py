"""Invertible geometry: how an image reaches the network's grid, and how a prediction finds its way back exactly.

`plan` turns the preprocessing keys and the shape of one image into concrete steps. Each step knows `forward` for images,
`forward_mask` for class indices and `inverse` for probabilities, so the way back is the same list, read from its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from segkit.data.labels import IGNORE

Array = npt.NDArray[Any]
Shape = tuple[int, int]
PadMode = Literal["constant", "reflect"]
Interpolation = Literal["area", "linear", "cubic"]

_CV2 = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


class Grid(Protocol):
    """The keys of `preprocess` that say where the network sees an image."""

    @property
    def size(self) -> Shape | None: ...
    @property
    def fit(self) -> Literal["stretch", "pad", "crop"]: ...
    @property
    def pad_mode(self) -> PadMode: ...
    @property
    def interpolation(self) -> Interpolation: ...


class Step(Protocol):
    """One spatial step, made for one image shape."""

    def forward(self, image: Array) -> Array:
        """(H, W, C) -> (h, w, C), same dtype."""

    def forward_mask(self, mask: Array) -> Array:
        """(…, H, W) uint8 -> (…, h, w); no new values but `ignore` where the image holds no data."""

    def inverse(self, probs: Array, outside: Array) -> Array:
        """(C, h, w) float32 -> (C, H, W); `outside` (C,) fills what the network never saw."""


@dataclass(frozen=True)
class Resize:
    """From one grid to another; images as configured, masks by nearest neighbour, probabilities linearly."""

    source: Shape
    target: Shape
    interpolation: Interpolation

    def forward(self, image: Array) -> Array:
        shrinks = self.target[0] * self.target[1] <= self.source[0] * self.source[1]
        how = _CV2[self.interpolation] if shrinks or self.interpolation != "area" else cv2.INTER_LINEAR
        return _resize(image, self.target, how)

    def forward_mask(self, mask: Array) -> Array:
        planes = mask.reshape(-1, *mask.shape[-2:])
        out = np.stack([_resize(plane, self.target, cv2.INTER_NEAREST_EXACT) for plane in planes])
        return out.reshape(*mask.shape[:-2], *self.target)

    def inverse(self, probs: Array, outside: Array) -> Array:
        return np.stack([_resize(plane, self.source, cv2.INTER_LINEAR) for plane in probs])


@dataclass(frozen=True)
class Pad:
    """Rows and columns added around; an odd remainder goes to the bottom and the right."""

    source: Shape
    target: Shape
    mode: PadMode

    @property
    def offset(self) -> Shape:
        return (self.target[0] - self.source[0]) // 2, (self.target[1] - self.source[1]) // 2

    def _widths(self) -> list[tuple[int, int]]:
        return [(o, t - s - o) for s, t, o in zip(self.source, self.target, self.offset, strict=True)]

    def forward(self, image: Array) -> Array:
        # "symmetric" repeats the edge, so that it works for any width; a plain reflection needs an image wider than the pad.
        mode: Literal["constant", "symmetric"] = "symmetric" if self.mode == "reflect" else "constant"
        return np.pad(image, [*self._widths(), *[(0, 0)] * (image.ndim - 2)], mode=mode)

    def forward_mask(self, mask: Array) -> Array:
        widths = [*[(0, 0)] * (mask.ndim - 2), *self._widths()]
        if self.mode == "reflect":
            return np.pad(mask, widths, mode="symmetric")
        return np.pad(mask, widths, constant_values=IGNORE)

    def inverse(self, probs: Array, outside: Array) -> Array:
        (top, left), (height, width) = self.offset, self.source
        return probs[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class Crop:
    """The centre of an image."""

    source: Shape
    target: Shape

    @property
    def _window(self) -> tuple[slice, slice]:
        top, left = ((s - t) // 2 for s, t in zip(self.source, self.target, strict=True))
        return slice(top, top + self.target[0]), slice(left, left + self.target[1])

    def forward(self, image: Array) -> Array:
        return image[self._window]

    def forward_mask(self, mask: Array) -> Array:
        return mask[(..., *self._window)]

    def inverse(self, probs: Array, outside: Array) -> Array:
        full = np.broadcast_to(outside[:, None, None], (len(probs), *self.source)).astype(probs.dtype)
        full[(..., *self._window)] = probs
        return full


def plan(grid: Grid, shape: Shape) -> tuple[Step, ...]:
    """The steps for an image of `shape` (rows, columns)."""
    if grid.size is None or grid.size == shape:
        return ()
    if grid.fit == "stretch":
        return (Resize(shape, grid.size, grid.interpolation),)
    ratios = [t / s for t, s in zip(grid.size, shape, strict=True)]
    scale = min(ratios) if grid.fit == "pad" else max(ratios)
    scaled = _scaled(shape, scale, grid.size, at_most=grid.fit == "pad")
    resize: tuple[Step, ...] = () if scaled == shape else (Resize(shape, scaled, grid.interpolation),)
    if scaled == grid.size:
        return resize
    last: Step = Pad(scaled, grid.size, grid.pad_mode) if grid.fit == "pad" else Crop(scaled, grid.size)
    return (*resize, last)


def _scaled(shape: Shape, scale: float, size: Shape, at_most: bool) -> Shape:
    """`shape` times `scale`, kept within (or beyond) `size` against rounding."""
    clamp = min if at_most else max
    rows, cols = (clamp(max(1, round(n * scale)), limit) for n, limit in zip(shape, size, strict=True))
    return rows, cols


def apply(steps: Sequence[Step], image: Array) -> Array:
    for step in steps:
        image = step.forward(image)
    return image


def apply_mask(steps: Sequence[Step], mask: Array) -> Array:
    for step in steps:
        mask = step.forward_mask(mask)
    return mask


def undo(steps: Sequence[Step], probs: Array, outside: Array) -> Array:
    """Probabilities (C, h, w) back on the original grid (C, H, W)."""
    for step in reversed(steps):
        probs = step.inverse(probs, outside)
    return np.ascontiguousarray(probs)


def _resize(array: Array, target: Shape, how: int) -> Array:
    """cv2.resize, which drops a channel axis of length one."""
    out = cv2.resize(array, (target[1], target[0]), interpolation=how)
    return out[..., None] if array.ndim == 3 and out.ndim == 2 else out
