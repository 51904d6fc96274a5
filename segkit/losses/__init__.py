"""Losses: named parts, added with weights, reduced in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from segkit.data.labels import IGNORE, Mode
from segkit.system.errors import SegkitError


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

    def forward(self, logits: Tensor | Sequence[Tensor], mask: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        """The sum, `loss`, and each part, `loss_NAME`. `mask`: (B, *S) class indices or (B, K, *S) planes, uint8, 255 = ignore.

        Of several logits each has a mask of its own size.
        """
        levels, masks = ([one] if isinstance(one, Tensor) else list(one) for one in (logits, mask))
        values = [self._parts(level, of_level) for level, of_level in zip(levels, masks, strict=True)]
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
        if n > 1:
            check_shares(given, n)
        raw = [1.0] if n == 1 else [float(w) for w in given] if given is not None else [0.5**i for i in range(n)]
        return [weight / sum(raw) for weight in raw]


def check_shares(given: Sequence[float] | None, n: int) -> None:
    """SegkitError unless there is a weight for each of `n` outputs."""
    if given is not None and len(given) != n:
        outputs = f"{n} outputs, fine to coarse" if n > 1 else "one output: add  model.deep_supervision=LEVELS"
        raise SegkitError(f"loss.deep_supervision has {len(given)} weights, but the network gives {outputs}")
    if given is not None and sum(given) <= 0:
        raise SegkitError("loss.deep_supervision needs a weight above 0")


class Unaware(nn.Module):
    """A loss that knows nothing of ignored pixels, such as those of torch: right as long as there are none."""

    def __init__(self, loss: nn.Module, name: str) -> None:
        super().__init__()
        self.loss, self.name = loss, name

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if (target == IGNORE).any():
            raise SegkitError(
                f"loss.parts.{self.name} does not know of ignored pixels, which are 255 (also the padding of images and patches);\n"
                "  use a loss of segkit, or write one that takes the keyword mode, and leaves them out"
            )
        return self.loss(logits, target)  # type: ignore[no-any-return]


def prepare(mask: Tensor, mode: Mode) -> Tensor:
    """Binary: (B, 1, *S) float. Multi-label: (B, K, *S) float. Multi-class: (B, *S) int64. 255 = ignore in all."""
    if mode == "multiclass":
        return mask.long()
    return mask.unsqueeze(1).float() if mode == "binary" else mask.float()
