"""The running mean of the weights, which is validated and kept in place of the weights themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def ema_with_warmup(decay: float) -> Callable[[Tensors, Tensors, torch.Tensor | int], None]:
    """Exponential moving average for `AveragedModel(multi_avg_fn=...)`, which follows the weights closely at first.

    The n-th update keeps the share min(decay, (1 + n) / (10 + n)) of the mean, as TensorFlow's ExponentialMovingAverage does. With a
    constant decay, the first weights, which are random, hide those of the first third of a short training. Resumes exactly: n is
    part of the averaged model's state.

    Args:
        decay: share that is kept in the end, 0 < decay < 1. The mean is then over the last 1 / (1 - decay) steps or so.
    """

    def update(mean: Tensors, weights: Tensors, n: torch.Tensor | int) -> None:
        get_ema_multi_avg_fn(min(decay, (1 + int(n)) / (10 + int(n))))(mean, weights, n)  # type: ignore[no-untyped-call]

    return update
