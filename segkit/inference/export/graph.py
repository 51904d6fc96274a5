"""The graph that is exported: pads images to the stride, normalizes them, and gives probabilities and the mask."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segkit.data.labels import LabelMap
from segkit.inference.postprocess import Threshold, threshold_of
from segkit.models.segmentation import SegmentationModel, activate
from segkit.models.unet import Conv3d, InstanceNorm

INPUT, OUTPUTS = "image", ("probabilities", "mask")
"""Names in every format that has names."""
EXAMPLE_SIDE = 64
"""Pixels that the sides of an example have at least, where the size is dynamic."""


@dataclass(frozen=True)
class Shapes:
    """What a file takes: `size` (*S) and `batch`; None: any."""

    batch: int | None
    size: tuple[int, ...] | None

    def example(self, graph: ExportGraph) -> Tensor:
        """An image (B, C, *S) to trace. Sides differ and do not divide by the stride: equal ones would be taken for one and the same."""
        sides = self.size or [stride * (-(-EXAMPLE_SIDE // stride) + axis) - 1 for axis, stride in enumerate(graph.strides, start=1)]
        return torch.rand(self.batch or 2, graph.channels, *sides, generator=torch.Generator().manual_seed(0))

    def names(self, dims: int) -> dict[int, str]:
        """Axis -> name of those that are dynamic."""
        spatial = ("slices", "rows", "columns")[-dims:] if self.size is None else ()
        return {**({0: "batch"} if self.batch is None else {}), **dict(enumerate(spatial, start=2))}


class ExportGraph(nn.Module):
    """Images (B, C, *S) float32 in unit scale -> probabilities (B, n_outputs, *S) float32, and the mask, uint8.

    The mask holds class indices (B, *S), 0 is background; where classes overlap, planes (B, K, *S).
    """

    limits: Tensor

    def __init__(self, model: SegmentationModel, channels: int, labels: LabelMap, threshold: Threshold) -> None:
        super().__init__()
        self.dims, self.channels = model.normalizer.mean.ndim - 2, channels
        self.model, self.overlap = traceable(model), labels.overlap
        self.strides, self.smallest = (v if isinstance(v, tuple) else (v,) * self.dims for v in (model.stride, model.smallest))
        limits = [threshold_of(name, threshold) for name in labels.classes]
        self.register_buffer("limits", torch.tensor(limits).view(1, -1, *[1] * self.dims))

    @property
    def takes_any_size(self) -> bool:
        """Whether padding is arithmetic of the image's size alone, with no choice that a graph would have to make."""
        return self.model.shape is None and all(least <= stride for least, stride in zip(self.smallest, self.strides, strict=True))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        probs = activate(self._padded_logits(image), self.model.mode) if self.takes_any_size else self.model(image)
        return probs, self._mask(probs).to(torch.uint8)

    def _padded_logits(self, image: Tensor) -> Tensor:
        """`SegmentationModel.logits` without its questions about sizes. Takes pixels by index: slices would bind the graph to strides."""
        x = self.model.normalizer(image)
        size = x.shape[2:]
        for axis, (n, stride) in enumerate(zip(size, self.strides, strict=True), start=2):
            if stride > 1:
                larger = (n + stride - 1) // stride * stride
                x = x.index_select(axis, torch.arange(larger, device=x.device).clamp(max=n - 1))  # the border is repeated
        logits: Tensor = self.model.network(x).float()
        for axis, (n, stride) in enumerate(zip(size, self.strides, strict=True), start=2):
            if stride > 1:
                logits = logits.index_select(axis, torch.arange(n, device=x.device))
        return logits

    def _mask(self, probs: Tensor) -> Tensor:
        if self.model.mode == "multiclass":
            return probs.argmax(dim=1)
        above = probs >= self.limits
        return above if self.overlap else above[:, 0]


class PlainNorm(nn.Module):
    """`InstanceNorm` by the operator that every format has, in place of one call for each image of a batch."""

    def __init__(self, norm: InstanceNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return torch.instance_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps, False)


def traceable(model: SegmentationModel) -> SegmentationModel:
    """A copy in float32 on the processor, without what only speed or training need and no graph can hold."""
    copied: SegmentationModel = copy.deepcopy(model).eval().cpu().float().to(memory_format=torch.contiguous_format)
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, InstanceNorm):
                setattr(module, name, PlainNorm(child))
            elif isinstance(child, Conv3d):
                child.__class__ = nn.Conv3d  # type: ignore[assignment]  # ours asks for the number of slices, for the sake of bf16 gradients
    return copied.requires_grad_(False)
