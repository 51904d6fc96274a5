"""Thresholds and steps are found where they help, and nothing is kept where they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segkit import checkpoint
from segkit.calibration import Judge, Seen, choose, gain, helps
from segkit.data.labels import LabelMap
from segkit.data.manifest import Case
from segkit.data.readers import ImageFile
from segkit.inference.decide import Decision
from segkit.metrics.overlap import Overlap
from tests.conftest import SMALL, Cli

HEAD = LabelMap.of({0: "background", 1: "head"})


def seen(i: int, level: float, specks: int) -> Seen:
    """A disc of probability `level`, and `specks` sure pixels that are wrong."""
    rows, columns = np.mgrid[:64, :64]
    truth = ((rows - 32 - i) ** 2 + (columns - 30) ** 2 < 15**2).astype(np.uint8)
    probs = np.where(truth > 0, level, 0.05 + 0.001 * i)
    for k in range(specks):
        probs[2, 3 * k + 1] = 0.95
    return Seen(Case(str(i), ImageFile(Path("x"))), probs[None].astype(np.float16), truth, (1.0, 1.0))


def judge(level: float, specks: int) -> Judge:
    metric = Overlap()
    return Judge(
        [seen(i, level + 0.002 * i, specks + i % 3 if specks else 0) for i in range(8)],
        HEAD,
        {"overlap": metric},
        metric.statistics[0],
        1.0,
    )


def test_a_threshold_that_is_too_high_is_lowered_and_specks_are_removed() -> None:
    thresholds, nodes, kept = choose(judge(0.4, 4), Decision(HEAD, 0.5))
    assert thresholds["head"] < 0.4
    assert nodes
    assert any("threshold" in text for text in kept)
    steps = [node["_target_"].rpartition(".")[2] for node in nodes.values()]
    assert {"LargestComponents", "MinimumSize", "Smooth"} & set(steps)


def test_nothing_is_kept_where_nothing_helps() -> None:
    thresholds, nodes, kept = choose(judge(0.9, 0), Decision(HEAD, 0.5))
    kept_without_ellipse = [text for text in kept if "ellipse" not in text]
    assert thresholds == {"head": 0.5}
    assert kept_without_ellipse == []
    assert set(nodes) <= {"ellipse"}


def test_a_lucky_case_decides_nothing() -> None:
    before = np.full(10, 0.9)
    after = before.copy()
    after[0] += 0.1
    assert gain(before, after)[0] > 0
    assert not helps(before, after)
    assert helps(before, before + 0.01 + 0.001 * np.arange(10))
    missing = before + 0.05
    missing[3] = np.nan  # a head that is lost is no gain
    assert not helps(before, missing)


def test_what_was_chosen_is_kept_in_the_checkpoint_and_used(segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *SMALL, "split.val_fraction=0.4", "run=r", "data.phantom_n=20", "optimizer.lr=3e-3")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs/small/r"
    first = (run / "cases.csv").read_bytes()
    done = segkit_in("calibrate", f"ckpt={run}")
    assert done.returncode == 0, done.stdout + done.stderr
    card = checkpoint.load_model(run)[1]
    if "stays as it is" in done.stdout:
        assert card.calibration == {}
        return
    assert card.calibration["n"] == 8
    assert card.calibration["kept"]
    assert segkit_in("evaluate", f"ckpt={run}").returncode == 0
    assert (run / "evaluation/val/cases.csv").read_bytes() != first


def test_too_few_cases_are_refused(trained: Path, segkit_in: Cli) -> None:
    done = segkit_in("calibrate", f"ckpt={trained}")
    assert done.returncode == 2
    assert "3 validation cases are too few" in done.stderr
