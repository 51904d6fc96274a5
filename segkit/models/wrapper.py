"""Normalise + network + activation in one module, used alike by training, prediction and export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segkit.data.labels import Mode

Normalization = Literal["unit", "dataset", "volume", "image", "minmax", "imagenet"]

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALLEST_SD = 1e-6


class Normalizer(nn.Module):
    """Unit-scale images -> what the network sees.

    unit: as they are; volume: z-scored before they come here. dataset, imagenet: minus mean, by SD, per channel (constants,
    kept as buffers). image: z-score over each image and channel. minmax: each image and channel to 0..1. uint8 input is
    divided by 255 first.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, kind: Normalization, mean: Sequence[float] = (0.0,), sd: Sequence[float] = (1.0,), dims: int = 2) -> None:
        super().__init__()
        self.kind = kind
        if kind == "imagenet":
            # A grey image stands for three equal channels: their average mean and SD.
            one = len(mean) == 1
            mean = (sum(IMAGENET_MEAN) / 3,) if one else IMAGENET_MEAN
            sd = (sum(IMAGENET_SD) / 3,) if one else IMAGENET_SD
        fixed = kind in ("dataset", "imagenet")
        by_channel = (1, -1, *[1] * dims)
        self.register_buffer("mean", torch.tensor(mean if fixed else (0.0,)).view(by_channel))
        self.register_buffer("sd", torch.tensor(sd if fixed else (1.0,)).clamp_min(SMALLEST_SD).view(by_channel))

    def forward(self, image: Tensor) -> Tensor:  # (B, C, *S) uint8 or float -> float32
        x = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        axes = tuple(range(2, x.ndim))
        if self.kind == "image":
            sd, mean = torch.std_mean(x, dim=axes, keepdim=True, correction=0)
            return (x - mean) / sd.clamp_min(SMALLEST_SD)
        if self.kind == "minmax":
            low, high = x.amin(dim=axes, keepdim=True), x.amax(dim=axes, keepdim=True)
            return (x - low) / (high - low).clamp_min(SMALLEST_SD)
        return (x - self.mean) / self.sd


class SegmentationModel(nn.Module):
    """What a checkpoint holds: images in, probabilities out, at any size.

    A network may say its `stride`, the number that every side must divide by (or one a side); 32 is taken where it does not.
    """

    def __init__(self, network: nn.Module, normalizer: Normalizer, mode: Mode) -> None:
        super().__init__()
        self.normalizer, self.network, self.mode = normalizer, network, mode
        self.stride: int | tuple[int, ...] = getattr(network, "stride", 32)

    def logits(self, image: Tensor) -> Tensor:  # (B, C, *S) -> (B, n_outputs, *S) float32
        shape = image.shape[2:]
        strides = self.stride if isinstance(self.stride, tuple) else (self.stride,) * len(shape)
        x = self.normalizer(image)
        missing = [-n % stride for n, stride in zip(shape, strides, strict=True)]
        if any(missing):
            x = nn.functional.pad(x, [width for n in reversed(missing) for width in (0, n)], mode="replicate")
        return self.network(x)[(..., *(slice(n) for n in shape))].float()  # type: ignore[no-any-return]

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (B, n_outputs, *S) in float32: sigmoid, or softmax over exclusive classes."""
        return activate(self.logits(image), self.mode)


def activate(logits: Tensor, mode: Mode) -> Tensor:
    return logits.softmax(dim=1) if mode == "multiclass" else logits.sigmoid()
