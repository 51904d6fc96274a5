from __future__ import annotations

import math

import numpy as np
import pytest

from segkit.data.case import Case
from segkit.metrics.overlap import Overlap

CASE = Case("a", image=None)  # type: ignore[arg-type]  # overlap looks at the masks alone
EMPTY = np.zeros((4, 5), bool)
FULL = ~EMPTY
# both empty, only truth empty: the rows of the reference table that count a pair of image and class
RULES = {
    "000 pelvis": (None, None),
    "001 nerve": (1.0, 0.0),
    "002 clavicles and ribs": (0.0, 0.0),
    "003 UW-Madison, skip": (None, 0.0),
    "003 UW-Madison, literal": (0.0, 0.0),
    "004 BraTS": (1.0, 0.0),
}


def test_values_by_hand() -> None:
    pred, truth = EMPTY.copy(), EMPTY.copy()
    pred[0, :4], truth[0, 2:] = True, True  # 4 and 3 pixels, 2 in common
    assert Overlap()(pred, truth, CASE) == {"dice": pytest.approx(4 / 7), "iou": pytest.approx(2 / 5)}


@pytest.mark.parametrize(("both_empty", "truth_empty"), RULES.values(), ids=RULES)
def test_empty_masks_follow_the_rule(both_empty: float | None, truth_empty: float | None) -> None:
    metric = Overlap(both_empty, truth_empty)
    for pred, expected in ((EMPTY, both_empty), (FULL, truth_empty)):
        for value in metric(pred, EMPTY, CASE).values():
            assert math.isnan(value) if expected is None else value == expected


@pytest.mark.parametrize("both_empty", [None, 0.0, 1.0])
def test_a_structure_that_was_not_found_always_scores_zero(both_empty: float | None) -> None:
    assert Overlap(both_empty, None)(EMPTY, FULL, CASE) == {"dice": 0.0, "iou": 0.0}


def test_the_rule_is_reported() -> None:
    assert Overlap().rule == "both empty = 1, only truth empty = 0"
    assert Overlap(both_empty=None).rule == "both empty left out, only truth empty = 0"
    assert {statistic.rule for statistic in Overlap().statistics} == {Overlap().rule}
