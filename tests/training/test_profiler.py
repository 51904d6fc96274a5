"""The profile of an epoch: its parts add up to its wall time, and nothing is counted twice."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from segkit.training.profiler import SHOWN, part_of
from tests.runner import run_segkit

TINY = ("experiment=quickstart", "data.phantom_n=6", "preprocess.size=[16,16]", "model.widths=[4,8]", "data.batch_size=2")


def test_the_parts_of_each_epoch_add_up_to_it(tmp_path: Path) -> None:
    done = run_segkit(tmp_path, "train", *TINY, "debug=profile", "run=profiled")
    assert done.returncode == 0, done.stderr
    assert "neither forward nor backward" in done.stdout
    with (tmp_path / "outputs/quickstart/profiled/profile.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == [*SHOWN] * 3
    for epoch in "012":
        shares = {row["part"]: float(row["share"]) for row in rows if row["epoch"] == epoch}
        assert sum(shares.values()) == pytest.approx(1, abs=0.01)
        assert all(shares[part] > 0 for part in ("forward", "backward", "optimizer", "loading", "validation", "metrics", "logging"))


@pytest.mark.parametrize(
    ("action", "part"),
    [
        ("[Strategy]DDPStrategy.training_step", "forward"),
        ("[LightningModule]Own.validation_step", "validation"),
        ("[Strategy]SingleDeviceStrategy.batch_to_device", "loading"),
        ("[Callback]ModelCheckpoint{'monitor': 'val/dice'}.on_train_epoch_end", "checkpoint"),
        ("[Callback]NonFiniteGuard.on_train_batch_end", None),
    ],
)
def test_what_lightning_runs_belongs_to_a_part(action: str, part: str | None) -> None:
    assert part_of(action) == part
