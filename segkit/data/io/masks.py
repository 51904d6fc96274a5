"""From the numbers of a mask file to a label map: whole numbers as they are stored, or 0 and 255 by a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.io.base import Array, ReadError


@dataclass(frozen=True)
class MaskRules:
    """How mask files are made label maps.

    Args:
        threshold: numbers from this on become 255, all others (and NaN) 0; of colors the brightest channel counts. None: as stored.
        resize: bring masks of another size than their image to its size, each pixel from the nearest one.
    """

    threshold: float | None = None
    resize: bool = False


AS_STORED = MaskRules()
ROUNDING = 1e-3
"""How far a number may lie from a whole one: what is left of 2 where it was scaled, or resampled and found again."""


class NotWhole(ReadError):
    """A mask that holds fractions or NaN; `extremes` are the least and greatest of its numbers, NaN taken for 0."""

    def __init__(self, path: Path | str, reason: str, extremes: tuple[float, float]) -> None:
        super().__init__(path, reason)
        self.extremes = extremes

    def __reduce__(self) -> tuple[Any, ...]:
        return NotWhole, (self.path, self.reason, self.extremes)


def whole_numbers(path: Path, mask: Array) -> Array:
    """Return integers unchanged, and floats as int32 where they are whole up to the rounding of a scaled file."""
    if not mask.size:
        raise ReadError(path, f"holds no pixels ({' x '.join(map(str, mask.shape))})")
    if mask.dtype.kind in "iu":
        return mask.astype(mask.dtype.newbyteorder("="), copy=False)
    if mask.dtype == bool:
        return mask.astype(np.uint8)
    if mask.dtype.kind != "f":
        raise ReadError(path, f"holds numbers of type {mask.dtype}; a mask holds whole numbers, one a class")
    if not np.isfinite(mask).all():
        finite = np.nan_to_num(mask, posinf=0, neginf=0)
        raise NotWhole(path, "holds NaN or infinity; a mask holds whole numbers, one a class", _extremes(finite))
    whole = np.round(mask)
    if not np.allclose(mask, whole, rtol=0, atol=ROUNDING):
        raise NotWhole(path, "holds fractions; a mask holds whole numbers, one a class", _extremes(mask))
    if max(map(abs, _extremes(whole))) > np.iinfo(np.int32).max:
        raise ReadError(path, "holds numbers beyond 32 bits; a mask holds small whole numbers, one a class")
    return whole.astype(np.int32)


def _extremes(numbers: Array) -> tuple[float, float]:
    return (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)


def thresholded(mask: Array, threshold: float) -> Array:
    """255 where a number is at least `threshold`, else 0, also where it is NaN."""
    return np.where(mask >= threshold, 255, 0).astype(np.uint8)


def without_alpha(pixels: Array, colors: int, is_mask: bool) -> Array:
    """The `colors` of pixels (H, W, C) without their transparency, as (H, W) or (H, W, 3).

    Of a mask that has one color alone, transparent in places, the transparency: that is where its shape is drawn.
    """
    kept, alpha = pixels[..., :colors], pixels[..., -1]
    if is_mask and pixels.shape[2] > colors and not alpha.all() and (kept == kept[:1, :1]).all():
        return alpha
    return kept[..., 0] if colors == 1 else kept


def same_aspect(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether (rows, columns) of one image is a scaled version of the other, to a pixel."""
    (rows, columns), (other_rows, other_columns) = a, b
    return abs(rows * other_columns - other_rows * columns) <= max(other_columns, columns)


def fitted(path: Path, mask: Array, size: tuple[int, int]) -> Array:
    """A mask (H, W) or (H, W, 3) at the size (rows, columns) of its image: of each pixel the nearest one."""
    if mask.shape[:2] == size:
        return mask
    if not same_aspect(mask.shape[:2], size):
        its, of_image = (" x ".join(map(str, shape)) for shape in (mask.shape[:2], size))
        raise ReadError(path, f"is {its} but its image is {of_image}: no scaled version of it, which resize_masks needs")
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, mask.shape[:2], strict=True))
    return np.ascontiguousarray(mask[rows[:, None], columns])
