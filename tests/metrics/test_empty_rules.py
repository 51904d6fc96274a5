"""Table 7.1 of the reference on the source projects: how each of them scores empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segkit.data.case import Case
from segkit.metrics import Array
from segkit.metrics.overlap import Overlap
from segkit.metrics.uw_madison import slice_dice
from segkit.metrics.volumes import VolumeDice

NAN = float("nan")
IMAGE = Case("a", image=None)  # type: ignore[arg-type]
EMPTY = np.zeros((6, 5), bool)
FOUND = EMPTY.copy()
FOUND[1:4, 1:4] = True
MOVED = np.roll(FOUND, 1, axis=1)  # 6 of 9 pixels in common


def by_image(metric: Overlap, pred: Array, truth: Array) -> float:
    return metric(pred, truth, IMAGE)["dice"]


def by_volume(metric: VolumeDice, pred: Array, truth: Array) -> float:
    return metric(pred[None, None], truth[None, None], IMAGE)[0]["volume_dice"]


def by_slice(both_empty: float | None, pred: Array, truth: Array) -> float:
    return float(slice_dice(pred[None], truth[None], both_empty)[0])


# what scores, the score of both empty, of truth empty and prediction not, and of MOVED against FOUND
TABLE = {
    "000 pelvis": (lambda p, t: by_image(Overlap(None, None), p, t), NAN, NAN, 2 / 3),
    "001 HC18": (lambda p, t: by_image(Overlap(1.0, 0.0, smooth=1e-3), p, t), 1, 0, (12 + 1e-3) / (18 + 1e-3)),
    "001 nerve": (lambda p, t: by_image(Overlap(1.0, 0.0), p, t), 1, 0, 2 / 3),
    "002 bones": (lambda p, t: by_image(Overlap(0.0, 0.0), p, t), 0, 0, 12 / (18 + 1e-8)),
    "003 official": (lambda p, t: by_slice(None, p, t), NAN, 0, 2 / 3),
    "003 literal": (lambda p, t: by_slice(0.0, p, t), 0, 0, 2 / 3),
    "003 official, by image": (lambda p, t: by_image(Overlap(None, 0.0), p, t), NAN, 0, 2 / 3),
    "004 LGG": (lambda p, t: by_volume(VolumeDice(largest=True, both_empty=1.0), p, t), 1, 0, 2 / 3),
    "004 BraTS": (lambda p, t: by_volume(VolumeDice(both_empty=1.0), p, t), 1, 0, 2 / 3),
}


@pytest.mark.parametrize(("score", "both_empty", "truth_empty", "moved"), TABLE.values(), ids=TABLE)
def test_each_row(score, both_empty: float, truth_empty: float, moved: float) -> None:  # type: ignore[no-untyped-def]
    np.testing.assert_equal(score(EMPTY, EMPTY), both_empty)
    np.testing.assert_equal(score(FOUND, EMPTY), truth_empty)
    assert score(MOVED, FOUND) == pytest.approx(moved, abs=1e-8)
    assert score(EMPTY, FOUND) == pytest.approx(0, abs=2e-4)  # a structure that was missed; smoothing leaves 1e-3 / 9


def test_source_001_adds_a_thousandth_above_and_below() -> None:
    """Its formula, over the sums of the masks; only where truth is empty does the rule say 0 for its 1e-3 / n."""
    for seed in range(5):
        pred, truth = np.random.default_rng(seed).random((2, 8, 8)) > 0.7
        literal = (2 * np.sum(pred * truth) + 1e-3) / (np.sum(pred) + np.sum(truth) + 1e-3)
        assert by_image(Overlap(1.0, 0.0, smooth=1e-3), pred, truth) == pytest.approx(literal)
    assert 1e-3 / (FOUND.sum() + 1e-3) == pytest.approx(0, abs=2e-4)


def test_source_002_divides_by_a_little_more_so_that_empty_is_zero() -> None:
    """Its batches are single images, so the Dice of the batch is that of the image."""
    for seed in range(5):
        pred, truth = np.random.default_rng(seed).random((2, 8, 8)) > (0.7 if seed else 1.0)
        literal = 2 * (pred * truth).sum() / ((pred.astype(int) + truth).sum() + 1e-8)
        assert by_image(Overlap(0.0, 0.0), pred, truth) == pytest.approx(literal, abs=1e-8)


def test_smoothing_is_reported_and_reaches_iou() -> None:
    metric = Overlap(smooth=1e-3)
    assert metric.rule == "both empty = 1, only truth empty = 0, smooth 0.001"
    assert metric(MOVED, FOUND, IMAGE)["iou"] == pytest.approx((6 + 1e-3) / (12 + 1e-3))
    assert not math.isclose(Overlap()(MOVED, FOUND, IMAGE)["iou"], 6.001 / 12.001, rel_tol=1e-7)
