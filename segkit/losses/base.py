"""Shared parts of all losses: probabilities, one plane a class, class weights; and the weighted sum that trains a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from segkit.data.labels import BACKGROUND, IGNORE, Mode
from segkit.losses.logistic import at_least_float32, sigmoid
from segkit.system.errors import SegkitError, nearest


class WeightedLoss(nn.Module):
    """Sum of named parts, reduced in float32, over one output of a network or over several (deep supervision).

    Args:
        parts: losses by name. Each takes logits (B, C, *S) and a target as `prepare` makes it, and returns a scalar.
        weights: factor of each part, 1 where none is given.
        mode: binary, multiclass or multilabel.
        deep_supervision: weights of the outputs, fine to coarse; None halves them from level to level (Isensee et al.,
            nnU-Net, 2021). They are scaled to sum to one.
    """

    def __init__(
        self, parts: Mapping[str, nn.Module], weights: Mapping[str, float], mode: Mode, deep_supervision: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.parts, self.mode, self.deep_supervision = nn.ModuleDict(parts), mode, deep_supervision
        self.weights = {name: float(weights.get(name, 1.0)) for name in parts}

    def forward(self, logits: Tensor | Sequence[Tensor], mask: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        """Compare logits with masks.

        Args:
            logits: (B, C, *S), or a list of them, fine to coarse.
            mask: (B, *S) class indices or (B, K, *S) planes, uint8, 255 = ignore; a list with one mask for each output.

        Returns:
            The weighted sum, `loss`, and each part, `loss_NAME`; scalars.
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
            full = at_least_float32(logits).contiguous()  # in the memory order of the mask
            return {name: part(full, target) for name, part in self.parts.items()}

    def _shares(self, n: int) -> list[float]:
        given = self.deep_supervision
        if n > 1:
            check_shares(given, n)
        raw = [1.0] if n == 1 else [float(w) for w in given] if given is not None else [0.5**i for i in range(n)]
        return [weight / sum(raw) for weight in raw]


class IgnoreGuard(nn.Module):
    """Wraps a loss that has no notion of ignored pixels, such as those of torch, and refuses targets that contain any."""

    def __init__(self, loss: nn.Module, name: str) -> None:
        super().__init__()
        self.loss, self.name = loss, name

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if (target == IGNORE).any():
            raise SegkitError(
                f"loss.parts.{self.name} cannot handle ignored pixels, which are 255 (also the padding of images and patches);\n"
                "  use a loss of segkit, or write one that takes the keyword mode, and leaves them out"
            )
        return self.loss(logits, target)  # type: ignore[no-any-return]


def check_shares(given: Sequence[float] | None, n: int) -> None:
    """Raise SegkitError unless there is a weight for each of `n` outputs."""
    if given is not None and len(given) != n:
        outputs = f"{n} outputs, fine to coarse" if n > 1 else "one output: add  model.deep_supervision=LEVELS"
        raise SegkitError(f"loss.deep_supervision has {len(given)} weights, but the network gives {outputs}")
    if given is not None and sum(given) <= 0:
        raise SegkitError("loss.deep_supervision needs a weight above 0")


def prepare(mask: Tensor, mode: Mode) -> Tensor:
    """Binary: (B, 1, *S) float. Multi-label: (B, K, *S) float. Multi-class: (B, *S) int64. 255 = ignore in all."""
    if mode == "multiclass":
        return mask.long()
    return mask.unsqueeze(1).float() if mode == "binary" else mask.float()


def probabilities(logits: Tensor, mode: Mode) -> Tensor:  # (B, C, *S)
    """Compute them so that their gradients do not vanish before they do themselves."""
    return logits.log_softmax(dim=1).exp() if mode == "multiclass" else sigmoid(logits)


def planes(target: Tensor, logits: Tensor, mode: Mode) -> tuple[Tensor, Tensor]:
    """The target as (B, C, *S) in 0..1 and the pixels that count (B, 1 or C, *S), in the dtype of the logits."""
    counted = target != IGNORE
    clean = target.masked_fill(~counted, 0)
    if mode == "multiclass":
        clean, counted = torch.zeros_like(logits).scatter_(1, clean.unsqueeze(1), 1), counted.unsqueeze(1)
    return clean.to(logits.dtype), counted.to(logits.dtype)


def class_weights_of(given: Mapping[str, float] | None, classes: Sequence[str], mode: Mode) -> Tensor | None:
    """Weights in the order of the planes, background first unless structures overlap; 1 for what `given` does not name."""
    if not given:
        return None
    order = list(classes) if mode == "multilabel" else [BACKGROUND, *classes]
    for name in given:
        if name not in order:
            raise SegkitError(f"class_weights: there is no class {name}; {nearest(name, order) or 'available: ' + ', '.join(order)}")
    return torch.tensor([float(given.get(name, 1.0)) for name in order])
