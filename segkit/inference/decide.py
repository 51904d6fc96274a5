"""From the network's probabilities to a mask on the original grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segkit.data import geometry
from segkit.data.geometry import Step
from segkit.data.labels import LabelMap

Array = npt.NDArray[Any]


def restore(probs: Array, steps: Sequence[Step], labels: LabelMap) -> Array:
    """Probabilities (C, h, w) of the network's grid on the original grid (C, H, W); what it never saw is background."""
    outside = np.zeros(len(probs), np.float32)
    if labels.mode == "multiclass":
        outside[0] = 1.0
    return geometry.undo(steps, probs, outside)


def decide(probs: Array, labels: LabelMap, threshold: float) -> Array:
    """Class indices (H, W) uint8 of exclusive maps (the likeliest; from `threshold` on if there is one class), else planes (K, H, W)."""
    if labels.mode == "multiclass":
        likeliest: Array = probs.argmax(axis=0).astype(np.uint8)
        return likeliest
    above: Array = (probs >= threshold).astype(np.uint8)
    return above if labels.overlap else above[0]


def planes(mask: Array, labels: LabelMap) -> Array:
    """One bool plane a class (K, H, W), of a decision or a truth; ignored pixels are in none."""
    of_class = [mask[k] == 1 if labels.overlap else mask == k + 1 for k in range(len(labels.classes))]
    return np.stack(of_class)
