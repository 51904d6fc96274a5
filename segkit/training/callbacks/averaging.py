"""The running mean of the weights, which is validated and kept in place of the weights themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import lightning as L
import torch
from lightning.pytorch import callbacks
from pydantic import Field
from torch.optim.swa_utils import get_ema_multi_avg_fn

from segkit.system.progress import console

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


class WeightAveraging(callbacks.WeightAveraging):
    """Validates and keeps an exponential moving average of the weights, with a warm-up.

    Args:
        decay: see `ema_with_warmup`.
        update_every_n_steps: optimizer steps between two updates, of which the first comes after the first step.
    """

    def __init__(
        self, decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.99, update_every_n_steps: Annotated[int, Field(gt=0)] = 1
    ) -> None:
        super().__init__(multi_avg_fn=ema_with_warmup(decay or 0.0, update_every_n_steps))
        self.decay, self.update_every_n_steps = decay or 0.0, update_every_n_steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps, every = trainer.estimated_stepping_batches, self.update_every_n_steps
        updates = "" if every == 1 else f", updated every {every} steps"
        console.print(f"averaging  the running mean of the weights is validated and kept: decay {self.decay:g}{updates}")
        if every >= steps > 1:
            key = "callbacks.weight_averaging.update_every_n_steps"
            what = f"{key}={every}, of {steps} steps in all: the mean stays at the weights of the first one;   use a smaller number"
            console.print(f"warning    {what}", style="yellow", markup=False)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx % self.update_every_n_steps == 0


def ema_with_warmup(decay: float, n_steps: int = 1) -> Callable[[Tensors, Tensors, torch.Tensor | int], None]:
    """Exponential moving average for `AveragedModel(multi_avg_fn=...)`, which follows the weights closely at first.

    The n-th update keeps the share min(decay, (1 + n) / (10 + n)) of the mean, as TensorFlow's ExponentialMovingAverage does. With a
    constant decay, the first weights, which are random, hide those of the first third of a short training. Resumes exactly: n is
    part of the averaged model's state.

    Args:
        decay: share that is kept in the end by a step, 0 < decay < 1. The mean is then over the last 1 / (1 - decay) steps or so.
        n_steps: steps from one update to the next, which then keeps the share of so many: n counts steps, and the share is raised to
            the power of n_steps.
    """

    def update(mean: Tensors, weights: Tensors, n: torch.Tensor | int) -> None:
        steps = int(n) * n_steps
        share = min(decay, (1 + steps) / (10 + steps)) ** n_steps
        get_ema_multi_avg_fn(share)(mean, weights, n)  # type: ignore[no-untyped-call]

    return update
