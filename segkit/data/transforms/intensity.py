"""The intensity scale of images: what becomes 0 and 1, the z-score of normalize=volume, and the statistics of the training images.

All other kinds of `preprocess.normalize` are applied by the model (`segkit.models.segmentation.Normalizer`), from these statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segkit.config.schema import Preprocess
from segkit.data.case import Case
from segkit.data.io.base import ReadError
from segkit.data.labels import Array
from segkit.data.slices import recent
from segkit.data.transforms.geometry import Box, foreground_box

if TYPE_CHECKING:
    from segkit.data.statistics import CaseStatistics

SIXTEEN_BIT = 65535
SMALLEST_SD = 1e-6
LARGEST = 1e37
"""Of a value that counts as a number: differences and shares of such still fit float32."""
NOTHING_KNOWN = "every value is NaN or infinite"


def no_numbers(image: Array) -> Array:
    """Where values are NaN, infinite or beyond what float32 can still calculate with; bool (*S, C)."""
    return ~(np.abs(image) <= LARGEST)  # a comparison with NaN is false


def finite(image: Array, file: Path | None = None) -> Array:
    """Return an image (*S, C) in which every value is a number within the range of the numbers of its channel.

    What is infinite becomes the least or the greatest of these, NaN 0 or the nearest to it. Resampling comes after this: it would
    spread what is no number over its neighbors.

    Raises:
        ReadError: no value at all is a number, and `file` is given.
    """
    if image.dtype.kind != "f" or not (wrong := no_numbers(image)).any():
        return image
    if file is not None and wrong.all():
        raise ReadError(file, NOTHING_KNOWN)
    axes = tuple(range(image.ndim - 1))
    low = np.min(image, axis=axes, where=~wrong, initial=LARGEST)
    high = np.max(image, axis=axes, where=~wrong, initial=-LARGEST)
    empty = low > high
    low, high = np.where(empty, 0, low), np.where(empty, 0, high)
    return np.asarray(np.clip(np.nan_to_num(image, nan=0.0), low, high), image.dtype)


def unit_scale(image: Array) -> Array:
    """A float image under scale=auto: values outside 0..1 are stretched from the least to the greatest."""
    image = finite(image.astype(np.float32))
    low, high = float(image.min()), float(image.max())
    return image if low >= 0 and high <= 1 else (image - low) / max(high - low, 1e-12)


@dataclass(frozen=True)
class Range:
    """What becomes 0 and 1 of an image, by channel; for `normalize=volume` mean and SD on that scale; the box of its foreground."""

    low: Array
    high: Array
    mean: Array | None = None
    sd: Array | None = None
    box: Box | None = None


class Intensity:
    """Maps raw values to the unit scale, as `scaling` says.

    uint8 under `auto` stays as it is and means 0..255 (the model divides; four times less memory until then). All else becomes
    float32, in 0..1 except for scale=none. Under `auto`, uint16 is divided by `intensity_max` (4095 for 12 bit): augmentation
    changes brightness by shares of the whole scale, which would drown images that use a sixteenth of it. Floats outside 0..1 are
    stretched from their least to their greatest value, over the volume.

    Args:
        scaling: the keys of `preprocess`.
        intensity_max: largest value that 16-bit images of the data set can hold.
    """

    def __init__(self, scaling: Preprocess, intensity_max: int = SIXTEEN_BIT) -> None:
        self.scaling, self.intensity_max = scaling, intensity_max
        self._known: dict[Any, Range] = {}

    def range_of(self, case: Case, image: Array) -> Range:
        """Range over the image itself, or over the volume that it is a slice of, which is measured once."""
        if self.scaling.scope == "image" or case.whole is None or not self._depends_on_pixels(image.dtype):
            return self._measure(image)
        if case.whole not in self._known:
            self._known[case.whole] = self._measure(finite(recent.read(case.whole), next(iter(case.whole.paths), None)))
        found = self._known[case.whole]
        repeats = image.shape[-1] // len(found.low)  # 2.5-D: each neighbor has the channels of the volume
        tiled = {name: np.tile(values, repeats) for name, values in vars(found).items() if name != "box" and values is not None}
        return replace(found, **tiled, box=None if found.box is None else found.box[-(image.ndim - 1) :])

    def apply(self, image: Array, found: Range) -> Array:
        """(*S, C) raw -> unit scale."""
        if self.scaling.scale == "auto" and image.dtype == np.uint8:
            return image
        image = image.astype(np.float32, copy=False)
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

    def _depends_on_pixels(self, dtype: np.dtype[Any]) -> bool:
        """Whether the values of the volume matter, or bit depth and config decide alone."""
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
        return replace(found, mean=mean, sd=np.maximum(sd, SMALLEST_SD).astype(np.float32))

    def _limits(self, image: Array) -> tuple[Array, Array]:
        """What becomes 0 and 1, by channel, float32."""
        how, channels = self.scaling.scale, image.shape[-1]
        fixed: tuple[float, float] | None = None
        if how == "window":
            fixed = self.scaling.window
        elif how == "auto" and image.dtype.kind == "u":
            fixed = 0, self.intensity_max if image.dtype == np.uint16 else np.iinfo(image.dtype).max
        elif how == "none":
            fixed = 0, 1
        if fixed is not None:
            return np.full(channels, fixed[0], np.float32), np.full(channels, fixed[1], np.float32)
        values = image.astype(np.float32, copy=False).reshape(-1, channels)
        if not self.scaling.per_channel:
            low, high = self._extremes(values.reshape(-1, 1))
            return np.repeat(low, channels), np.repeat(high, channels)
        return self._extremes(values)

    def _extremes(self, values: Array) -> tuple[Array, Array]:
        """(N, C) -> least and greatest by column, as `scale` says."""
        if self.scaling.scale == "percentiles":
            low, high = np.percentile(values, self.scaling.percentiles, axis=0).astype(np.float32)
            flat = low == high  # a small structure on a constant background: all of it lies beyond the percentiles
            return np.where(flat, values.min(axis=0), low), np.where(flat, values.max(axis=0), high)
        low, high = values.min(axis=0), values.max(axis=0)
        if self.scaling.scale == "max":
            return np.zeros_like(low), high
        in_unit = self.scaling.scale == "auto" and bool(low.min() >= 0 and high.max() <= 1)
        return (np.zeros_like(low), np.ones_like(high)) if in_unit else (low, high)


@dataclass(frozen=True)
class IntensityStatistics:
    """Intensities of the training images: largest value of their bit depth, mean and SD by channel in unit scale, types of numbers."""

    intensity_max: int
    mean: list[float]
    sd: list[float]
    dtypes: list[str]

    @classmethod
    def of(
        cls, scaling: Preprocess, statistics: Sequence[CaseStatistics], decoded: Callable[[int], Iterable[Array]]
    ) -> IntensityStatistics:
        """Mean and SD from the audit's sums where images keep their bit depth; else, if they are needed, from decoded images.

        Args:
            scaling: the keys of `preprocess`.
            statistics: of the training cases.
            decoded: called with `intensity_max`; yields training images (*S, C) on the network's grid.
        """
        top, channels = intensity_max(statistics), statistics[0].channels
        dtypes = sorted({stats.dtype for stats in statistics})
        if scaling.scale == "auto" and set(dtypes) <= {"uint8", "uint16"}:
            mean, square = _moments_of_sums(statistics, top)
        elif scaling.normalize == "dataset":
            mean, square = _moments(decoded(top))
        else:
            mean, square = np.zeros(channels), np.ones(channels)
        return cls(top, mean.tolist(), np.sqrt(np.maximum(square - mean**2, 0)).tolist(), dtypes)


def _moments_of_sums(statistics: Sequence[CaseStatistics], top: int) -> tuple[Array, Array]:
    """Mean and mean square by channel from the audit's sums, in which 65535 is 1 of 16-bit images."""
    n = sum(math.prod(stats.shape) for stats in statistics)
    mean, square = np.zeros(statistics[0].channels), np.zeros(statistics[0].channels)
    for dtype, largest in (("uint8", SIXTEEN_BIT), ("uint16", top)):
        alike = [stats for stats in statistics if stats.dtype == dtype]
        if alike:
            mean += np.sum([stats.sum for stats in alike], axis=0) / n * SIXTEEN_BIT / largest
            square += np.sum([stats.sum_of_squares for stats in alike], axis=0) / n * (SIXTEEN_BIT / largest) ** 2
    return mean, square


def _moments(images: Iterable[Array]) -> tuple[Array, Array]:
    """Mean and mean square by channel."""
    sums, squares, n = 0.0, 0.0, 0
    for image in images:
        flat = image.reshape(-1, image.shape[-1]).astype(np.float64)
        sums, squares, n = sums + flat.sum(axis=0), squares + (flat**2).sum(axis=0), n + len(flat)
    return np.asarray(sums / n), np.asarray(squares / n)


def intensity_max(statistics: Sequence[CaseStatistics]) -> int:
    """Largest value of the bit depth that 16-bit images really use (4095 for 12 bit); 65535 where there are none."""
    largest = [round(SIXTEEN_BIT * max(stats.maximum)) for stats in statistics if stats.dtype == "uint16"]
    return max(255, int(2 ** max(largest).bit_length()) - 1) if largest else SIXTEEN_BIT
