"""The running mean of the weights, which is validated and kept in place of the weights themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from lightning.pytorch import callbacks
from pydantic import Field
from torch.optim.swa_utils import get_ema_multi_avg_fn

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


class WeightAveraging(callbacks.WeightAveraging):
    """Validates and keeps an exponential moving average of the weights, with a warm-up.

    Args:
        decay: see `ema_with_warmup`.
    """

    def __init__(self, decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.99) -> None:
        super().__init__(multi_avg_fn=ema_with_warmup(decay or 0.0))


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
