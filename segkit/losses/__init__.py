"""Losses: named parts, added with weights, reduced in float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segkit.data.labels import Mode


class WeightedLoss(nn.Module):
    """Sum of named parts. A part takes logits (B, C, H, W) and a target as `prepare` makes it, and returns a scalar."""

    def __init__(self, parts: Mapping[str, nn.Module], weights: Mapping[str, float], mode: Mode) -> None:
        super().__init__()
        self.parts, self.mode = nn.ModuleDict(parts), mode
        self.weights = {name: float(weights.get(name, 1.0)) for name in parts}

    def forward(self, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The sum, `loss`, and each part, `loss_NAME`. `mask`: (B, H, W) class indices or (B, K, H, W) planes, uint8, 255 = ignore."""
        target = prepare(mask, self.mode)
        # Sums over 512 x 512 pixels overflow in float16 and lose digits in bfloat16.
        with torch.autocast(logits.device.type, enabled=False):
            values = {name: part(logits.float(), target) for name, part in self.parts.items()}
        total = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return {"loss": total, **{f"loss_{name}": value for name, value in values.items()}}


def prepare(mask: Tensor, mode: Mode) -> Tensor:
    """Binary: (B, 1, H, W) float. Multi-label: (B, K, H, W) float. Multi-class: (B, H, W) int64. 255 = ignore in all."""
    if mode == "multiclass":
        return mask.long()
    return mask.unsqueeze(1).float() if mode == "binary" else mask.float()
