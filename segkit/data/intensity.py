"""The scale in which images meet augmentation, statistics and the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


SIXTEEN_BIT = 65535


def unit_scale(image: Array, top: int = SIXTEEN_BIT) -> Array:
    """uint8 stays as it is and means 0..255 (the model divides; four times less memory until then); all else becomes float32 in 0..1.

    uint16 is divided by `top`, the largest value that the data set's bit depth can hold (4095 for 12 bit): augmentation
    changes brightness by shares of the whole scale, which would drown images that use a sixteenth of it. Floats outside
    0..1 are stretched from the image's smallest to its largest value.
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return np.minimum(image / np.float32(top), 1).astype(np.float32)
    image = np.nan_to_num(image.astype(np.float32))
    low, high = float(image.min()), float(image.max())
    return image if low >= 0 and high <= 1 else (image - low) / max(high - low, 1e-12)
