"""Normalization, network and activation in one module, used alike by training and prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segkit.data.labels import Mode
from segkit.models.sizes import Shape, box, every
from segkit.system.errors import SegkitError

Normalization = Literal["unit", "dataset", "volume", "image", "minmax", "imagenet"]

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALLEST_SD = 1e-6


class Normalizer(nn.Module):
    """Normalizes unit-scale images (B, C, *S), uint8 or float, to float32. uint8 input is divided by 255 first.

    Args:
        kind: unit: as they are; volume: z-scored before they come here. dataset, imagenet: minus mean, by SD, per channel
            (constants, kept as buffers). image: z-score over each image and channel. minmax: each image and channel to 0..1.
        mean: of each channel, in unit scale; used by dataset.
        sd: of each channel, in unit scale; used by dataset.
        dims: 2 for images, 3 for volumes.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, kind: Normalization, mean: Sequence[float] = (0.0,), sd: Sequence[float] = (1.0,), dims: int = 2) -> None:
        super().__init__()
        self.kind = kind
        if kind == "imagenet":
            # A gray image stands for three equal channels: their average mean and SD.
            one = len(mean) == 1
            mean = (sum(IMAGENET_MEAN) / 3,) if one else IMAGENET_MEAN
            sd = (sum(IMAGENET_SD) / 3,) if one else IMAGENET_SD
        fixed = kind in ("dataset", "imagenet")
        by_channel = (1, -1, *[1] * dims)
        self.register_buffer("mean", torch.tensor(mean if fixed else (0.0,)).view(by_channel))
        self.register_buffer("sd", torch.tensor(sd if fixed else (1.0,)).clamp_min(SMALLEST_SD).view(by_channel))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Normalizer:
        """The constants stay in float32, whatever type of numbers the weights are given."""
        mean, sd = self.mean, self.sd
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.mean, self.sd = mean.to(self.mean.device), sd.to(self.sd.device)
        return self

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
    """The network with its normalizer: images (B, C, *S) of any size -> probabilities (B, n_outputs, *S).

    A network takes (B, C, *S) and returns logits (B, n_outputs, *S); in training it may return a list, fine to coarse
    (deep supervision). It may have a `stride`, the number that every side must divide by (or one a side); 32 is taken where
    it does not; and the `smallest` side that it takes.

    From a network with unpadded convolutions less comes out than went in (`shape`, a `sizes.Shape`). Its `target` says what
    the training compares that with:
    overlap_tile: images are mirrored at their borders, so that the output covers all of them (Ronneberger et al., fig. 2).
    center_crop: the middle of the mask; prediction mirrors, so that nothing is missing.
    resize: the whole mask, made as small as the output (as the HC18 U-Net notebook): out of register, kept to reproduce it.
    """

    def __init__(self, network: nn.Module, normalizer: Normalizer, mode: Mode) -> None:
        super().__init__()
        self.normalizer, self.network, self.mode = normalizer, network, mode
        self.stride: int | tuple[int, ...] = getattr(network, "stride", 32)
        self.smallest: int | tuple[int, ...] = getattr(network, "smallest", 1)
        shape = getattr(network, "shape", None)
        self.shape = shape if isinstance(shape, Shape) and shape.is_smaller else None
        self.target = str(getattr(network, "target", "")) if self.shape else ""
        if isinstance(getattr(network, "final", None), nn.Sigmoid | nn.Softmax):
            network.final = nn.Identity()  # losses want logits; `forward` applies it, in float32

    def logits(self, image: Tensor) -> Tensor:  # (B, C, *S) -> (B, n_outputs, *S) float32
        return self._whole(self._input(image))[0][0]

    def supervised(self, image: Tensor, mask: Tensor) -> tuple[Tensor | list[Tensor], Tensor | list[Tensor]]:
        """Logits, and what of `mask` (B, [K,] *S) they are to be compared with; with deep supervision a list of each."""
        x = self._input(image)
        if self.target in ("center_crop", "resize"):
            logits = self._inner(x)
            return logits, fitted(mask, tuple(logits.shape[2:]), self.target)
        outputs = self._whole(x)
        if len(outputs) == 1:
            return outputs[0][0], mask
        return [out for out, _ in outputs], [mask[every(steps)] for _, steps in outputs]

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (B, n_outputs, *S) in float32: sigmoid, or softmax over exclusive classes."""
        return activate(self.logits(image), self.mode)

    def _input(self, image: Tensor) -> Tensor:
        """Normalized, in the weights' type of numbers: float32, unless the trainer's precision is another."""
        x: Tensor = self.normalizer(image)
        weights: Tensor = next(self.network.parameters(), x)
        return x.to(weights.dtype)

    def _whole(self, x: Tensor) -> list[tuple[Tensor, tuple[int, ...]]]:
        """Logits for every pixel, and 1 along each axis; in training with deep supervision of each level, for every s-th
        pixel (B, n_outputs, ceil(S / s)), and s."""
        size = tuple(x.shape[2:])
        ones = (1,) * len(size)
        if self.target == "resize":
            return [(resized(self._inner(x), size), ones)]
        if self.shape:
            covers = [self.shape.to_cover(n, axis) for axis, n in enumerate(size)]
            before = [(m - n) // 2 for n, (m, _) in zip(size, covers, strict=True)]
            for axis, (n, (m, _), left) in enumerate(zip(size, covers, before, strict=True)):
                x = x.index_select(axis + 2, mirrored(n, left, m - n - left, x.device))
            out = self._inner(x)
            starts = [left - (m - out_n) // 2 for left, (m, out_n) in zip(before, covers, strict=True)]
            return [(out[box(starts, size)], ones)]
        missing = [larger - n for n, larger in zip(size, self._padded(size), strict=True)]
        if any(missing):
            x = nn.functional.pad(x, [width for n in reversed(missing) for width in (0, n)], mode="replicate")
        outputs = as_list(self.network(x), x.ndim)
        scales = [tuple(p // m for p, m in zip(x.shape[2:], out.shape[2:], strict=True)) for out in outputs]
        return [
            (out[box([0] * len(size), [-(-n // s) for n, s in zip(size, steps, strict=True)])].float(), steps)
            for out, steps in zip(outputs, scales, strict=True)
        ]

    def _padded(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The next size that the network takes."""
        strides, smallest = (v if isinstance(v, tuple) else (v,) * len(size) for v in (self.stride, self.smallest))
        return tuple(max(n + -n % stride, least) for n, stride, least in zip(size, strides, smallest, strict=True))

    def _inner(self, x: Tensor) -> Tensor:
        """Logits of the middle alone: what a network with unpadded convolutions returns."""
        assert self.shape is not None
        self.shape.check(x.shape[2:])
        return self.network(x).float()  # type: ignore[no-any-return]


