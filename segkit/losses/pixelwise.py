"""Losses of each pixel by itself, averaged over the pixels that count; and the Lovász loss, which sorts the pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from segkit.data.labels import IGNORE, Mode
from segkit.losses.base import class_weights_of, planes, probabilities
from segkit.losses.logistic import binary_cross_entropy
from segkit.system.errors import SegkitError


@dataclass(eq=False, repr=False)
class PixelLoss(nn.Module, ABC):
    """Mean of `of_pixel` over the pixels that count, weighted by their class.

    Args:
        mode: binary, multiclass or multilabel.
        class_weights: weight of the pixels of a class by its name, 1 where none is given; of whole planes in multilabel mode.
        classes: names of the classes, without the background.

    `forward` takes logits (B, C, *S) and a target as `prepare` makes it; ignored pixels (255) count nowhere.
    """

    mode: Mode
    _: KW_ONLY
    class_weights: Mapping[str, float] | None = None
    classes: Sequence[str] = ()
    weights: Tensor | None = field(init=False)

    topk_fraction = 1.0
    """The mean is over this share of the pixels, those with the highest loss."""

    def __post_init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", class_weights_of(self.class_weights, self.classes, self.mode), persistent=False)

    @abstractmethod
    def of_pixel(self, logits: Tensor, clean: Tensor) -> Tensor:
        """Logits (B, C, *S) and target (ignored pixels are 0) -> loss of each pixel, in the shape of the target."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        counted = target != IGNORE
        clean = target.masked_fill(~counted, 0)
        weight = counted.to(logits.dtype) * self._weight(clean).to(logits)
        values = self.of_pixel(logits, clean) * weight
        if self.topk_fraction < 1:
            # ignored ones last, behind those that are sure to the last digit and cost 0 as well
            order = values.masked_fill(~counted, -1).flatten().argsort(descending=True)
            kept = torch.arange(len(order), device=order.device) < (self.topk_fraction * counted.sum()).ceil()
            values, weight = values.flatten()[order] * kept, weight.flatten()[order] * kept
        return values.sum() / weight.sum().clamp_min(torch.finfo(logits.dtype).tiny)

    def _weight(self, clean: Tensor) -> Tensor:
        """Weight of each pixel by its class; of each plane where structures overlap."""
        if self.weights is None:
            return torch.ones((), device=clean.device)
        if self.mode == "multilabel":
            return self.weights.view(1, -1, *[1] * (clean.ndim - 2))
        return self.weights[clean.long()]


@dataclass(eq=False, repr=False)
class CrossEntropyLoss(PixelLoss):
    """Cross-entropy over exclusive classes, binary cross-entropy otherwise; top-k with `topk_fraction` below 1.

    Args:
        label_smoothing: in 0..1, taken from the target and shared by all classes (one structure: by it and its opposite).
        topk_fraction: in (0, 1]: the mean is over this share of the pixels, those with the highest loss
            (Wu et al., 2016. arXiv:1605.06885).

    The others are those of `PixelLoss`.
    """

    label_smoothing: float = 0.0
    topk_fraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.topk_fraction <= 1:
            raise SegkitError(f"topk_fraction = {self.topk_fraction}: a share of the pixels, above 0 and up to 1")
        super().__post_init__()

    def of_pixel(self, logits: Tensor, clean: Tensor) -> Tensor:
        if self.mode == "multiclass":
            return cross_entropy(logits, clean, reduction="none", label_smoothing=self.label_smoothing)
        smoothed = clean * (1 - self.label_smoothing) + self.label_smoothing / 2
        return binary_cross_entropy(logits, smoothed)


@dataclass(eq=False, repr=False)
class FocalLoss(PixelLoss):
    """Cross-entropy times (1 - probability of the target) ** gamma (Lin et al., 2017. arXiv:1708.02002).

    Args:
        gamma: 1 or more: how little the pixels that are sure already count.
        alpha: weight of the structure against the background (1 - alpha); among exclusive classes use `class_weights`.

    The others are those of `PixelLoss`.
    """

    gamma: float = 2.0
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.gamma < 1:
            raise SegkitError(f"FocalLoss: gamma = {self.gamma}, but below 1 the gradient of a sure pixel is infinite")
        if self.mode == "multiclass" and self.alpha is not None:
            raise SegkitError("FocalLoss: alpha is for one structure against background;   use  'class_weights={NAME: WEIGHT}'")
        super().__post_init__()

    def of_pixel(self, logits: Tensor, clean: Tensor) -> Tensor:
        from segmentation_models_pytorch.losses._functional import focal_loss_with_logits, softmax_focal_loss_with_logits

        if self.mode == "multiclass":
            return softmax_focal_loss_with_logits(logits, clean, self.gamma, "none")  # type: ignore[no-any-return]
        return focal_loss_with_logits(logits, clean, self.gamma, self.alpha, "none")  # type: ignore[no-any-return]


class MSELoss(PixelLoss):
    """Squared difference of probability and target (Brier score), averaged over exclusive classes. Range 0..1.

    Arguments as `PixelLoss`.
    """

    def of_pixel(self, logits: Tensor, clean: Tensor) -> Tensor:
        error = (probabilities(logits, self.mode) - planes(clean, logits, self.mode)[0]) ** 2
        return error.mean(dim=1) if self.mode == "multiclass" else error


class LovaszLoss(nn.Module):
    """Lovász extension of the Jaccard index (Berman et al., 2018. arXiv:1705.08790), from segmentation-models-pytorch.

    Lovász-softmax over the exclusive classes that occur, else Lovász hinge, averaged over structures.

    Args:
        mode: binary, multiclass or multilabel.
        per_image: average over images, instead of taking the batch as one.
    """

    def __init__(self, mode: Mode, per_image: bool = False) -> None:
        super().__init__()
        from segmentation_models_pytorch.losses import LovaszLoss as Lovasz

        self.mode = mode
        self.loss = Lovasz("multiclass" if mode == "multiclass" else "binary", per_image, ignore_index=IGNORE)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        counted = (target != IGNORE).flatten(1).any(dim=1)
        if not counted.any():
            return logits.sum() * 0
        # smp's knows float32 alone, and its multi-class loss would be no scalar of an image without
        logits, target = logits[counted].float(), target[counted]
        if self.mode == "multiclass":
            return self.loss(logits, target)  # type: ignore[no-any-return]
        # one structure at a time: smp would sort the pixels of all structures into one line
        return torch.stack([self.loss(plane, mask) for plane, mask in zip(logits.unbind(1), target.unbind(1), strict=True)]).mean()
