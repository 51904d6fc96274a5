"""A checkpoint that was trained with the user's own optimizer, callback, loss and data set is used where their package is absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import SMALL, run_segkit

OWN = """
import functools
import lightning
import torch
from segkit.data.sources import Phantom


class Plain(torch.optim.SGD):
    pass


def brier(scale: float = 1.0):
    return Brier(scale)


class Brier(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, logits, target):
        return self.scale * ((logits.sigmoid() - target.float()) ** 2).mean()


class Mine(Phantom):
    pass


class Says(lightning.Callback):
    def __init__(self, make: functools.partial):
        self.make = make

    def on_fit_end(self, trainer, pl_module):
        assert isinstance(self.make, functools.partial)
        print("own callback", self.make())
"""
OWN_PARTS = (
    "allow_targets=[ownparts]",
    "optimizer._target_=ownparts.Plain",
    "+optimizer._partial_=true",
    "+loss.parts.brier={_target_: ownparts.brier, scale: 2.0}",
    "+loss.weights.brier=1.0",
    "data.source._target_=ownparts.Mine",
    "+callbacks.extra.says={_target_: ownparts.Says, make: {_target_: torch.optim.swa_utils.get_ema_multi_avg_fn, _partial_: true}}",
)


@pytest.mark.slow
def test_what_only_training_needs_is_not_asked_for_where_a_checkpoint_is_used(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    (home / "ownparts.py").write_text(OWN)
    done = run_segkit(home, "train", *SMALL, "trainer.max_epochs=1", "run=own", *OWN_PARTS)
    assert done.returncode == 0, done.stderr
    assert "own callback" in done.stdout
    run = home / "outputs" / "small" / "own"

    def used(*args: str) -> str:
        done = run_segkit(elsewhere, *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    images = next(Path(json.loads((run / "provenance.json").read_text())["data"]["root"]).rglob("*.png")).parent
    used("share", f"ckpt={run}", "output=shared")
    used("predict", "ckpt=shared", f"input={images}", "output=masks")
    assert list((elsewhere / "masks").glob("*.png"))
    used("evaluate", "ckpt=shared", "data=phantom", "data.phantom_n=16", f"data.root={images.parent}", "subset=all", "output=evaluated")
    refused = run_segkit(elsewhere, "evaluate", f"ckpt={run}")
    assert refused.returncode == 2
    assert "ownparts.Mine is outside the allowed packages;   add  allow_targets='[ownparts]'" in refused.stderr
    resumed = run_segkit(elsewhere, "train", f"resume={run}")
    assert resumed.returncode == 2, "it trains on, so it needs all of it"
