"""Losses against closed forms, with empty masks, ignored pixels and small floats."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segkit.data.labels import IGNORE, Mode
from segkit.losses import WeightedLoss
from segkit.losses.cross_entropy import cross_entropy_loss
from segkit.losses.dice import dice_loss

MODES: list[Mode] = ["binary", "multiclass", "multilabel"]


def make(mode: Mode, dice: float = 1.0, ce: float = 1.0) -> WeightedLoss:
    return WeightedLoss({"dice": dice_loss(mode), "ce": cross_entropy_loss(mode)}, {"dice": dice, "ce": ce}, mode)


def example(mode: Mode, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    channels = 1 if mode == "binary" else 3
    logits = torch.randn(2, channels, size, size, generator=g)
    shape, high = ((2, 3, size, size), 2) if mode == "multilabel" else ((2, size, size), 3 if mode == "multiclass" else 2)
    return logits, torch.randint(0, high, shape, generator=g, dtype=torch.uint8)


def test_cross_entropy_is_its_definition() -> None:
    for mode in MODES:
        logits, mask = example(mode)
        if mode == "multiclass":
            chosen = logits.log_softmax(1).gather(1, mask.long()[:, None])
            wanted = -chosen.mean()
        else:
            p, y = logits.sigmoid(), mask.float().view_as(logits)
            wanted = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        assert make(mode)(logits, mask)["loss_ce"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_dice_is_its_definition() -> None:
    logits, mask = example("binary")
    p, y = logits.sigmoid().flatten(), mask.float().flatten()
    assert make("binary")(logits, mask)["loss_dice"].item() == pytest.approx(1 - (2 * (p * y).sum() / (p + y).sum()).item(), rel=1e-5)


def test_an_untrained_network_starts_at_log_of_the_classes() -> None:
    _, mask = example("multiclass")
    assert make("multiclass")(torch.zeros(2, 3, 8, 8), mask)["loss_ce"].item() == pytest.approx(math.log(3), rel=1e-5)


def test_the_sum_is_weighted() -> None:
    logits, mask = example("multiclass")
    parts = make("multiclass", dice=0.25, ce=3.0)(logits, mask)
    assert parts["loss"].item() == pytest.approx(0.25 * parts["loss_dice"].item() + 3 * parts["loss_ce"].item(), rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_cross_entropy_does_not_shrink_with_the_ignored_share(mode: Mode) -> None:
    logits, mask = example(mode)
    padded = torch.nn.functional.pad(mask, (0, 0, 0, 24), value=IGNORE)
    alone = make(mode)(logits, mask)["loss_ce"].item()
    assert make(mode)(torch.nn.functional.pad(logits, (0, 0, 0, 24)), padded)["loss_ce"].item() == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_ignored_pixels_have_no_gradient(mode: Mode) -> None:
    logits, mask = example(mode)
    mask[..., :4, :] = IGNORE
    logits.requires_grad_()
    make(mode)(logits, mask)["loss"].backward()
    assert logits.grad is not None
    assert logits.grad[..., :4, :].abs().max() == 0
    assert logits.grad[..., 4:, :].abs().max() > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fill", ["empty", "ignored", "full"])
def test_finite_at_1024_in_every_precision(mode: Mode, dtype: torch.dtype, fill: str) -> None:
    channels = 1 if mode == "binary" else 2
    logits = torch.full((1, channels, 1024, 1024), 11.0, dtype=dtype, requires_grad=True)
    shape = (1, 2, 1024, 1024) if mode == "multilabel" else (1, 1024, 1024)
    mask = torch.full(shape, {"empty": 0, "ignored": IGNORE, "full": 1}[fill], dtype=torch.uint8)
    parts = make(mode)(logits, mask)
    parts["loss"].backward()
    assert all(value.isfinite() for value in parts.values())
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_a_perfect_answer_costs_nothing(mode: Mode) -> None:
    _, mask = example(mode)
    planes = torch.nn.functional.one_hot(mask.long(), 3).permute(0, 3, 1, 2) if mode == "multiclass" else mask.float().view(2, -1, 8, 8)
    assert make(mode)(planes.float() * 80 - 40, mask)["loss"].item() < 1e-4
