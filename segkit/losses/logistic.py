"""Sigmoid and binary cross-entropy of logits. Torch's own take the log1p of every pixel, on a processor ten times an exp or a log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        probs = logits.sigmoid()
        ctx.save_for_backward(logits, probs)
        return probs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        logits, probs = ctx.saved_tensors
        slope: Tensor = (-logits).sigmoid_().mul_(probs)
        return slope.mul_(gradient)


class _BinaryCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(logits, target)
        unsure = logits.abs().neg_().exp_().add_(1).log_()
        return logits.clamp_min(0).addcmul_(logits, target, value=-1).add_(unsure)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, target = ctx.saved_tensors
        return logits.sigmoid().sub_(target).mul_(gradient), None


def sigmoid(logits: Tensor) -> Tensor:
    """Probabilities, in float32 at least, that can be differentiated once.

    Their gradient does not vanish before itself does: `torch.sigmoid`'s is 0 as soon as the probability rounds to 1.
    """
    return _Sigmoid.apply(at_least_float32(logits))  # type: ignore[no-any-return]


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-t log p - (1 - t) log(1 - p) of each element, p = sigmoid(logits): max(x, 0) - x t + log(1 + exp(-|x|)), exact to 1e-7.

    In float32 at least; it can be differentiated once. The gradient, p - t, is that of torch's to the last digit.

    Args:
        logits: of any shape.
        target: t in 0..1, of the same shape; it gets no gradient.

    Raises:
        ValueError: the shapes differ.
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits are {tuple(logits.shape)}, but the target is {tuple(target.shape)}")
    logits = at_least_float32(logits)
    return _BinaryCrossEntropy.apply(logits, target.to(logits.dtype))  # type: ignore[no-any-return]


def at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
