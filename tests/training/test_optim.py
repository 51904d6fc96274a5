"""Learning-rate schedules against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from segkit.config.schema import Metric, Scheduler
from segkit.models import UNet
from segkit.system.errors import SegkitError
from segkit.training.optim import build_scheduler, parameter_groups, rate

DICE = Metric(monitor="dice", mode="max", cases={})


def cfg(name: str, **more: Any) -> Scheduler:
    shape: dict[str, Any] = {"warmup_epochs": 0.0, "warmup_fraction": 0.25, "min_lr_ratio": 0.001, "power": 0.9}
    plateau: dict[str, Any] = {"factor": 0.5, "patience": 1}
    return Scheduler(name=name, **{**shape, **plateau, **more})  # type: ignore[arg-type]


def test_poly_is_nnunets() -> None:
    assert [rate(cfg("poly"), s, 100, 0) for s in (0, 50, 100)] == pytest.approx([1, 0.5**0.9, 0])


def test_cosine_halves_in_the_middle_and_ends_at_the_minimum() -> None:
    assert [rate(cfg("cosine"), s, 100, 0) for s in (0, 50, 100)] == pytest.approx([1, 0.5005, 0.001])


def test_one_cycle_rises_to_one_at_the_end_of_the_warm_up() -> None:
    rates = [rate(cfg("one_cycle"), s, 100, 25) for s in range(101)]
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == rates[25] == 1
    assert rates[12] < rates[13] < rates[24]
    assert rates[100] == pytest.approx(0.001)


def test_linear_warm_up_never_starts_at_zero() -> None:
    rates = [rate(cfg("constant"), s, 100, 4) for s in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_plateau_halves_after_patience() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler: Any = build_scheduler(optimizer, cfg("plateau"), 10, 1, DICE)
    for score in (0.5, 0.5, 0.5):
        scheduler.step(score)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("monitor", [None, "dice", "val/dice"])
def test_a_plateau_by_its_class_takes_the_mode_of_the_monitored_metric(monitor: str | None) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    named = Scheduler(target={"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 0}, monitor=monitor)  # type: ignore[arg-type]
    scheduler: Any = build_scheduler(optimizer, named, 10, 1, DICE)
    for score in (0.5, 0.6, 0.7):
        scheduler.step(score)
    assert optimizer.param_groups[0]["lr"] == 1


def test_steps_scale_the_optimizers_own_rate() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    build_scheduler(optimizer, cfg("one_cycle"), 100, 10, DICE)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * 0.04)
    assert math.isclose(rate(cfg("constant"), 7, 100, 0), 1.0)


def test_layer_wise_decay_halves_the_rate_from_stage_to_stage() -> None:
    network = UNet(1, 1, widths=(4, 8, 16))
    groups = parameter_groups(network, 0.1, {"decoder": 0.5}, layer_decay=0.5)
    rate_of = {id(parameter): group.get("lr", 0.1) for group in groups for parameter in group["params"]}
    found = {name: rate_of[id(parameter)] for name, parameter in network.named_parameters()}
    assert {rate for name, rate in found.items() if name.startswith("encoder.0")} == {0.0125}
    assert {rate for name, rate in found.items() if name.startswith("encoder.2")} == {0.05}
    assert {rate for name, rate in found.items() if name.startswith("head")} == {0.1}
    with pytest.raises(SegkitError, match="Linear has no encoder"):
        parameter_groups(torch.nn.Linear(1, 1), 0.1, {}, layer_decay=0.5)
