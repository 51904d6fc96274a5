"""A second data set beside validation: judged as `segkit evaluate` would, and never of images that were trained on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.conftest import SMALL, Cli


def written(path: Path) -> dict[tuple[str, str], str]:
    with path.open(newline="") as file:
        return {(row["case"], row["class"]): row["dice"] for row in csv.DictReader(file)}


@pytest.mark.slow
def test_the_benchmark_is_evaluated_apart_with_the_finished_checkpoint(segkit_in: Cli, tmp_path: Path) -> None:
    assert segkit_in("phantom", "output=a", "n=12").returncode == 0
    assert segkit_in("phantom", "output=b", "n=6", "seed=5").returncode == 0
    options = ("train", *SMALL, "data.root=a", "debug=fast", "trainer.limit_test_batches=null", "run=r")
    done = segkit_in(*options, "+benchmark.root=b")
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "outputs/small/r"
    done = segkit_in("evaluate", f"ckpt={run}", "data=phantom", "data.root=b", "output=judged")
    assert done.returncode == 0, done.stdout + done.stderr
    mine = written(run / "benchmark/cases.csv")
    assert len(mine) == 6
    assert mine == written(tmp_path / "judged/cases.csv")
    assert "benchmark" not in (run / "cases.csv").read_text()


def test_images_of_the_training_are_no_benchmark(segkit_in: Cli, tmp_path: Path) -> None:
    assert segkit_in("phantom", "output=a", "n=12").returncode == 0
    done = segkit_in("train", *SMALL, "data.root=a", "benchmark.root=a", "debug=fast")
    assert done.returncode == 2
    assert "12 of its images are in the data of the training too" in done.stderr
    assert not (tmp_path / "outputs/small").exists()


def test_classes_that_the_training_does_not_know_are_named(segkit_in: Cli) -> None:
    assert segkit_in("phantom", "output=b", "n=6", "seed=5").returncode == 0
    labels = "benchmark.labels={0: background, 255: liver}"
    done = segkit_in("train", *SMALL, "benchmark.root=b", labels, "debug=fast")
    assert done.returncode == 2
    assert "benchmark.labels" in done.stderr
