"""Losses of overlap between soft masks and truth, a score a class: Dice, Jaccard, Tversky, Matthews' correlation.

Milletari et al., V-Net, 2016. arXiv:1606.04797. Salehi et al., Tversky loss, 2017. arXiv:1706.05721. Abraham and Khan, focal
Tversky loss, 2019. arXiv:1810.07842. Abhishek and Hamarneh, MCC loss, 2021. arXiv:2010.13454.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segkit.data.labels import Mode
from segkit.losses.base import class_weights_of, planes, probabilities

Over = Literal["all", "present", "strict"]
"""Which classes a mean is over, where some do not occur. all: of every class, an absent one counts as 0; present: of those that
occur; strict: of every class, an absent one by the formula, which is 1 as soon as any pixel is taken for it."""
Score = Callable[[Tensor, Tensor, Tensor, tuple[int, ...]], Tensor]
"""Soft masks, truth, counted pixels, each (B, C, N), and the axes to sum over -> score by class (and image)."""
SMALLEST = 1e-7


class RegionLoss(nn.Module):
    """1 - score (its negative logarithm with `log_loss`), to the `power`, averaged over classes."""

    weights: Tensor | None

    def __init__(
        self,
        score: Score,
        mode: Mode,
        over: Over = "all",
        background: bool = True,
        per_image: bool = False,
        log_loss: bool = False,
        power: float = 1.0,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.score, self.mode, self.over, self.power, self.log_loss = score, mode, over, power, log_loss
        self.axes = (2,) if per_image else (0, 2)
        self.first = int(mode == "multiclass" and not background)
        self.register_buffer("weights", weights[1:] if weights is not None and mode == "binary" else weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        truth, counted = planes(target, logits, self.mode)
        probs, truth, counted = (x[:, self.first :].flatten(2) for x in (probabilities(logits, self.mode), truth, counted.expand_as(truth)))
        score = self.score(probs * counted, truth * counted, counted, self.axes)  # (C,) or (B, C)
        loss = -score.clamp_min(SMALLEST).log() if self.log_loss else 1 - score
        loss = loss if self.power == 1 else loss.clamp_min(SMALLEST) ** self.power
        occurs = ((truth * counted).sum(self.axes) > 0).to(loss.dtype)
        weights = torch.ones_like(loss) if self.weights is None else self.weights[self.first :].to(loss).expand_as(loss)
        chosen = loss if self.over == "strict" else loss * occurs
        among = weights * occurs if self.over == "present" else weights
        return (chosen * weights).sum() / among.sum().clamp_min(SMALLEST)


def overlap(alpha: float, beta: float, smooth: float) -> Score:
    """Tversky index: true positives over themselves, `alpha` times the false positives and `beta` times the false negatives."""

    def score(probs: Tensor, truth: Tensor, counted: Tensor, axes: tuple[int, ...]) -> Tensor:
        from segmentation_models_pytorch.losses._functional import soft_tversky_score

        index: Tensor = soft_tversky_score(probs, truth, alpha, beta, smooth, SMALLEST, axes)
        return index

    return score


def matthews(probs: Tensor, truth: Tensor, counted: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Phi coefficient of soft masks, from shares instead of counts, whose products stay small; 0 where it is 0/0."""
    n = counted.sum(axes).clamp_min(1)
    products = (probs * truth, probs * (counted - truth), (counted - probs) * truth, (counted - probs) * (counted - truth))
    tp, fp, fn, tn = (product.sum(axes) / n for product in products)
    return (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)).clamp_min(SMALLEST**3).sqrt()


def jaccard_loss(
    mode: Mode,
    smooth: float = 0.0,
    log_loss: bool = False,
    over: Over = "all",
    background: bool = True,
    per_image: bool = False,
    class_weights: Mapping[str, float] | None = None,
    classes: Sequence[str] = (),
) -> nn.Module:
    """1 - intersection over union."""
    weights = class_weights_of(class_weights, classes, mode)
    return RegionLoss(overlap(1.0, 1.0, smooth), mode, over, background, per_image, log_loss, weights=weights)


def tversky_loss(
    mode: Mode,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 1.0,
    smooth: float = 0.0,
    log_loss: bool = False,
    over: Over = "all",
    background: bool = True,
    per_image: bool = False,
    class_weights: Mapping[str, float] | None = None,
    classes: Sequence[str] = (),
) -> nn.Module:
    """`alpha` weighs false positives, `beta` false negatives; `gamma` is the exponent of the focal Tversky loss (there 1 / gamma)."""
    weights = class_weights_of(class_weights, classes, mode)
    return RegionLoss(overlap(alpha, beta, smooth), mode, over, background, per_image, log_loss, gamma, weights)


def mcc_loss(
    mode: Mode,
    over: Over = "all",
    background: bool = True,
    per_image: bool = False,
    class_weights: Mapping[str, float] | None = None,
    classes: Sequence[str] = (),
) -> nn.Module:
    """1 - Matthews' correlation coefficient, which counts true negatives as well."""
    weights = class_weights_of(class_weights, classes, mode)
    return RegionLoss(matthews, mode, over, background, per_image, weights=weights)
