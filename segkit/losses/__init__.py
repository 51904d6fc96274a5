"""Losses: named parts, added with weights, reduced in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segkit.data.labels import Mode
from segkit.errors import SegkitError


class WeightedLoss(nn.Module):
    """Sum of named parts. A part takes logits (B, C, *S) and a target as `prepare` makes it, and returns a scalar.

    A network with deep supervision gives several logits, fine to coarse, each judged against the mask at its own scale and
    weighted by `deep_supervision`; by halves where that says nothing (Isensee et al., nnU-Net, 2021). The weights sum to one.
    """

    def __init__(
        self, parts: Mapping[str, nn.Module], weights: Mapping[str, float], mode: Mode, deep_supervision: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.parts, self.mode, self.deep_supervision = nn.ModuleDict(parts), mode, deep_supervision
        self.weights = {name: float(weights.get(name, 1.0)) for name in parts}

    def forward(self, logits: Tensor | Sequence[Tensor], mask: Tensor) -> dict[str, Tensor]:
        """The sum, `loss`, and each part, `loss_NAME`. `mask`: (B, *S) class indices or (B, K, *S) planes, uint8, 255 = ignore."""
        levels = [logits] if isinstance(logits, Tensor) else list(logits)
        values = [self._parts(level, at_scale(mask, level)) for level in levels]
        shares = self._shares(len(levels))
        sums = {name: torch.stack([share * level[name] for share, level in zip(shares, values, strict=True)]).sum() for name in self.parts}
        total = torch.stack([self.weights[name] * value for name, value in sums.items()]).sum()
        return {"loss": total, **{f"loss_{name}": value for name, value in sums.items()}}

    def _parts(self, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        target = prepare(mask, self.mode)
        # Sums over 512 x 512 pixels overflow in float16 and lose digits in bfloat16.
        with torch.autocast(logits.device.type, enabled=False):
            full = logits if logits.dtype == torch.float64 else logits.float()
            return {name: part(full, target) for name, part in self.parts.items()}

    def _shares(self, n: int) -> list[float]:
        given = self.deep_supervision
        if n > 1 and given is not None and len(given) != n:
            raise SegkitError(f"loss.deep_supervision has {len(given)} weights, but the network gives {n} outputs, fine to coarse")
        raw = [1.0] if n == 1 else [float(w) for w in given] if given is not None else [0.5**i for i in range(n)]
        return [weight / sum(raw) for weight in raw]


def at_scale(mask: Tensor, logits: Tensor) -> Tensor:
    """Every s-th pixel of the mask, where the logits have every s-th; as it is at full size."""
    size = logits.shape[2:]
    there = mask.shape[-len(size) :]
    where: tuple[Any, ...] = (..., *(slice(None, None, round(n / m)) for n, m in zip(there, size, strict=True)))
    return mask[where]


def prepare(mask: Tensor, mode: Mode) -> Tensor:
    """Binary: (B, 1, *S) float. Multi-label: (B, K, *S) float. Multi-class: (B, *S) int64. 255 = ignore in all."""
    if mode == "multiclass":
        return mask.long()
    return mask.unsqueeze(1).float() if mode == "binary" else mask.float()
