"""What the values of a mask say about how it was made: one value a class, or gray levels of a blurred or compressed file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

MAX_VALUES = 1024
"""Distinct values of a mask that are counted; one that holds more is no label map."""
MANY = 5
"""With fewer values than this, each is taken for a class."""
WIDE = 100
"""Range from the lowest to the highest value within which clusters are not looked for: classes are numbered closely."""


def cut_between_clusters(counts: Mapping[int, int]) -> int | None:
    """The threshold between two clusters of gray levels, halfway between the most frequent level of each.

    Two clusters: a quarter of the range at either end holds at least three quarters of the pixels, and no level between the two is
    nearly as frequent as the most frequent one at the upper end. So are masks of 0 and 255 after JPEG or a smooth resize, but not
    label maps, and not 0, 1, 2, …, 20 with 255 for what is ignored.

    Args:
        counts: number of pixels by value.

    Returns:
        The least value of the upper cluster's side; None where there are no two clusters.
    """
    values = np.array(sorted(counts))
    if len(values) < MANY or values[-1] - values[0] < WIDE:
        return None
    pixels, quarter = np.array([counts[value] for value in values.tolist()]), (values[-1] - values[0]) / 4
    low, high = values <= values[0] + quarter, values >= values[-1] - quarter
    between = pixels[~low & ~high]
    if (~low).sum() < 3 or between.sum() > pixels.sum() / 4 or between.max(initial=0) > pixels[high].max() / 4:
        return None
    modes = [int(values[part][pixels[part].argmax()]) for part in (low, high)]
    return math.ceil(sum(modes) / 2)


def gray_counts(counts: Mapping[str, int]) -> dict[int, int]:
    """Number of pixels by gray level; a color counts as its brightest channel, as the threshold has it."""
    levels: Counter[int] = Counter()
    for value, n in counts.items():
        levels[max(bytes.fromhex(value[1:])) if value.startswith("#") else int(value)] += n
    return dict(levels)
