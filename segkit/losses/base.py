"""What the losses share: probabilities, the truth as one plane a class, the pixels that count, the weights of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segkit.data.labels import BACKGROUND, IGNORE, Mode
from segkit.system.errors import SegkitError, nearest


def probabilities(logits: Tensor, mode: Mode) -> Tensor:  # (B, C, *S)
    """Through logarithms, whose gradients do not vanish before those of the probabilities do."""
    return (logits.log_softmax(dim=1) if mode == "multiclass" else logsigmoid(logits)).exp()


def planes(target: Tensor, logits: Tensor, mode: Mode) -> tuple[Tensor, Tensor]:
    """Truth (B, C, *S) in 0..1 and the pixels that count (B, 1 or C, *S), in the dtype of the logits."""
    counted = target != IGNORE
    clean = target.masked_fill(~counted, 0)
    if mode == "multiclass":
        clean, counted = torch.zeros_like(logits).scatter_(1, clean.unsqueeze(1), 1), counted.unsqueeze(1)
    return clean.to(logits.dtype), counted.to(logits.dtype)


def class_weights_of(given: Mapping[str, float] | None, classes: Sequence[str], mode: Mode) -> Tensor | None:
    """In the order of the planes, background first but where structures overlap; 1 for what `given` does not name."""
    if not given:
        return None
    order = list(classes) if mode == "multilabel" else [BACKGROUND, *classes]
    for name in given:
        if name not in order:
            raise SegkitError(f"class_weights: there is no class {name}; {nearest(name, order) or 'there is ' + ', '.join(order)}")
    return torch.tensor([float(given.get(name, 1.0)) for name in order])
