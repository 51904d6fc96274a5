"""One shared network and a light head for each task, inspired by MDU-Net (Wang et al., J. Healthcare Eng. 2020, 2785464).

Of that paper only the abstract was at hand: U-Net, dense connections, several structures of one radiograph as tasks of their
own, and a "mask encoding" that makes the network learn the background, too. Sizes, heads and decoder are segkit's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from segkit.models.smp import SMP


class MultiTaskUNet(nn.Module):
    """A shared U-Net with a head for each task: (B, in_channels, H, W) -> logits (B, out_channels, H, W).

    H and W must divide by `stride`. A head scores foreground and background, each by a plane of its own. Their difference is
    the logit: its sigmoid is the softmax over the two.

    Args:
        in_channels: channels of the images.
        out_channels: number of tasks, one plane each.
        encoder_name: as in `SMP`.
        encoder_weights: as in `SMP`.
        head_channels: inner channels of each head.
        options: keywords of segmentation-models-pytorch's Unet.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        encoder_name: str = "densenet121",
        encoder_weights: str | None = None,
        head_channels: int = 16,
        **options: Any,
    ) -> None:
        super().__init__()
        shared: Any = SMP(in_channels, head_channels, "Unet", encoder_name, encoder_weights, **options)
        self.stride = int(shared.stride)
        self.encoder, self.decoder = shared.encoder, shared.decoder
        width = shared.segmentation_head[0].in_channels
        self.heads = nn.ModuleList(head(width, head_channels) for _ in range(out_channels))

    def forward(self, x: Tensor) -> Tensor:  # (B, in_channels, H, W)
        shared = self.decoder(self.encoder(x))  # (B, width, H, W)
        foreground, background = torch.stack([head(shared) for head in self.heads], dim=1).unbind(dim=2)
        return foreground - background


def head(n_in: int, n_inner: int) -> nn.Sequential:  # (B, n_in, H, W) -> (B, 2, H, W)
    parts: dict[str, nn.Module] = {
        "conv": nn.Conv2d(n_in, n_inner, 3, padding=1, bias=False),
        "norm": nn.BatchNorm2d(n_inner),
        "activation": nn.ReLU(inplace=True),
        "planes": nn.Conv2d(n_inner, 2, 1),
    }
    return nn.Sequential(OrderedDict(parts))
