"""The scale in which images meet augmentation, statistics and the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from segkit.data.case import Case
from segkit.data.slices import recent
from segkit.data.transforms.geometry import Box, foreground_box

Array = npt.NDArray[Any]


SIXTEEN_BIT = 65535
SMALLEST_SD = 1e-6


def unit_scale(image: Array, top: int = SIXTEEN_BIT) -> Array:
    """What scale=auto makes of an image by itself: uint8 as it is, uint16 by `top`, floats outside 0..1 from least to greatest."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return np.minimum(image / np.float32(top), 1).astype(np.float32)
    image = np.nan_to_num(image.astype(np.float32))
    low, high = float(image.min()), float(image.max())
    return image if low >= 0 and high <= 1 else (image - low) / max(high - low, 1e-12)


class Scaling(Protocol):
    """The keys of `preprocess` that say what becomes 0 and 1."""

    @property
    def crop_foreground(self) -> float | None: ...
    @property
    def scale(self) -> Literal["auto", "max", "minmax", "percentiles", "window", "none"]: ...
    @property
    def percentiles(self) -> tuple[float, float]: ...
    @property
    def window(self) -> tuple[float, float] | None: ...
    @property
    def scope(self) -> Literal["volume", "image"]: ...
    @property
    def per_channel(self) -> bool: ...
    @property
    def normalize(self) -> str: ...


@dataclass(frozen=True)
class Range:
    """What becomes 0 and 1 of an image, by channel; with `normalize=volume` mean and SD on that scale; where its foreground lies."""

    low: Array
    high: Array
    mean: Array | None = None
    sd: Array | None = None
    box: Box | None = None


class Intensity:
    """From raw values to the unit scale, as `scaling` says; `top` is the largest value that 16-bit images can hold.

    uint8 under `auto` stays as it is and means 0..255 (the model divides; four times less memory until then). All else becomes
    float32, in 0..1 but for scale=none. Under `auto`, uint16 is divided by `top` (4095 for 12 bit): augmentation changes
    brightness by shares of the whole scale, which would drown images that use a sixteenth of it. Floats outside 0..1 are
    stretched from their least to their greatest value, over the volume.
    """

    def __init__(self, scaling: Scaling, top: int = SIXTEEN_BIT) -> None:
        self.scaling, self.top = scaling, top
        self._known: dict[Any, Range] = {}

    def range_of(self, case: Case, image: Array) -> Range:
        """Over the image itself, or over the volume that it is a slice of; that is looked at once."""
        if self.scaling.scope == "image" or case.whole is None or not self._looks_at_pixels(image.dtype):
            return self._measure(image)
        if case.whole not in self._known:
            self._known[case.whole] = self._measure(recent.read(case.whole))
        found = self._known[case.whole]
        repeats = image.shape[-1] // len(found.low)  # 2.5-D: each neighbour has the channels of the volume
        if found.box is not None:
            found = Range(found.low, found.high, found.mean, found.sd, found.box[-(image.ndim - 1) :])
        return found if repeats == 1 else _repeated(found, repeats)

    def apply(self, image: Array, found: Range) -> Array:
        """(*S, C) raw -> unit scale."""
        if self._stays(image.dtype):
            return image
        image = np.nan_to_num(image.astype(np.float32, copy=False))
        if self.scaling.scale == "none":
            return image
        span = np.maximum(found.high - found.low, np.float32(1e-12))
        unit: Array = np.clip((image - found.low) / span, 0, 1)
        return unit

    def normalize(self, image: Array, found: Range) -> Array:
        """After augmentation: the z-score of normalize=volume; all other kinds are part of the model."""
        if found.mean is None or found.sd is None:
            return image
        if image.dtype == np.uint8:
            image = image / np.float32(255)
        return np.asarray((image - found.mean) / found.sd, np.float32)

    def _stays(self, dtype: np.dtype[Any]) -> bool:
        return self.scaling.scale == "auto" and dtype == np.uint8

    def _looks_at_pixels(self, dtype: np.dtype[Any]) -> bool:
        """Whether the values of the volume matter, or the bit depth and the config say all."""
        by_depth = self.scaling.scale in ("none", "window") or (self.scaling.scale == "auto" and dtype.kind == "u")
        return not by_depth or self.scaling.normalize == "volume" or self.scaling.crop_foreground is not None

    def _measure(self, image: Array) -> Range:
        low, high = self._limits(image)
        share = self.scaling.crop_foreground
        found = Range(low, high, box=None if share is None else foreground_box(image, share))
        if self.scaling.normalize != "volume":
            return found
        unit = self.apply(image, found)
        flat = unit.reshape(-1, unit.shape[-1])
        scale = 255.0 if unit.dtype == np.uint8 else 1.0
        mean, sd = (flat.mean(axis=0, dtype=np.float64) / scale).astype(np.float32), (flat.std(axis=0, dtype=np.float64) / scale)
        return Range(low, high, mean, np.maximum(sd, SMALLEST_SD).astype(np.float32), found.box)

    def _limits(self, image: Array) -> tuple[Array, Array]:
        """What becomes 0 and 1, by channel, float32."""
        how, channels = self.scaling.scale, image.shape[-1]
        if how == "window" and self.scaling.window is not None:
            return _constant(self.scaling.window[0], channels), _constant(self.scaling.window[1], channels)
        if how == "auto" and image.dtype.kind == "u":
            return _constant(0, channels), _constant(self.top if image.dtype == np.uint16 else np.iinfo(image.dtype).max, channels)
        if how == "none":
            return _constant(0, channels), _constant(1, channels)
        values = np.nan_to_num(image.astype(np.float32, copy=False)).reshape(-1, channels)
        if not self.scaling.per_channel:
            low, high = self._of(values.reshape(-1, 1))
            return np.repeat(low, channels), np.repeat(high, channels)
        return self._of(values)

    def _of(self, values: Array) -> tuple[Array, Array]:
        """(N, C) -> least and greatest by column, as `scale` says."""
        if self.scaling.scale == "percentiles":
            low, high = np.percentile(values, self.scaling.percentiles, axis=0).astype(np.float32)
            return low, high
        low, high = values.min(axis=0), values.max(axis=0)
        if self.scaling.scale == "max":
            return np.zeros_like(low), high
        in_unit = self.scaling.scale == "auto" and bool(low.min() >= 0 and high.max() <= 1)
        return (np.zeros_like(low), np.ones_like(high)) if in_unit else (low, high)


def _constant(value: float, channels: int) -> Array:
    return np.full(channels, value, np.float32)


def _repeated(found: Range, n: int) -> Range:
    low, high, mean, sd = (None if a is None else np.tile(a, n) for a in (found.low, found.high, found.mean, found.sd))
    assert low is not None
    assert high is not None
    return Range(low, high, mean, sd, found.box)
