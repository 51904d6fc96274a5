"""Cross-entropy over exclusive classes, binary cross-entropy otherwise; from segmentation-models-pytorch."""

from __future__ import annotations

from torch import Tensor, nn

from segkit.data.labels import IGNORE, Mode


def cross_entropy_loss(mode: Mode, label_smoothing: float = 0.0) -> nn.Module:
    """Mean over the pixels that count. `label_smoothing` in 0..1 pulls the targets that far towards 1/2 or 1/classes."""
    from segmentation_models_pytorch.losses import SoftBCEWithLogitsLoss, SoftCrossEntropyLoss

    of_mode = SoftCrossEntropyLoss if mode == "multiclass" else SoftBCEWithLogitsLoss
    return OverCounted(of_mode(smooth_factor=label_smoothing, ignore_index=IGNORE))


class OverCounted(nn.Module):
    """segmentation-models-pytorch divides by all pixels, so that its loss would shrink with the share of ignored ones."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        counted = (target != IGNORE).sum()
        mean: Tensor = self.loss(logits, target)
        return mean * (target.numel() / counted.clamp_min(1))
