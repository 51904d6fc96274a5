"""The scale in which images meet augmentation, statistics and the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def unit_scale(image: Array) -> Array:
    """uint8 stays as it is and means 0..255 (the model divides; four times less memory until then); all else becomes float32 in 0..1.

    uint16 is divided by 65535; floats outside 0..1 are stretched from the image's smallest to its largest value.
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return (image / np.float32(65535)).astype(np.float32)
    image = np.nan_to_num(image.astype(np.float32))
    low, high = float(image.min()), float(image.max())
    return image if low >= 0 and high <= 1 else (image - low) / max(high - low, 1e-12)
