"""What a smaller grid keeps of the masks: sent there and back by the pipeline's own geometry, and compared with themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from segkit.config.schema import Preprocess
from segkit.data.case import Case, Manifest, encoded_mask
from segkit.data.labels import IGNORE, Array, LabelMap
from segkit.data.statistics import Statistics
from segkit.data.transforms import geometry

MAX_CASES = 32
"""Cases that are sent there and back, evenly taken from those that hold each class."""
LOW = 10
"""Percentile over the cases."""


@dataclass(frozen=True)
class RoundTrip:
    """By class.

    Attributes:
        n: Number of cases.
        dice: 10th percentile of the Dice of a mask with itself.
        thickness_px: Median thickness on the network's grid, in pixels.
    """

    n: int
    dice: Mapping[str, float]
    thickness_px: Mapping[str, float]


def round_trip(manifest: Manifest, statistics: Statistics, config: Preprocess) -> RoundTrip:
    """Send the masks of at most `MAX_CASES` images to the network's grid and back."""
    cases, classes = sample(manifest, statistics), manifest.labels.classes
    dice: dict[str, list[float]] = {name: [] for name in classes}
    thick: dict[str, list[float]] = {name: [] for name in classes}
    for case in cases:
        before, after, scale = there_and_back(case, manifest.labels, config)
        for name, one, other in zip(classes, before, after, strict=True):
            if one.any():
                dice[name].append(2 * float((one & other).sum()) / float(one.sum() + other.sum()))
                thick[name].append(thickness(one) * scale)
    return RoundTrip(
        len(cases),
        {name: float(np.percentile(found, LOW)) for name, found in dice.items() if found},
        {name: float(np.median(found)) for name, found in thick.items() if found},
    )


def sample(manifest: Manifest, statistics: Statistics) -> list[Case]:
    """As many cases of each class, evenly spread over the data set."""
    most = max(1, MAX_CASES // max(1, len(manifest.labels.classes)))
    counts = {case.id: statistics[case.id].class_pixels(manifest.labels) for case in manifest if not statistics[case.id].errors}
    chosen: set[str] = set()
    for name in manifest.labels.classes:
        holders = [id_ for id_, count in counts.items() if count[name]]
        chosen.update(holders[i * len(holders) // most] for i in range(most) if holders)
    return [case for case in manifest if case.id in chosen][:MAX_CASES]


def there_and_back(case: Case, labels: LabelMap, config: Preprocess) -> tuple[Array, Array, float]:
    """Planes (K, *S) of the classes before and after, without ignored pixels, and the factor of the axis that shrinks most."""
    mask = encoded_mask(case, labels)
    shape = mask.shape[-case.dims :]
    steps = geometry.plan(config, shape, case.spacing_mm)
    planes = planes_of(geometry.apply_mask(steps, mask), labels).astype(np.float32)
    after = decided(geometry.undo(steps, planes, np.zeros(len(planes), np.float32)), labels)
    known = (mask != IGNORE).reshape(-1, *shape).all(axis=0)
    resized = [step for step in steps if isinstance(step, geometry.Resize)]
    scale = min((t / s for step in resized for s, t in zip(step.source, step.target, strict=True)), default=1.0)
    return planes_of(mask, labels)[0 if labels.overlap else 1 :] & known, after & known, scale


def planes_of(mask: Array, labels: LabelMap) -> Array:
    """Class indices (*S) as planes (K + 1, *S), the background first; planes (K, *S) as they are."""
    if labels.overlap:
        return np.asarray(mask == 1)
    return np.stack([mask == index for index in range(len(labels.classes) + 1)])


def decided(probs: Array, labels: LabelMap) -> Array:
    """Probabilities as planes (K, *S) of the classes."""
    if labels.overlap:
        return np.asarray(probs >= 0.5)
    strongest = probs.argmax(axis=0)
    return np.stack([strongest == index for index in range(1, len(probs))])


def thickness(plane: Array) -> float:
    """Median thickness of a mask (H, W) in pixels: twice the distance of its ridge to the border."""
    padded = np.pad(plane.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ridge = (distance == cv2.dilate(distance, np.ones((3, 3), np.uint8))) & (padded > 0)
    return float(2 * np.median(distance[ridge]) - 1)
