"""Cross-entropy over exclusive classes, binary cross-entropy otherwise; from segmentation-models-pytorch."""

from __future__ import annotations

from torch import nn

from segkit.data.labels import IGNORE, Mode


def cross_entropy_loss(mode: Mode, label_smoothing: float = 0.0) -> nn.Module:
    """Mean over pixels. `label_smoothing` in 0..1 pulls the targets that far towards 1/2 or 1/classes."""
    from segmentation_models_pytorch.losses import SoftBCEWithLogitsLoss, SoftCrossEntropyLoss

    of_mode = SoftCrossEntropyLoss if mode == "multiclass" else SoftBCEWithLogitsLoss
    loss: nn.Module = of_mode(smooth_factor=label_smoothing, ignore_index=IGNORE)
    return loss
