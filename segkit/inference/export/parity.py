"""Whether an exported file computes what the checkpoint does, and how fast each of them is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segkit.data.labels import Array, LabelMap
from segkit.inference.export.runtime import ExportedModel
from segkit.inference.postprocess import Threshold, decide
from segkit.models.segmentation import SegmentationModel
from segkit.system.errors import SegkitError

MOST_DIFFERENT, LEAST_EQUAL = 1e-4, 0.999
"""Of probabilities, and the share of mask pixels, in float32."""
PASSES, SECONDS = 5, 2.0
"""A time is the median of at least so many passes, or of those that fit into so many seconds."""


class Different(SegkitError):
    """An exported file that does not compute what the checkpoint does."""

    exit_code = 1


@dataclass(frozen=True)
class Parity:
    """Differences between torch in float32 and an exported file, over `n` images on the network's grid.

    Attributes:
        largest: Largest difference of probabilities.
        equal: Share of mask pixels that are equal.
        dice: Dice between the masks, the mean over classes and images that either shows; 1 where none is.
        n: Images.
    """

    largest: float
    equal: float
    dice: float
    n: int

    @property
    def is_close(self) -> bool:
        """Whether a file in float32 differs from torch by no more than rounding does."""
        return self.largest <= MOST_DIFFERENT and self.equal >= LEAST_EQUAL

    def check(self, name: str) -> None:
        """Raise `Different` where it is not close."""
        if not self.is_close:
            allowed = f"at most {MOST_DIFFERENT:g} and at least {LEAST_EQUAL:.1%} are taken for the same network"
            raise Different(f"{name} is not what torch computes, so it was not kept: {self}; {allowed};   choose another  format=")

    def __str__(self) -> str:
        numbers = f"equal mask pixels {self.equal:.4%}, Dice between masks {self.dice:.4f}"
        return f"largest difference of probabilities {self.largest:.1g}, {numbers}"


def compare(model: SegmentationModel, file: ExportedModel, images: Iterable[Tensor], labels: LabelMap, threshold: Threshold) -> Parity:
    """Compare on images (B, C, *S) in unit scale. The masks are the file's own, and what prediction makes of torch's probabilities."""
    largest, equal, pixels, dices, n = 0.0, 0, 0, [], 0
    for batch in images:
        with torch.inference_mode():
            probs, (theirs, masks) = model(batch).numpy(), map(Tensor.numpy, file.outputs(batch))
        largest = max(largest, float(np.abs(probs - theirs).max()))
        for ours, mask in zip((decide(one, labels, threshold) for one in probs), masks, strict=True):
            equal, pixels, n = equal + int((ours == mask).sum()), pixels + mask.size, n + 1
            dices += dice_by_class(labels.planes(ours), labels.planes(mask))
    return Parity(largest, equal / pixels, float(np.mean(dices)) if dices else 1.0, n)


def dice_by_class(a: Array, b: Array) -> list[float]:
    """Dice of each class (K, *S) that either mask shows."""
    pairs = [(np.asarray(p, bool), np.asarray(q, bool)) for p, q in zip(a, b, strict=True)]
    return [2 * float((p & q).sum()) / float(p.sum() + q.sum()) for p, q in pairs if p.any() or q.any()]


def images_per_second(network: Callable[[Tensor], object], image: Tensor) -> float:
    """The median over passes of one image (1, C, *S), after one that does not count."""
    times: list[float] = []
    with torch.inference_mode():
        network(image)
        start = time.perf_counter()
        while len(times) < PASSES or (time.perf_counter() - start < SECONDS and len(times) < 10 * PASSES):
            before = time.perf_counter()
            network(image)
            times.append(time.perf_counter() - before)
    return 1 / statistics.median(times)
