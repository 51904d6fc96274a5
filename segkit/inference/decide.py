"""From the network's probabilities to a mask on the original grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segkit.config.schema import Inference
from segkit.config.targets import instantiate
from segkit.data.labels import LabelMap
from segkit.data.transforms import geometry
from segkit.inference.postprocess import Step, postprocess
from segkit.system.errors import SegkitError, nearest

Array = npt.NDArray[Any]


def restore(probs: Array, steps: Sequence[geometry.Step], labels: LabelMap) -> Array:
    """Probabilities (C, h, w) of the network's grid on the original grid (C, H, W); what it never saw is background."""
    outside = np.zeros(len(probs), np.float32)
    if labels.mode == "multiclass":
        outside[0] = 1.0
    return geometry.undo(steps, probs, outside)


Threshold = float | Mapping[str, float]
"""For all classes, or by class (others 0.5)."""


def decide(probs: Array, labels: LabelMap, threshold: Threshold) -> Array:
    """Class indices (H, W) uint8 of exclusive maps (the likeliest; from `threshold` on if there is one class), else planes (K, H, W)."""
    if labels.mode == "multiclass":
        return likeliest(probs)
    limits = np.array([threshold_of(name, threshold) for name in labels.classes], probs.dtype)
    above: Array = (probs >= limits.reshape(-1, *[1] * (probs.ndim - 1))).astype(np.uint8)
    return above if labels.overlap else above[0]


def likeliest(probs: Array) -> Array:
    """argmax over the first axis (C, *S), row by row of what follows: numpy makes eight bytes of each index on its way."""
    out = np.empty(probs.shape[1:], np.uint8)
    for i in range(len(out)):
        out[i] = probs[:, i].argmax(axis=0)
    return out


def threshold_of(name: str, threshold: Threshold) -> float:
    return float(threshold.get(name, 0.5)) if isinstance(threshold, Mapping) else float(threshold)


@dataclass(frozen=True)
class Decision:
    """From probabilities on the original grid to the mask: thresholds, then steps of post-processing."""

    labels: LabelMap
    threshold: Threshold
    steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, config: Inference, labels: LabelMap, allow: Sequence[str]) -> Decision:
        steps = tuple(instantiate(node, allow=allow) for node in config.postprocess.values() if node is not None)
        check(steps, labels, config.threshold)
        return cls(labels, config.threshold, steps)

    def __call__(self, probs: Array, pixel_mm: tuple[float, ...] = ()) -> Array:
        return postprocess(decide(probs, self.labels, self.threshold), self.labels, self.steps, pixel_mm)


def check(steps: Sequence[Step], labels: LabelMap, threshold: Threshold) -> None:
    """SegkitError where a class is named that there is not, or a threshold that nothing asks."""
    named = {"inference.threshold": list(threshold) if isinstance(threshold, Mapping) else []}
    named["inference.postprocess"] = [name for step in steps for name in step.classes or ()]
    for key, names in named.items():
        for name in names:
            if name not in labels.classes:
                hint = nearest(name, labels.classes) or f"there is {', '.join(labels.classes)}"
                raise SegkitError(f"{key} names the class {name}; {hint}")
    if labels.mode == "multiclass" and threshold != 0.5:
        raise SegkitError("inference.threshold: of exclusive classes the likeliest is taken;   leave it at 0.5")


def planes(mask: Array, labels: LabelMap) -> Array:
    """One bool plane a class (K, H, W), of a decision or a truth; ignored pixels are in none."""
    of_class = [mask[k] == 1 if labels.overlap else mask == k + 1 for k in range(len(labels.classes))]
    return np.stack(of_class)
