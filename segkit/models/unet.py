"""The U-Net: a contracting path, an expanding path, and skips between levels of equal size.

Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI 2015. arXiv:1505.04597.
In three dimensions: Çiçek et al., 3D U-Net, MICCAI 2016. arXiv:1606.06650. Residual blocks: He et al., CVPR 2016.
arXiv:1512.03385. Attention gates: Oktay et al., MIDL 2018. arXiv:1804.03999. Strided convolutions, leaky ReLU and deep
supervision: Isensee et al., nnU-Net, Nature Methods 2021. arXiv:1904.08128.

Names in the state dict: encoder.LEVEL.convs.N.conv|norm, up.LEVEL, decoder.LEVEL.convs.N.conv|norm, head.conv.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from segkit.models import sizes
from segkit.models.recompute import recomputed

Norm = Literal["none", "batch", "instance", "group"]
Activation = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu"]
Steps = Sequence[int | Sequence[int]]


class Conv3d(nn.Conv3d):
    """torch 2.15 in bf16 on processors: where a volume is two slices deep, the gradient of the kernel holds memory that nobody
    wrote, NaN now and then. Such a layer is small, so float32 costs nothing."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda or x.shape[2] != 2:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


CONV, UP = {2: nn.Conv2d, 3: Conv3d}, {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOL, DROPOUT = {2: nn.MaxPool2d, 3: nn.MaxPool3d}, {2: nn.Dropout2d, 3: nn.Dropout3d}
BATCH, LINEAR = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}, {2: "bilinear", 3: "trilinear"}
NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda dims, channels: nn.Identity(),
    "batch": lambda dims, channels: BATCH[dims](channels),
    "instance": lambda dims, channels: InstanceNorm(channels),
    "group": lambda dims, channels: nn.GroupNorm(min(8, channels), channels),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),
    "prelu": nn.PReLU,
    "elu": lambda: nn.ELU(inplace=True),
    "gelu": nn.GELU,
    "silu": lambda: nn.SiLU(inplace=True),
}
FINAL: dict[str, Callable[[], nn.Module]] = {"none": nn.Identity, "sigmoid": nn.Sigmoid, "softmax": lambda: nn.Softmax(dim=1)}


@dataclass(frozen=True)
class Style:
    """Settings that all blocks of a network share."""

    dims: int
    convs: int
    padding: Literal["same", "valid"]
    norm: Norm
    pre_norm: bool
    bias: bool
    activation: Activation
    residual: bool

    @property
    def margin(self) -> int:
        """Pixels that a block loses along each axis."""
        return 2 * self.convs if self.padding == "valid" else 0

    def conv(self, n_in: int, n_out: int, step: tuple[int, ...] | int = 1) -> nn.Module:
        return CONV[self.dims](n_in, n_out, 3, step, padding=int(self.padding == "same"), bias=self.bias)  # type: ignore[arg-type]

    def normalize(self, channels: int) -> nn.Module:
        return NORMS[self.norm](self.dims, channels)


