"""Losses of each pixel by itself: a map, averaged over the pixels that count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from segkit.data.labels import IGNORE, Mode
from segkit.losses.base import class_weights_of, planes, probabilities
from segkit.system.errors import SegkitError

Map = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, C, *S) and target (ignored pixels are 0) -> loss of each pixel, in the shape of the target."""


class PixelLoss(nn.Module):
    """Mean over the pixels that count, weighted by their class; with `hardest` < 1 over that share alone, the worst ones.

    Top-k: Wu et al., Bridging category-level and instance-level semantic image segmentation, 2016. arXiv:1605.06885.
    """

    weights: Tensor | None

    def __init__(self, of_pixel: Map, mode: Mode, weights: Tensor | None = None, hardest: float = 1.0) -> None:
        super().__init__()
        if not 0 < hardest <= 1:
            raise SegkitError(f"hardest = {hardest}: a share of the pixels, above 0 and up to 1")
        self.of_pixel, self.mode, self.hardest = of_pixel, mode, hardest
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        counted = target != IGNORE
        clean = target.masked_fill(~counted, 0)
        weight = counted.to(logits.dtype) * self._weight(clean).to(logits)
        values = self.of_pixel(logits, clean) * weight
        if self.hardest < 1:
            # ignored ones last, behind those that are sure to the last digit and cost 0 as well
            order = values.masked_fill(~counted, -1).flatten().argsort(descending=True)
            kept = torch.arange(len(order), device=order.device) < (self.hardest * counted.sum()).ceil()
            values, weight = values.flatten()[order] * kept, weight.flatten()[order] * kept
        return values.sum() / weight.sum().clamp_min(torch.finfo(logits.dtype).tiny)

    def _weight(self, clean: Tensor) -> Tensor:
        """Of each pixel, by its class; of each plane where structures overlap."""
        if self.weights is None:
            return torch.ones((), device=clean.device)
        if self.mode == "multilabel":
            return self.weights.view(1, -1, *[1] * (clean.ndim - 2))
        return self.weights[clean.long()]


def cross_entropy_map(mode: Mode, label_smoothing: float) -> Map:
    if mode == "multiclass":
        return lambda logits, clean: cross_entropy(logits, clean, reduction="none", label_smoothing=label_smoothing)
    return lambda logits, clean: binary_cross_entropy_with_logits(
        logits, (clean * (1 - label_smoothing) + label_smoothing / 2).to(logits.dtype), reduction="none"
    )


def focal_loss(
    mode: Mode,
    gamma: float = 2.0,
    alpha: float | None = None,
    class_weights: Mapping[str, float] | None = None,
    classes: Sequence[str] = (),
) -> nn.Module:
    """Cross-entropy times (1 - probability of the truth) ** gamma (Lin et al., 2017. arXiv:1708.02002).

    `alpha` weighs structure against background (1 - alpha); among exclusive classes `class_weights` does.
    """
    from segmentation_models_pytorch.losses._functional import focal_loss_with_logits, softmax_focal_loss_with_logits

    if gamma < 1:
        raise SegkitError(f"focal_loss: gamma = {gamma}, but below 1 the gradient of a sure pixel is infinite")
    if mode == "multiclass" and alpha is not None:
        raise SegkitError("focal_loss: alpha is for one structure against background;   use  class_weights={NAME: WEIGHT}")

    def of_pixel(logits: Tensor, clean: Tensor) -> Tensor:
        if mode == "multiclass":
            return softmax_focal_loss_with_logits(logits, clean, gamma, "none")  # type: ignore[no-any-return]
        return focal_loss_with_logits(logits, clean, gamma, alpha, "none")  # type: ignore[no-any-return]

    return PixelLoss(of_pixel, mode, class_weights_of(class_weights, classes, mode))


def mse_loss(mode: Mode, class_weights: Mapping[str, float] | None = None, classes: Sequence[str] = ()) -> nn.Module:
    """Squared difference of probability and truth (Brier score), averaged over exclusive classes (source 004)."""

    def of_pixel(logits: Tensor, clean: Tensor) -> Tensor:
        error = (probabilities(logits, mode) - planes(clean, logits, mode)[0]) ** 2
        return error.mean(dim=1) if mode == "multiclass" else error

    return PixelLoss(of_pixel, mode, class_weights_of(class_weights, classes, mode))
