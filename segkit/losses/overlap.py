"""Losses of overlap between soft masks and the target, one score a class: Dice, Jaccard, Tversky, Matthews' correlation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from segkit.data.labels import Mode
from segkit.losses.base import class_weights_of, planes, probabilities

AbsentClasses = Literal["zero", "skip", "formula"]
SMALLEST = 1e-7


@dataclass(eq=False, repr=False)
class OverlapLoss(nn.Module, ABC):
    """1 - score (its negative logarithm with `log_loss`), to the `power`, averaged over classes. Range 0..1 without them.

    Args:
        mode: binary, multiclass or multilabel.
        absent_classes: a class that does not occur in the batch (or image) counts as 0 (`zero`), is left out of the mean
            (`skip`), or counts by the formula, which is 1 as soon as any pixel is predicted (`formula`).
        background: whether the background is one of the classes of a multiclass target.
        per_image: score each image, instead of the batch as one.
        class_weights: weights in the mean by class name, 1 where none is given.
        classes: names of the classes, without the background.

    `forward` takes logits (B, C, *S) and a target as `prepare` makes it; ignored pixels (255) count nowhere.
    """

    mode: Mode
    _: KW_ONLY
    absent_classes: AbsentClasses = "zero"
    background: bool = True
    per_image: bool = False
    class_weights: Mapping[str, float] | None = None
    classes: Sequence[str] = ()
    weights: Tensor | None = field(init=False)

    log_loss = False
    power = 1.0

    def __post_init__(self) -> None:
        super().__init__()
        self.axes = (2,) if self.per_image else (0, 2)
        self.first = int(self.mode == "multiclass" and not self.background)
        weights = class_weights_of(self.class_weights, self.classes, self.mode)
        self.register_buffer("weights", weights[1:] if weights is not None and self.mode == "binary" else weights, persistent=False)

    @abstractmethod
    def score(self, probs: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """Soft masks, target and counted pixels, each (B, C, N) -> score (C,), or (B, C) with `per_image`."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        target, counted = planes(target, logits, self.mode)
        maps = (probabilities(logits, self.mode), target, counted.expand_as(target))
        probs, target, counted = (x[:, self.first :].flatten(2) for x in maps)
        score = self.score(probs * counted, target * counted, counted)
        loss = -score.clamp_min(SMALLEST).log() if self.log_loss else 1 - score
        loss = loss if self.power == 1 else loss.clamp_min(SMALLEST) ** self.power
        occurs = ((target * counted).sum(self.axes) > 0).to(loss.dtype)
        weights = torch.ones_like(loss) if self.weights is None else self.weights[self.first :].to(loss).expand_as(loss)
        chosen = loss if self.absent_classes == "formula" else loss * occurs
        among = weights * occurs if self.absent_classes == "skip" else weights
        return (chosen * weights).sum() / among.sum().clamp_min(SMALLEST)

    def tversky(self, probs: Tensor, target: Tensor, alpha: float, beta: float, smooth: float) -> Tensor:
        """True positives over themselves, `alpha` times the false positives and `beta` times the false negatives."""
        # operation by operation as segmentation_models_pytorch, so that results stay; importing that takes a second
        total, wanted = probs.sum(self.axes), target.sum(self.axes)
        true = (total + wanted - torch.linalg.vector_norm(probs - target, ord=1, dim=self.axes)) / 2
        false, missed = total - true, wanted - true
        index: Tensor = (true + smooth) / (true + alpha * false + beta * missed + smooth).clamp_min(SMALLEST)
        return index


@dataclass(eq=False, repr=False)
class DiceLoss(OverlapLoss):
    """Soft Dice: 1 - (2 TP + smooth) / (P + T + smooth) (Milletari et al., V-Net, 2016. arXiv:1606.04797).

    Args:
        smooth: added to numerator and denominator.
        log_loss: return -log(Dice) instead of 1 - Dice.

    The others are those of `OverlapLoss`.
    """

    smooth: float = 0.0
    log_loss: bool = False

    def score(self, probs: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        return self.tversky(probs, target, 0.5, 0.5, self.smooth / 2)


class JaccardLoss(DiceLoss):
    """1 - intersection over union: (TP + smooth) / (TP + FP + FN + smooth). Arguments as `DiceLoss`."""

    def score(self, probs: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        return self.tversky(probs, target, 1.0, 1.0, self.smooth)


@dataclass(eq=False, repr=False)
class TverskyLoss(OverlapLoss):
    """(1 - TP / (TP + alpha FP + beta FN)) ** gamma (Salehi et al., 2017. arXiv:1706.05721).

    Args:
        alpha: weight of false positives.
        beta: weight of false negatives.
        gamma: exponent of the focal Tversky loss (Abraham and Khan, 2019. arXiv:1810.07842, there 1 / gamma).

    The others are those of `DiceLoss`.
    """

    alpha: float = 0.3
    beta: float = 0.7
    gamma: float = 1.0
    smooth: float = 0.0
    log_loss: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.power = self.gamma

    def score(self, probs: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        return self.tversky(probs, target, self.alpha, self.beta, self.smooth)


class MCCLoss(OverlapLoss):
    """1 - Matthews' correlation coefficient, which counts true negatives as well (Abhishek and Hamarneh, 2021. arXiv:2010.13454).

    Range 0..2. Arguments as `OverlapLoss`.
    """

    def score(self, probs: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """Compute it from shares instead of counts, whose products stay small; 0 where it is 0/0."""
        n = counted.sum(self.axes).clamp_min(1)
        products = (probs * target, probs * (counted - target), (counted - probs) * target, (counted - probs) * (counted - target))
        tp, fp, fn, tn = (product.sum(self.axes) / n for product in products)
        return (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)).clamp_min(SMALLEST**3).sqrt()
