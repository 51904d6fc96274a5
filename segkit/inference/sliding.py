"""Large images window by window. Windows overlap, and count most in their middle, where the network sees the most around."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Box = tuple[Any, ...]
"""A slice by axis."""

SIGMA = 1 / 8
"""Of the Gaussian, as a share of the window (Isensee et al., nnU-Net, 2021)."""
AT_ONCE = 4
"""Windows in a batch."""


def sliding(network: Callable[[Tensor], Tensor], image: Tensor, window: Shape | None, overlap: float) -> Tensor:
    """`network` (B, C, *w) -> (B, K, *w) over an image (B, C, *S): (B, K, *S) float32.

    An image that is no larger than the window goes through as it is. The sums stay where the image is.
    """
    shape = tuple(image.shape[2:])
    if window is None or all(s <= w for s, w in zip(shape, window, strict=True)):
        return network(image)
    window = tuple(min(s, w) for s, w in zip(shape, window, strict=True))
    weight = torch.from_numpy(gaussian(window)).to(image.device)
    total, weights = None, torch.zeros(shape, device=image.device)
    for boxes in batched(windows(shape, window, overlap), AT_ONCE):
        out = network(torch.cat([image[(..., *box)] for box in boxes])).float()
        if total is None:
            total = torch.zeros((len(image), out.shape[1], *shape), device=image.device)
        for box, part in zip(boxes, torch.split(out, len(image)), strict=True):
            total[(..., *box)] += part * weight
            weights[box] += weight
    assert total is not None
    return total / weights


def windows(shape: Shape, window: Shape, overlap: float) -> list[Box]:
    """Boxes that cover an image, evenly spaced, with at least the wanted overlap."""
    starts = []
    for s, w in zip(shape, window, strict=True):
        n = 1 + -(-(s - w) // max(1, int(w * (1 - overlap))))
        starts.append([round(i * (s - w) / max(1, n - 1)) for i in range(n)])
    return [tuple(slice(a, a + w) for a, w in zip(corner, window, strict=True)) for corner in product(*starts)]


def gaussian(window: Shape) -> Array:
    """1 in the middle; nowhere so small that half precision would lose it."""
    lines = [np.exp(-0.5 * ((np.arange(w) - (w - 1) / 2) / (w * SIGMA)) ** 2) for w in window]
    weight = np.ones(())
    for line in lines:
        weight = weight[..., None] * line
    return np.asarray(np.maximum(weight, 1e-3), np.float32)


def batched(boxes: Sequence[Box], n: int) -> Iterator[Sequence[Box]]:
    for start in range(0, len(boxes), n):
        yield boxes[start : start + n]
