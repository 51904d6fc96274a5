"""A checkpoint to resume from is whole, or refused before the training starts: nothing begins anew without a word."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.config import validate
from segkit.models import checkpoint
from segkit.system.errors import SegkitError
from segkit.training.resuming import check_optimizers, edited, step_to_resume

OLD = Path(__file__).parent.parent / "fixtures/v0_1/killed/checkpoints/last.ckpt"
MISSING = object()
STATE = ("optimizer_states", 0, "state", 0, "exp_avg")


def test_a_sound_one_says_where_it_continues() -> None:
    model, _, _ = checkpoint.load_model(OLD)
    assert step_to_resume(OLD, model) == torch.load(OLD, weights_only=True)["global_step"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("global_step",), "x"),
        (("epoch",), -1),
        (("loops",), {}),
        (("loops", "fit_loop"), [1]),
        (("loops", "fit_loop", "epoch_progress"), MISSING),
        (("callbacks",), {}),
        (("callbacks", "Checkpoints"), {}),
        (("callbacks", "EpochTable", "rows"), ["a"]),
        (("optimizer_states",), []),
        (("optimizer_states", 0), {}),
        (STATE, torch.full((4, 1, 3, 3), math.nan)),
        (("lr_schedulers",), []),
        (("SegmentationData",), {"a": "b"}),
        (("state_dict",), [1]),
        (("segkit",), {}),
    ],
)
def test_a_damaged_one_is_named(place: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    model, _, _ = checkpoint.load_model(OLD)
    content = copy.deepcopy(torch.load(OLD, weights_only=True))
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    if value is MISSING:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(SegkitError, match=r"last\.ckpt (is damaged|holds NaN|has metadata)"):
        step_to_resume(tmp_path / "last.ckpt", model)


def test_a_network_of_another_config_is_named(tmp_path: Path) -> None:
    model, _, _ = checkpoint.load_model(OLD)
    with pytest.raises(SegkitError, match=r"not those of the network in config\.yaml: it lacks 0\.weight"):
        step_to_resume(OLD, torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3)))  # type: ignore[arg-type]
    assert model


def test_what_was_edited_in_the_config_is_said() -> None:
    saved = checkpoint.load_model(OLD)[1].config
    now = validate.restore(saved, ()).model_dump(mode="json")
    assert edited(saved, now) == []
    now["trainer"]["max_epochs"], now["output_dir"] = 77, "elsewhere"
    before = saved["trainer"]["max_epochs"]
    assert edited(saved, now) == [f"trainer.max_epochs was {before} in the checkpoint, now 77"]


def test_a_state_of_another_shape_does_not_reach_a_fused_kernel() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    check_optimizers(Path("last.ckpt"), [optimizer])
    optimizer.state[weight]["exp_avg"] = torch.zeros(3)
    with pytest.raises(SegkitError, match=r"exp_avg of its optimizer has shape torch\.Size\(\[3\]\) for a weight of \(2, 3\)"):
        check_optimizers(Path("last.ckpt"), [optimizer])
