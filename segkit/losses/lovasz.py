"""Lovász extension of the Jaccard index (Berman et al., 2018. arXiv:1705.08790), from segmentation-models-pytorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkit.data.labels import IGNORE, Mode


def lovasz_loss(mode: Mode, per_image: bool = False) -> nn.Module:
    """Lovász-softmax over the exclusive classes that occur, else Lovász hinge, averaged over structures."""
    return Lovasz(mode, per_image)


class Lovasz(nn.Module):
    def __init__(self, mode: Mode, per_image: bool) -> None:
        super().__init__()
        from segmentation_models_pytorch.losses import LovaszLoss

        self.mode = mode
        self.loss = LovaszLoss("multiclass" if mode == "multiclass" else "binary", per_image, ignore_index=IGNORE)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        counted = (target != IGNORE).flatten(1).any(dim=1)
        if not counted.any():
            return logits.sum() * 0
        logits, target = logits[counted], target[counted]  # of an image without, smp's multi-class loss would be no scalar
        if self.mode == "multiclass":
            return self.loss(logits, target)  # type: ignore[no-any-return]
        # one structure at a time: smp would sort the pixels of all structures into one line
        return torch.stack([self.loss(plane, truth) for plane, truth in zip(logits.unbind(1), target.unbind(1), strict=True)]).mean()
