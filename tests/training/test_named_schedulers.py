"""An optimizer and a scheduler by their classes: of torch, and of the user's own package."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.system.errors import ProblemsFound
from tests.conftest import PLAIN, run_segkit

OWN = """
import torch


class Half(torch.optim.lr_scheduler.LRScheduler):
    def __init__(self, optimizer, share: float, last_epoch: int = -1):
        self.share = share
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return [base * self.share**self.last_epoch for base in self.base_lrs]


class Plain(torch.optim.SGD):
    pass
"""


def rates(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["lr"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_an_optimizer_and_a_scheduler_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text(
        "# @package _global_\nallow_targets: [mine]\n"
        "optimizer: {_target_: mine.Plain, lr: 0.08}\n"
        "scheduler: {_target_: mine.Half, share: 0.5, interval: epoch}\n"
    )
    keys = ("experiment=own", *PLAIN, "report=false", "logger=none", "callbacks=none", "run=r", "trainer.max_epochs=3")
    done = run_segkit(tmp_path, "train", *keys)
    assert done.returncode == 0, done.stderr
    assert rates(tmp_path / "outputs" / "small" / "r") == pytest.approx([0.04, 0.02, 0.01])


def test_a_scheduler_that_is_named_leaves_out_the_keys_of_the_one_before() -> None:
    cfg = compose(
        "train", ["+scheduler._target_=torch.optim.lr_scheduler.PolynomialLR", "+scheduler.total_iters=5", "+scheduler.interval=step"]
    )
    assert isinstance(cfg, Train)
    wanted = {"_target_": "torch.optim.lr_scheduler.PolynomialLR", "total_iters": 5, "power": 0.9}
    assert (cfg.scheduler.target, cfg.scheduler.interval) == (wanted, "step")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scheduler=exponential", "+scheduler.gama=0.5"], "did you mean scheduler.gamma?"),
        (["+scheduler._target_=torch.optim.lr_scheduler.ExponentialLR"], "scheduler.gamma   is needed by ExponentialLR"),
        (["scheduler=exponential", "scheduler.interval=batch"], "scheduler.interval"),
    ],
)
def test_what_a_scheduler_does_not_take_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ProblemsFound) as found:
        compose("train", words)
    assert said in str(found.value)