def as_list(outputs: object, ndim: int) -> list[Tensor]:
    """Return the one or several logits of a network as a list; SegkitError where it returns something else."""
    several = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    tensors = [out for out in several if isinstance(out, Tensor) and out.ndim == ndim]
    if len(tensors) < len(several) or not several:
        found = [tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__ for out in several]
        shape = "(B, classes, H, W)" if ndim == 4 else "(B, classes, D, H, W)"
        raise SegkitError(f"model: the network returns {found[0] if found else 'nothing'}, but logits {shape} are needed")
    return tensors


def mirrored(n: int, before: int, after: int, device: torch.device | None = None) -> Tensor:
    """Indices of a line of n pixels, continued by reflection on both sides (the border itself is not repeated)."""
    i = torch.arange(-before, n + after, device=device) % max(1, 2 * n - 2)
    return torch.minimum(i, (2 * n - 2 - i).clamp_min(0)) if n > 1 else torch.zeros_like(i)


def fitted(mask: Tensor, size: tuple[int, ...], how: str) -> Tensor:
    """(B, [K,] *S) -> (B, [K,] *size): its middle, or all of it, nearest neighbor."""
    there = mask.shape[-len(size) :]
    if how == "center_crop":
        return mask[box([(n - m) // 2 for n, m in zip(there, size, strict=True)], size)]
    for axis, (n, m) in enumerate(zip(there, size, strict=True)):
        nearest = ((torch.arange(m, device=mask.device) + 0.5) * n / m).long()
        mask = mask.index_select(mask.ndim - len(size) + axis, nearest)
    return mask


def resized(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    mode = {2: "bilinear", 3: "trilinear"}[len(size)]
    return nn.functional.interpolate(logits, size, mode=mode, align_corners=False)


def activate(logits: Tensor, mode: Mode) -> Tensor:
    return logits.softmax(dim=1) if mode == "multiclass" else logits.sigmoid()