class UNet(nn.Module):
    """U-Net on images or volumes: (B, in_channels, [D,] H, W) -> logits (B, out_channels, [D,] H, W).

    In training with deep supervision it returns a list of logits, fine to coarse. Level i works on 1 / 2**i of the input's
    size with `widths[i]` channels; the last level is the bottleneck. conf/model/unet.yaml describes each keyword.

    `pool` sets by how much each level is smaller than the one above, a number or one an axis, such as [[1, 2, 2], 2, 2] for
    volumes of few slices.

    With `padding` same the sides of the input must divide by the product, `stride`; `SegmentationModel` pads to that and crops
    back. `odd_sides` changes this: crop_skip drops the remainder (as the HC18 U-Net notebook: 252 -> 240), resize_up stretches
    what comes from below to the skip (as the chest bone U-Net). With `padding` valid only some sizes are possible, 572 -> 388
    is the paper's (`sizes.py`), and `target` sets what the smaller output is compared with (`segmentation.py`).

    With the classic widths, three input channels and one class it has 31,043,521 parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        dims: Literal[2, 3] = 2,
        convs: int = 2,
        padding: Literal["same", "valid"] = "same",
        norm: Norm = "batch",
        pre_norm: bool = False,
        bias: bool = True,
        activation: Activation = "relu",
        dropout: float = 0.0,
        residual: bool = False,
        attention: bool = False,
        pool: Steps | None = None,
        down: Literal["max_pool", "conv"] = "max_pool",
        up: Literal["transpose", "resize"] = "transpose",
        concat: Literal["skip_first", "up_first"] = "skip_first",
        odd_sides: Literal["pad", "crop_skip", "resize_up"] = "pad",
        bottleneck_norm: bool = False,
        head_norm: bool = False,
        deep_supervision: int = 0,
        final: Literal["none", "sigmoid", "softmax"] = "none",
        target: Literal["overlap_tile", "center_crop", "resize"] = "overlap_tile",
        weights: None = None,
    ) -> None:
        super().__init__()
        if weights is not None:
            raise ValueError("weights are loaded by segkit when a training starts, not by the network itself")
        if len(widths) < 2:
            raise ValueError(f"widths needs at least two levels, got {list(widths)}")
        if convs < 1 or deep_supervision < 0:
            raise ValueError(f"convs = {convs} must be 1 or more, deep_supervision = {deep_supervision} 0 or more")
        if norm == "group" and any(width % min(8, width) for width in widths):
            raise ValueError(f"norm=group makes 8 groups, so every width must divide by 8, got {list(widths)}")
        if deep_supervision > len(widths) - 2:
            raise ValueError(
                f"deep_supervision={deep_supervision}: {len(widths)} widths have {len(widths) - 2} levels between head and bottom"
            )
        if deep_supervision and (padding == "valid" or odd_sides != "pad"):
            raise ValueError("deep_supervision needs padding=same and odd_sides=pad")
        if down == "conv" and (padding == "valid" or odd_sides == "crop_skip"):
            raise ValueError("down=conv needs padding=same, and odd_sides=pad or resize_up")
        if final == "softmax" and out_channels < 2:
            raise ValueError("final=softmax over one channel is always 1;   use  final=sigmoid")
        style = Style(dims, convs, padding, norm, pre_norm, bias, activation, residual)
        steps = by_level(pool, len(widths) - 1, dims)
        self.shape = sizes.Shape(tuple(steps), style.margin, drops_remainder=odd_sides == "crop_skip")
        self.smallest = tuple(math.prod(axis) for axis in zip(*steps, strict=True))
        self.stride = self.smallest if odd_sides == "pad" else (1,) * dims
        self.target, self.concat, self.odd_sides, self.activation = target, concat, odd_sides, activation
        one = (1,) * dims
        strides = [one, *steps] if down == "conv" else [one] * len(widths)
        self.encoder = nn.ModuleList(
            Block(n_in, n, style, step) for (n_in, n), step in zip(pairwise([in_channels, *widths]), strides, strict=True)
        )
        self.pool = nn.ModuleList(POOL[dims](step) if down == "max_pool" else nn.Identity() for step in steps)
        self.bottom = nn.Sequential(style.normalize(widths[-1]) if bottleneck_norm else nn.Identity(), DROPOUT[dims](dropout))
        upwards = list(pairwise(reversed(widths)))  # (1024, 512), (512, 256), ...
        ups = list(zip(upwards, reversed(steps), strict=True))
        self.up = nn.ModuleList(Up(deep, shallow, step, up, dims) for (deep, shallow), step in ups)
        self.gate = nn.ModuleList(Gate(shallow, style) if attention else nn.Identity() for _, shallow in upwards)
        self.decoder = nn.ModuleList(Block(2 * shallow, shallow, style, one) for _, shallow in upwards)
        self.head = head(widths[0], out_channels, dims, head_norm)
        self.deep_heads = nn.ModuleList(head(width, out_channels, dims, head_norm) for width in widths[1 : 1 + deep_supervision])
        self.final = FINAL[final]()
        self.checkpoints = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """In training keep the input of each level alone, and compute its activations again in the backward pass."""
        self.checkpoints = enable

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:  # (B, in_channels, [D,] H, W)
        skips = []
        for level in range(len(self.encoder)):
            x = self.run(self.contract, level, x, layers=[self.encoder[level]])  # (B, widths[level], H / 2**level, W / 2**level)
            skips.append(x)
        x = self.bottom(skips.pop())
        outputs = []
        for i, n_left in enumerate(reversed(range(len(skips)))):
            x = self.run(self.expand, i, x, skips.pop(), layers=[self.gate[i], self.decoder[i]])  # twice the size, half the channels
            if self.training and 0 < n_left <= len(self.deep_heads):
                outputs.append(self.deep_heads[n_left - 1](x))
        logits = self.head(x)  # (B, out_channels, [D,] H, W)
        return [self.final(out) for out in (logits, *reversed(outputs))] if outputs else self.final(logits)

    def run(self, part: Callable[..., Tensor], *inputs: Any, layers: Sequence[nn.Module]) -> Tensor:
        if self.checkpoints and self.training and torch.is_grad_enabled():
            return recomputed(part, *inputs, layers=layers)  # type: ignore[no-any-return]
        return part(*inputs)

    def contract(self, level: int, x: Tensor) -> Tensor:
        return self.encoder[level](self.pool[level - 1](x) if level else x)  # type: ignore[no-any-return]

    def expand(self, i: int, x: Tensor, skip: Tensor) -> Tensor:
        return self.decoder[i](self.join(self.up[i](x), skip, self.gate[i]))  # type: ignore[no-any-return]

    def join(self, up: Tensor, skip: Tensor, gate: nn.Module) -> Tensor:
        if self.odd_sides == "resize_up" and up.shape[2:] != skip.shape[2:]:
            up = interpolate(up, skip.shape[2:], mode=LINEAR[up.ndim - 2], align_corners=False)
        skip = center_crop(skip, up)
        if isinstance(gate, Gate):
            skip = gate(skip, up)
        return torch.cat([skip, up] if self.concat == "skip_first" else [up, skip], dim=1)


class Block(nn.Module):
    """`convs` times 3x3 (3x3x3) convolution, norm, activation; with a shortcut around them in a residual network.

    Output: same size over `step`, less the margin of unpadded convolutions.
    """

    def __init__(self, n_in: int, n_out: int, style: Style, step: tuple[int, ...]) -> None:
        super().__init__()
        self.pre_norm = style.normalize(n_in) if style.pre_norm else nn.Identity()
        convs: list[nn.Module] = []
        for i in range(style.convs):
            parts = {
                "conv": style.conv(n_out if i else n_in, n_out, 1 if i else step),
                "norm": style.normalize(n_out),
                # of the last one after the sum
                "activation": nn.Identity() if style.residual and i == style.convs - 1 else ACTIVATIONS[style.activation](),
            }
            convs.append(nn.Sequential(OrderedDict(parts)))
        self.convs = nn.Sequential(*convs)
        if style.residual:
            same = n_in == n_out and set(step) == {1}
            self.shortcut = nn.Identity() if same else CONV[style.dims](n_in, n_out, 1)
            # A strided 1x1 convolution, in two parts: torch 2.15 corrupts memory in its backward pass on processors (channels
            # last, up to 8 channels).
            self.thinned = sizes.every(step)
            self.activation = ACTIVATIONS[style.activation]()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_norm(x)
        out = self.convs(x)
        if not hasattr(self, "shortcut"):
            return out  # type: ignore[no-any-return]
        return self.activation(out + center_crop(self.shortcut(x[self.thinned]), out))  # type: ignore[no-any-return]


class InstanceNorm(nn.Module):
    """Each image and channel to mean 0 and variance 1, then scale and shift (Ulyanov et al., 2016. arXiv:1607.08022).

    On processors torch's own leaves the channels-last order, and takes 4 times as long. Batch norm of one image is the same.
    A single pixel becomes the shift.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), eps

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.instance_norm if x.is_cuda else torch.batch_norm
        images = [x] if x.is_cuda or len(x) == 1 else torch.split(x, 1)
        done = [norm(image, self.weight, self.bias, None, None, True, 0.0, self.eps, torch.backends.cudnn.enabled) for image in images]
        return done[0] if len(done) == 1 else torch.cat(done)


