from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from segkit.data.case import Case
from segkit.metrics import Array, ObjectScores
from segkit.system.errors import SegkitError

CASE = Case("a", image=None)  # type: ignore[arg-type]


def boxes(*columns: tuple[int, int], shape: tuple[int, ...] = (10, 100)) -> Array:
    mask = np.zeros(shape, bool)
    for start, stop in columns:
        mask[..., 2:8, start:stop] = True
    return mask


def test_found_missed_and_invented() -> None:
    """Two of three found (one shifted to an IoU of 8/12), one invented: F1 = 2 * 2 / (3 + 3)."""
    truth, pred = boxes((0, 10), (20, 30), (40, 50)), boxes((0, 10), (22, 32), (70, 80))
    values = ObjectScores()(pred, truth, CASE)
    assert values == {"object_f1": pytest.approx(4 / 6), "n_truth_objects": 3, "n_pred_objects": 3, "object_count_error": 0}


@pytest.mark.parametrize(("shift", "f1"), [(0, 1), (5, 1), (6, 0)])
def test_the_limit_itself_matches(shift: int, f1: float) -> None:
    """15 columns shifted by 5: 10 in common of 20."""
    assert ObjectScores()(boxes((shift, 15 + shift)), boxes((0, 15)), CASE)["object_f1"] == f1


def test_the_limit_itself_matches_also_where_it_is_no_exact_number() -> None:
    """33 columns of 60, by 6 rows; 0.55 * 360 is more than 198 in floating point."""
    assert ObjectScores(iou=0.55)(boxes((0, 33)), boxes((0, 60)), CASE)["object_f1"] == 1
    assert ObjectScores(iou=0.551)(boxes((0, 33)), boxes((0, 60)), CASE)["object_f1"] == 0


def test_two_objects_run_together_are_one_found_object_at_most() -> None:
    values = ObjectScores()(boxes((0, 40)), boxes((0, 19), (20, 40)), CASE)
    assert values["object_f1"] == pytest.approx(2 * 1 / 3)
    assert values["object_count_error"] == -1


def test_pairs_are_chosen_so_that_most_match() -> None:
    """The long prediction reaches an IoU of 0.4 with both objects, the short one only with the first: 2 pairs, not 1."""
    truth = boxes((0, 10), (12, 22))
    pred = np.zeros_like(truth)
    pred[2:5, 0:22], pred[6:8, 0:10] = True, True  # 66 pixels, 30 with each; 20 pixels
    assert ObjectScores(iou=0.3)(pred, truth, CASE)["object_f1"] == 1


def brute_force(pred: Array, truth: Array, iou: float) -> float:
    """Every assignment, by overlap of single objects."""
    sides = [[labels == i for i in range(1, n + 1)] for labels, n in (ndimage.label(mask, np.ones((3, 3))) for mask in (pred, truth))]
    few, many = sorted(sides, key=len)
    good = [[(a & b).sum() / (a | b).sum() >= iou for b in many] for a in few]
    best = max(sum(good[i][j] for i, j in enumerate(order)) for order in itertools.permutations(range(len(many)), len(few)))
    return 2 * best / (len(few) + len(many))


@pytest.mark.parametrize("seed", range(6))
def test_as_all_assignments_on_random_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(30, 30)), 3)
    other = smooth + 0.4 * smooth.std() * ndimage.gaussian_filter(rng.normal(size=(30, 30)), 2) / 0.14
    truth, pred = smooth > 0.5 * smooth.std(), other > 0.5 * smooth.std()
    for iou in (0.2, 0.5):
        assert ObjectScores(iou)(pred, truth, CASE)["object_f1"] == pytest.approx(brute_force(pred, truth, iou))


def test_volumes_have_objects_too() -> None:
    truth, pred = (boxes(*columns, shape=(4, 10, 60)) for columns in (((0, 10), (20, 30)), ((0, 10),)))
    assert ObjectScores()(pred, truth, CASE)["object_f1"] == pytest.approx(2 / 3)


def test_empty_masks_follow_the_rule() -> None:
    nothing, one = boxes(), boxes((0, 10))
    assert ObjectScores()(nothing, nothing, CASE)["object_f1"] == 1
    assert math.isnan(ObjectScores(both_empty=None)(nothing, nothing, CASE)["object_f1"])
    assert ObjectScores()(one, nothing, CASE)["object_f1"] == 0
    assert ObjectScores(both_empty=None, truth_empty=None)(nothing, one, CASE)["object_f1"] == 0
    assert ObjectScores()(one, nothing, CASE)["object_count_error"] == 1


def test_a_limit_that_everything_passes_is_refused() -> None:
    with pytest.raises(SegkitError, match="iou is 0"):
        ObjectScores(iou=0)
