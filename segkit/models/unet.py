"""The U-Net: a contracting path, an expanding path, and skips between levels of equal size.

Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI 2015. arXiv:1505.04597.
Here with padded convolutions, so that the output has the size of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["none", "batch", "instance", "group"]

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "group": lambda channels: nn.GroupNorm(min(8, channels), channels),
}


class UNet(nn.Module):
    """U-Net on 2-D images.

    Level i works on 1 / 2**i of the input's size with `widths[i]` channels; the last level is the bottleneck. Rows and
    columns of the input must divide by `stride` = 2**(len(widths) - 1); the wrapper pads to that and crops back.
    With the classic widths, three input channels and one class it has the original's 31,043,521 parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths needs at least two levels, got {list(widths)}")
        if norm == "group" and any(width % min(8, width) for width in widths):
            raise ValueError(f"norm=group makes 8 groups, so every width must divide by 8, got {list(widths)}")
        self.stride = 2 ** (len(widths) - 1)
        self.encoder = nn.ModuleList(block(n_in, n, norm) for n_in, n in pairwise([in_channels, *widths]))
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(dropout)
        upwards = list(pairwise(reversed(widths)))  # (1024, 512), (512, 256), ...
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, kernel_size=2, stride=2) for deep, shallow in upwards)
        self.decoder = nn.ModuleList(block(2 * shallow, shallow, norm) for _, shallow in upwards)
        self.head = nn.Conv2d(widths[0], out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, in_channels, H, W)
        skips = []
        for level, encode in enumerate(self.encoder):
            x = encode(self.pool(x) if level else x)  # (B, widths[level], H / 2**level, W / 2**level)
            skips.append(x)
        x = self.dropout(skips.pop())
        for up, decode in zip(self.up, self.decoder, strict=True):
            x = decode(torch.cat([skips.pop(), up(x)], dim=1))  # twice the size, half the channels
        return self.head(x)  # type: ignore[no-any-return]  # (B, out_channels, H, W) logits


def block(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Two times 3x3 convolution, norm, ReLU. Output: same rows and columns."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, kernel_size=3, padding=1),
            NORMS[norm](out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
