"""Quantiles of intensities, in the raw values of an image."""

from __future__ import annotations

import numpy as np

from segkit.data.labels import Array, counted
from segkit.data.transforms.intensity import no_numbers

PERCENTILES = (0, 0.5, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 100)
MEDIAN, NEARLY_ALL = PERCENTILES.index(50), PERCENTILES.index(99)
MAX_SAMPLED = 100_000
"""Pixels of float images from which the percentiles are estimated; integers are all counted."""


def quantiles(image: Array) -> tuple[tuple[float, ...], ...]:
    """PERCENTILES of every channel of (..., C) in raw values; NaN and infinity do not count."""
    return tuple(_quantiles(image[..., c].reshape(-1)) for c in range(image.shape[-1]))


def _quantiles(values: Array) -> tuple[float, ...]:
    if values.dtype in (np.uint8, np.uint16) and values.size:
        distinct, counts = counted(values)
        at = np.searchsorted(np.cumsum(counts), np.array(PERCENTILES) / 100 * values.size)
        return tuple(float(v) for v in distinct[np.minimum(at, len(distinct) - 1)])
    sample = values[:: max(1, -(-values.size // MAX_SAMPLED))].astype(np.float64)
    known = sample[~no_numbers(sample)]
    if not known.size:
        return (0.0,) * len(PERCENTILES)
    least, *middle, greatest = np.percentile(known, PERCENTILES)
    right = values if len(known) == values.size else values[~no_numbers(values)]
    return tuple(map(float, (min(least, right.min()), *middle, max(greatest, right.max()))))
