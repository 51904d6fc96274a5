"""Sliding-window inference: overlapping windows, weighted by a Gaussian, since the network has most context in their middle."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice, product

import numpy as np
import torch
from torch import Tensor

from segkit.config.schema import Train
from segkit.data.labels import Array
from segkit.models.sizes import box

Shape = tuple[int, ...]

SIGMA = 1 / 8
"""Standard deviation of the Gaussian, as a fraction of the window (Isensee et al., nnU-Net, 2021)."""
AT_ONCE = 4
"""Windows per batch, where nothing else is asked for."""
LARGE = 2**28
"""Number of probabilities from which on they are stored in half precision (three digits)."""


def window_of(config: Train) -> Shape | None:
    """Size of the sliding window; None: whole images."""
    return config.sampling.patch if config.inference.window == "auto" else config.inference.window


def sliding(network: Callable[[Tensor], Tensor], image: Tensor, window: Shape | None, overlap: float, at_once: int = AT_ONCE) -> Tensor:
    """`network` (B, C, *w) -> (B, K, *w) over an image (B, C, *S): (B, K, *S) float32; float16 where that is very large.

    An image no larger than the window is predicted whole. Sums are kept for one row of windows at a time (one slab of a volume),
    so that little memory is needed beyond the result.
    """
    shape = tuple(image.shape[2:])
    if window is None or all(s <= w for s, w in zip(shape, window, strict=True)):
        return network(image)
    window = tuple(min(s, w) for s, w in zip(shape, window, strict=True))
    weight = torch.from_numpy(gaussian(window)).to(image.device)
    rows, *others = starts(shape, window, overlap)
    result: Tensor | None = None
    slab, weights = torch.empty(0), torch.empty(0)
    for row, following in zip(rows, [*rows[1:], shape[0]], strict=True):
        part = image[:, :, row : row + window[0]]
        left = product(*others)
        while corners := list(islice(left, at_once)):
            places = [box(corner, window[1:]) for corner in corners]
            out = network(torch.cat([part[place] for place in places])).float()
            if result is None:
                size = (len(image), out.shape[1], *shape)
                result = torch.empty(size, dtype=torch.float16 if math.prod(size) > LARGE else torch.float32, device=image.device)
                slab = torch.zeros((*size[:2], window[0], *shape[1:]), device=image.device)
                weights = torch.zeros((window[0], *shape[1:]), device=image.device)
            for place, one in zip(places, torch.split(out, len(image)), strict=True):
                slab[place] += one * weight
                weights[place] += weight
        assert result is not None
        n = following - row  # rows that no further window sees
        result[:, :, row:following] = slab[:, :, :n] / weights[:n]
        slab, weights = advanced(slab, n, axis=2), advanced(weights, n, axis=0)
    assert result is not None
    return result


def advanced(slab: Tensor, n: int, axis: int) -> Tensor:
    """The slab without its first n rows, with n empty ones at its end."""
    moved = torch.zeros_like(slab)
    kept = slab.shape[axis] - n
    if kept > 0:
        moved.narrow(axis, 0, kept).copy_(slab.narrow(axis, n, kept))
    return moved


def starts(shape: Shape, window: Shape, overlap: float) -> list[list[int]]:
    """Start positions of windows along each axis: evenly spaced, covering the image, with at least the wanted overlap."""
    found = []
    for s, w in zip(shape, window, strict=True):
        n = 1 + -(-(s - w) // max(1, int(w * (1 - overlap))))
        found.append([round(i * (s - w) / max(1, n - 1)) for i in range(n)])
    return found


def gaussian(window: Shape) -> Array:
    """Weights (*window) float32: 1 in the middle, 3e-4 at a border. No floor: near the borders of the image all weights are small,
    and with a floor the border of a window would count as much as the rest."""
    lines = [np.exp(-0.5 * ((np.arange(w) - (w - 1) / 2) / (w * SIGMA)) ** 2) for w in window]
    weight = np.ones(())
    for line in lines:
        weight = weight[..., None] * line
    return np.asarray(weight, np.float32)
