"""Soft Dice (Milletari et al., V-Net, 2016), from segmentation-models-pytorch."""

from __future__ import annotations

from torch import nn

from segkit.data.labels import IGNORE, Mode


def dice_loss(mode: Mode, smooth: float = 0.0, log_loss: bool = False) -> nn.Module:
    """1 - Dice of the whole batch, averaged over all classes; a class that is absent from the batch counts as 0."""
    from segmentation_models_pytorch.losses import DiceLoss

    loss: nn.Module = DiceLoss(mode, log_loss=log_loss, from_logits=True, smooth=smooth, ignore_index=IGNORE)
    return loss
