"""Patches of training images, as a function of (seed, epoch, index): some around a structure, the others anywhere.

A center on a structure is drawn class by class, so that a small one comes as often as a large one (Isensee et al., nnU-Net,
2021). Where an image is smaller than the patch it is padded, with pixels that the mask ignores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segkit.data.labels import IGNORE, Array, LabelMap

Locations = Mapping[str, Array]
"""Class name -> (N, dims) int32 pixels of it, evenly taken."""

KEPT = 4000
"""Pixels of a class that are kept as possible centers."""


@dataclass(frozen=True)
class Patches:
    """How patches are cut: `size` by axis, share of them around a structure (`foreground`), how often each class is the one."""

    size: tuple[int, ...]
    foreground: float
    class_weights: Mapping[str, float]

    def cut(self, image: Array, mask: Array, locations: Locations, key: tuple[int, ...]) -> tuple[Array, Array]:
        """One patch of image (*S, C) and mask (*S) or (K, *S)."""
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*key, len(key)])))
        shape = image.shape[:-1]
        start = self._start(shape, locations, random)
        room = [max(0, n - s) for n, s in zip(self.size, shape, strict=True)]
        window: tuple[Any, ...] = tuple(slice(a, a + min(n, s)) for a, n, s in zip(start, self.size, shape, strict=True))
        image, mask = image[window], mask[(..., *window)]
        if not any(room):
            return image, mask
        widths = [(r // 2, r - r // 2) for r in room]
        planes = [(0, 0)] * (mask.ndim - len(shape))
        return np.pad(image, [*widths, (0, 0)]), np.pad(mask, [*planes, *widths], constant_values=IGNORE)

    def _start(self, shape: Sequence[int], locations: Locations, random: np.random.Generator) -> list[int]:
        slack = [max(0, s - n) for n, s in zip(self.size, shape, strict=True)]
        weights = np.array([self.class_weights.get(name, 1.0) for name in locations], float)
        if random.random() >= self.foreground or not weights.sum():
            return [int(random.integers(0, room + 1)) for room in slack]
        name = list(locations)[int(random.choice(len(weights), p=weights / weights.sum()))]
        center = locations[name][int(random.integers(len(locations[name])))]
        return [int(np.clip(c - n // 2, 0, room)) for c, n, room in zip(center, self.size, slack, strict=True)]


def locations_of(mask: Array, labels: LabelMap) -> dict[str, Array]:
    """Where each class lies in an encoded mask; classes that are absent are left out."""
    found = {}
    for k, name in enumerate(labels.classes):
        plane = labels.plane(mask, k)
        inside = np.flatnonzero(plane)
        if inside.size:
            kept = inside[:: max(1, -(-inside.size // KEPT))]
            found[name] = np.stack(np.unravel_index(kept, plane.shape), axis=1).astype(np.int32)
    return found
