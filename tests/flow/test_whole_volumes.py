"""Metrics of whole volumes where cases are slices, and two runs compared."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.conftest import SMALL, Cli

OWN = [key for key in SMALL if not key.startswith(("data", "name"))]


@pytest.mark.slow
def test_slices_are_evaluated_as_volumes_and_two_runs_are_compared(segkit_in: Cli, tmp_path: Path) -> None:
    for run, rate in {"a": "1e-3", "b": "3e-3"}.items():
        keys = ("data=uw_madison", "metric=uw_madison", "data.phantom_n=24", f"optimizer.lr={rate}", "trainer.max_epochs=1")
        done = segkit_in("train", *OWN, *keys, "name=x", f"run={run}", "data.batch_size=4")
        assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "outputs/x/a/volumes.csv").open() as file:
        volumes = list(csv.DictReader(file))
    with (tmp_path / "outputs/x/a/cases.csv").open() as file:
        slices = list(csv.DictReader(file))
    assert 0 < len({row["case"] for row in volumes}) < len({row["case"] for row in slices})
    assert "uw_hausdorff_cube" in volumes[0]
    assert "uw_score" in (tmp_path / "outputs/x/a/summary.json").read_text()
    done = segkit_in("compare", "outputs/x/a", "outputs/x/b")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Wilcoxon" in done.stdout
    assert "stomach" in done.stdout
    done = segkit_in("compare", "outputs/x/a", "outputs/x/absent")
    assert done.returncode == 2


def test_images_that_belong_to_no_volume_are_refused(segkit_in: Cli) -> None:
    done = segkit_in("train", *SMALL, "metric=volume_dice", "run=x")
    assert done.returncode == 2
    assert "these images belong to none" in done.stderr
