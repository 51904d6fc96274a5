"""The network. segkit passes the channels of the images and the number of classes."""

from __future__ import annotations

from torch import Tensor, nn


class Net(nn.Module):
    """Images (B, in_channels, H, W) -> logits (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, width: int = 16) -> None:
        super().__init__()
        channels, layers = in_channels, []
        for dilation in (1, 2, 4, 8):
            layers += [nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]
