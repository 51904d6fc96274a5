"""Soft Dice (Milletari et al., V-Net, 2016. arXiv:1606.04797)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from segkit.data.labels import Mode
from segkit.losses.base import class_weights_of
from segkit.losses.overlap import Over, RegionLoss, overlap


def dice_loss(
    mode: Mode,
    smooth: float = 0.0,
    log_loss: bool = False,
    over: Over = "all",
    background: bool = True,
    per_image: bool = False,
    class_weights: Mapping[str, float] | None = None,
    classes: Sequence[str] = (),
) -> nn.Module:
    """1 - (2 TP + smooth) / (P + T + smooth) of the whole batch (or of each image), averaged over classes.

    A class that is absent from the batch counts as 0; `over`=present leaves it out of the mean, strict lets it count by the
    formula (source 000: three of seven classes never occur, so that the loss ends at 3/7, with smooth=1e-5).
    """
    weights = class_weights_of(class_weights, classes, mode)
    return RegionLoss(overlap(0.5, 0.5, smooth / 2), mode, over, background, per_image, log_loss, weights=weights)
