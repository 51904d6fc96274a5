"""Cross-entropy over exclusive classes, binary cross-entropy otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from segkit.data.labels import Mode
from segkit.losses.base import class_weights_of
from segkit.losses.pixelwise import PixelLoss, cross_entropy_map


def cross_entropy_loss(
    mode: Mode,
    label_smoothing: float = 0.0,
    hardest: float = 1.0,
    class_weights: Mapping[str, float] | None = None,
    classes: Sequence[str] = (),
) -> nn.Module:
    """Mean over the pixels that count, or over the `hardest` share of them (top-k: 0.1).

    `label_smoothing` in 0..1 is taken from the truth and shared by all classes (one structure: by truth and its opposite).
    """
    return PixelLoss(cross_entropy_map(mode, label_smoothing), mode, class_weights_of(class_weights, classes, mode), hardest)
