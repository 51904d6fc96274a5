"""The U-Net: a contracting path, an expanding path, and skips between levels of equal size.

Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI 2015. arXiv:1505.04597.
Here with padded convolutions, so that the output has the size of the input. In three dimensions: Çiçek et al., 3D U-Net,
MICCAI 2016. arXiv:1606.06650.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["none", "batch", "instance", "group"]

Steps = Sequence[int | Sequence[int]]

CONV, UP = {2: nn.Conv2d, 3: nn.Conv3d}, {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOL, DROPOUT = {2: nn.MaxPool2d, 3: nn.MaxPool3d}, {2: nn.Dropout2d, 3: nn.Dropout3d}
BATCH, INSTANCE = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}, {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda dims, channels: nn.Identity(),
    "batch": lambda dims, channels: BATCH[dims](channels),
    "instance": lambda dims, channels: INSTANCE[dims](channels, affine=True),
    "group": lambda dims, channels: nn.GroupNorm(min(8, channels), channels),
}


class UNet(nn.Module):
    """U-Net on images (`dims` 2) or volumes (3).

    Level i works on 1 / 2**i of the input's size with `widths[i]` channels; the last level is the bottleneck. `pool` says
    otherwise: by how much each level is smaller than the one above, a number or one an axis, such as [[1, 2, 2], 2, 2] for
    volumes of few slices. The sides of the input must divide by the product, `stride`; the wrapper pads to that and crops
    back. With the classic widths, three input channels and one class it has the original's 31,043,521 parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        norm: Norm = "batch",
        dropout: float = 0.0,
        pool: Steps | None = None,
        dims: Literal[2, 3] = 2,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths needs at least two levels, got {list(widths)}")
        if norm == "group" and any(width % min(8, width) for width in widths):
            raise ValueError(f"norm=group makes 8 groups, so every width must divide by 8, got {list(widths)}")
        steps = by_level(pool, len(widths) - 1, dims)
        self.stride = tuple(math.prod(axis) for axis in zip(*steps, strict=True))
        self.encoder = nn.ModuleList(block(n_in, n, norm, dims) for n_in, n in pairwise([in_channels, *widths]))
        self.pool = nn.ModuleList(POOL[dims](step) for step in steps)
        self.dropout = DROPOUT[dims](dropout)
        upwards = list(pairwise(reversed(widths)))  # (1024, 512), (512, 256), ...
        ups = zip(upwards, reversed(steps), strict=True)
        self.up = nn.ModuleList(UP[dims](deep, shallow, step, step) for (deep, shallow), step in ups)  # type: ignore[arg-type]
        self.decoder = nn.ModuleList(block(2 * shallow, shallow, norm, dims) for _, shallow in upwards)
        self.head = CONV[dims](widths[0], out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, in_channels, [D,] H, W)
        skips = []
        for level, encode in enumerate(self.encoder):
            x = encode(self.pool[level - 1](x) if level else x)  # (B, widths[level], H / 2**level, W / 2**level)
            skips.append(x)
        x = self.dropout(skips.pop())
        for up, decode in zip(self.up, self.decoder, strict=True):
            x = decode(torch.cat([skips.pop(), up(x)], dim=1))  # twice the size, half the channels
        return self.head(x)  # type: ignore[no-any-return]  # (B, out_channels, [D,] H, W) logits


def by_level(pool: Steps | None, n: int, dims: int) -> list[tuple[int, ...]]:
    """Reduction by level and axis; 2 everywhere where `pool` does not say."""
    given = [2] * n if pool is None else list(pool)
    steps = [(step,) * dims if isinstance(step, int) else tuple(step) for step in given]
    if len(steps) != n or any(len(step) != dims or min(step) < 1 for step in steps):
        raise ValueError(f"pool needs {n} entries, one less than widths, each a number or {dims} of them, got {given}")
    return steps


def block(in_channels: int, out_channels: int, norm: Norm, dims: int) -> nn.Sequential:
    """Two times 3x3 (3x3x3) convolution, norm, ReLU. Output: same size."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            CONV[dims](channels, out_channels, kernel_size=3, padding=1),
            NORMS[norm](dims, out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
