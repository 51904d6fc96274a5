"""From a raw image to the network's grid: one code path for training, evaluation and prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segkit.config.schema import Preprocess
from segkit.data.case import Case, encoded_mask
from segkit.data.labels import IGNORE, Array, LabelMap
from segkit.data.transforms import geometry
from segkit.data.transforms.geometry import Step
from segkit.data.transforms.intensity import Intensity, Range, finite


@dataclass(frozen=True)
class Decoded:
    """A case on the network's grid, before anything random."""

    image: Array  # (*S, C), unit scale
    mask: Array  # (*S) or (K, *S) uint8
    shape: tuple[int, ...]
    """Of the image as it was read."""
    range: Range
    steps: tuple[Step, ...]
    locations: dict[str, Array] = field(default_factory=dict)
    """Where each class lies, for patches."""


def to_grid(case: Case, image: Array, config: Preprocess, intensity: Intensity) -> tuple[Array, tuple[Step, ...], Range]:
    """Image (*S, C) as read -> on the network's grid in unit scale, the steps there, and what became 0 and 1.

    Raises:
        ReadError: no value of the image is a number. (A slice may hold none, if its volume does.)
    """
    file = next(iter(case.image.paths), Path(case.id))
    image = finite(image, file if case.dims == 3 or not case.volume else None)
    found = intensity.range_of(case, image)
    steps = geometry.plan(config, image.shape[:-1], case.spacing_mm, found.box)
    return intensity.apply(geometry.apply(steps, image), found), steps, found


def decode(case: Case, labels: LabelMap, config: Preprocess, intensity: Intensity) -> Decoded:
    """Image and mask of a case on the network's grid; where it has no mask, all is `ignore`."""
    raw = case.image.read()
    image, steps, found = to_grid(case, raw, config, intensity)
    if case.masks:
        mask = geometry.apply_mask(steps, encoded_mask(case, labels))
    else:
        planes = (len(labels.classes),) if labels.overlap else ()
        mask = np.full((*planes, *image.shape[:-1]), IGNORE, np.uint8)
    return Decoded(image, mask, raw.shape[:-1], found, steps)
