"""The running mean of the weights."""

from __future__ import annotations

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from segkit.training.callbacks.averaging import WeightAveraging, ema_with_warmup
from tests.conftest import SMALL, Cli


def test_the_mean_follows_the_closed_form() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    averaged, mean = AveragedModel(model, multi_avg_fn=ema_with_warmup(0.5)), 0.0
    for n, value in enumerate(range(3, 30)):
        model.weight.data.fill_(value)
        averaged.update_parameters(model)
        kept = min(0.5, (1 + n) / (10 + n)) if n else 0  # the first update copies
        mean = kept * mean + (1 - kept) * value
        assert averaged.module.weight.item() == pytest.approx(mean, rel=1e-5)


def test_random_first_weights_are_soon_forgotten() -> None:
    """A constant decay of 0.99 would still keep 90 % of them."""
    model = torch.nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(model, multi_avg_fn=ema_with_warmup(0.99))
    for value in (1000.0, *([1.0] * 10)):
        model.weight.data.fill_(value)
        averaged.update_parameters(model)
    assert averaged.module.weight.item() == pytest.approx(1, abs=0.1)


def test_an_update_every_few_steps_keeps_what_so_many_updates_would() -> None:
    """Of weights that stand still in between; in the end the share is decay to the power of the steps."""
    every, model = 4, torch.nn.Linear(1, 1, bias=False)
    averaged, mean = AveragedModel(model, multi_avg_fn=ema_with_warmup(0.9, every)), 0.0
    for n in range(40):
        model.weight.data.fill_(n)
        averaged.update_parameters(model)
        kept = min(0.9, (1 + every * n) / (10 + every * n)) ** every if n else 0
        mean = kept * mean + (1 - kept) * n
    assert averaged.module.weight.item() == pytest.approx(mean, rel=1e-5)
    callback = WeightAveraging(0.9, every)
    assert [step for step in range(9) if callback.should_update(step)] == [0, 4, 8]
    assert not callback.should_update(epoch_idx=3)


def test_a_mean_that_is_never_updated_is_a_warning(segkit_in: Cli) -> None:
    """Three steps an epoch, two epochs."""
    keys = ("callbacks.weight_averaging.decay=0.9", "callbacks.weight_averaging.update_every_n_steps")
    rare, often = (segkit_in("train", *SMALL, keys[0], f"{keys[1]}={n}", f"run=r{n}") for n in (6, 5))
    assert "averaging  the running mean of the weights is validated and kept: decay 0.9, updated every 6 steps" in rare.stdout
    assert f"{keys[1]}=6, of 6 steps in all" in rare.stdout
    assert "steps in all" not in often.stdout
