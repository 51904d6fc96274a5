"""Augmentation as a function of (seed, epoch, index). The only file that touches albumentations.

Left alone, albumentations' workers all draw the same random stream and repeat it every epoch, whatever Lightning seeds.
Setting the seed from (seed, epoch, index) before each sample (about 80 us) makes the result independent of workers,
processes, order and crashes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else every import asks a server for news

import albumentations as A

from segkit.config.targets import instantiate

Array = npt.NDArray[Any]


class Augmentation:
    """Random changes of a training image and its mask."""

    def __init__(self, transforms: Mapping[str, Mapping[str, Any] | None], allow: Sequence[str] = ()) -> None:
        self._compose = A.Compose([instantiate(node, allow=allow) for node in transforms.values() if node is not None])

    def __call__(self, image: Array, mask: Array, key: tuple[int, int, int]) -> tuple[Array, Array]:
        """Image (H, W, C) uint8 or float32 in 0..1, mask (H, W) or planes (K, H, W); `key` is (seed, epoch, index)."""
        self._compose.set_random_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        planes = mask.transpose(1, 2, 0) if mask.ndim == 3 else mask
        out = self._compose(image=image, mask=np.ascontiguousarray(planes))
        image, mask = out["image"], out["mask"]
        if image.dtype != np.uint8:
            image = np.clip(image, 0.0, 1.0)
        return image, mask.transpose(2, 0, 1) if mask.ndim == 3 else mask