class Up(nn.Sequential):
    """From `n_in` channels to `n_out` and to `step` times the size.

    Transposed convolution, or 1x1 convolution and linear interpolation (in this order: it gives the same and costs less).
    """

    def __init__(self, n_in: int, n_out: int, step: tuple[int, ...], kind: str, dims: int) -> None:
        if kind == "transpose":
            super().__init__(OrderedDict(conv=UP[dims](n_in, n_out, step, step)))  # type: ignore[arg-type]
        else:
            larger = nn.Upsample(scale_factor=tuple(map(float, step)), mode=LINEAR[dims])
            super().__init__(OrderedDict(conv=CONV[dims](n_in, n_out, 1), resize=larger))


class Gate(nn.Module):
    """Additive attention: each pixel of the skip is weighted by what the level below makes of it (Oktay et al., eq. 1-2)."""

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        inner, conv, norm = max(1, channels // 2), CONV[style.dims], style.normalize
        self.skip = nn.Sequential(conv(channels, inner, 1, bias=False), norm(inner))
        self.below = nn.Sequential(conv(channels, inner, 1, bias=False), norm(inner))
        self.weight = nn.Sequential(nn.ReLU(inplace=True), conv(inner, 1, 1), nn.Sigmoid())

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:  # both (B, channels, *S)
        return skip * self.weight(self.skip(skip) + self.below(below))  # type: ignore[no-any-return]


def head(n_in: int, n_out: int, dims: int, norm: bool) -> nn.Sequential:
    parts: dict[str, nn.Module] = {"conv": CONV[dims](n_in, n_out, 1)}
    return nn.Sequential(OrderedDict(parts | ({"norm": BATCH[dims](n_out)} if norm else {})))


def center_crop(x: Tensor, like: Tensor) -> Tensor:
    """The middle of `x` in the size of `like`; as it is where they agree."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return x[sizes.box([(n - m) // 2 for n, m in zip(x.shape[2:], like.shape[2:], strict=True)], like.shape[2:])]


def by_level(pool: Steps | None, n: int, dims: int) -> list[tuple[int, ...]]:
    """Reduction by level and axis; 2 everywhere without `pool`."""
    given = [2] * n if pool is None else list(pool)
    steps = [(step,) * dims if isinstance(step, int) else tuple(step) for step in given]
    if len(steps) != n or any(len(step) != dims or min(step) < 1 for step in steps):
        raise ValueError(f"pool needs {n} entries, one less than widths, each a number or {dims} of them, got {given}")
    return steps
