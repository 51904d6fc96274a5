"""Counted probabilities give the curves that the pixels themselves give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segkit.data.labels import LabelMap
from segkit.metrics.calibration import BINS, MOST_PIXELS, Calibration

TWO = LabelMap.of({0: "background", 1: "a", 2: "b"})


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (3, H, W) on the grid of the bins, and a target that is drawn from them, with ignored pixels."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet([1, 1, 1], (90, 70)).transpose(2, 0, 1)
    target = (rng.random((90, 70)) > probs.cumsum(0)[:2]).sum(0).astype(np.uint8)
    target[:3] = 255
    return probs.astype(np.float32), target


def test_probabilities_that_tell_the_truth_lie_on_the_diagonal_and_others_do_not() -> None:
    probs, target = drawn()
    found = Calibration.of(TWO.classes)
    found.add(probs, target, TWO)
    assert found.counts["a"].n.sum() == 87 * 70
    assert found.counts["a"].expected_error < 0.03
    boasting = Calibration.of(TWO.classes)
    boasting.add((probs == probs.max(0)).astype(np.float32), target, TWO)
    assert boasting.counts["a"].expected_error > 0.15


def test_probabilities_that_are_nan_are_not_counted() -> None:
    probs, target = drawn()
    probs[:, 10:20] = np.nan
    found, expected = Calibration.of(TWO.classes), Calibration.of(TWO.classes)
    found.add(probs, target, TWO)
    target[10:20] = 255
    expected.add(np.nan_to_num(probs), target, TWO)
    for name, counts in expected.counts.items():
        assert np.array_equal(found.counts[name].n, counts.n)
        assert np.array_equal(found.counts[name].positive, counts.positive)
        assert np.array_equal(found.counts[name].total, counts.total)


def test_precision_and_recall_are_those_of_the_pixels() -> None:
    probs, target = drawn(1)
    found = Calibration.of(TWO.classes)
    found.add(probs, target, TWO)
    precision, recall = found.counts["b"].precision_recall()
    for i in (10, 50, 80):
        chosen, truth = (probs[2] >= i / BINS)[target != 255], (target == 2)[target != 255]
        assert precision[i] == pytest.approx((chosen & truth).sum() / chosen.sum())
        assert recall[i] == pytest.approx((chosen & truth).sum() / truth.sum())


def test_the_table_reads_back(tmp_path: Path) -> None:
    probs, target = drawn()
    found = Calibration.of(("a", "b"))
    found.add(probs, np.where(target == 2, 0, target), TWO)
    found.to_csv(tmp_path / "calibration.csv")
    again = Calibration.from_csv(tmp_path / "calibration.csv")
    assert set(again.counts) == {"a"}, "no pixel shows b"
    for part in ("n", "positive", "total"):
        assert getattr(again.counts["a"], part) == pytest.approx(getattr(found.counts["a"], part))
    assert Calibration.from_csv(tmp_path / "none.csv").known == {}


def test_a_large_case_is_sampled_and_what_does_not_fit_is_left_out() -> None:
    one = LabelMap.of({0: "background", 1: "a"})
    found = Calibration.of(("a",))
    found.add(np.full((1, 700, 700), 0.3, np.float32), np.ones((700, 700), np.uint8), one)
    assert MOST_PIXELS <= found.counts["a"].n.sum() < 2 * MOST_PIXELS
    before = found.counts["a"].n.sum()
    found.add(np.empty(0, np.float32), np.ones((7, 7), np.uint8), one)
    assert found.counts["a"].n.sum() == before
