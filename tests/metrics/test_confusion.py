from __future__ import annotations

import numpy as np
import pytest

from segkit.data.case import Case
from segkit.metrics import Confusion, VolumeError

NAN = float("nan")
EMPTY = np.zeros((4, 5), bool)
FULL = ~EMPTY
HALF = EMPTY.copy()
HALF[:2] = True


def case(*spacing_mm: float) -> Case:
    return Case("a", image=None, spacing_mm=spacing_mm, dims=3 if len(spacing_mm) == 3 else 2)  # type: ignore[arg-type]


def test_values_by_hand() -> None:
    pred, truth = EMPTY.copy(), EMPTY.copy()
    pred[0, :4], truth[0, 2:] = True, True  # 2 in common, 2 too many, 1 missed, 15 rightly left out
    assert Confusion()(pred, truth, case()) == {
        "precision": pytest.approx(2 / 4),
        "recall": pytest.approx(2 / 3),
        "specificity": pytest.approx(15 / 17),
    }


def test_as_torchmetrics_counts_on_random_masks() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    pred, truth = np.random.default_rng(0).random((2, 30, 30)) > 0.6
    tp, fp, tn, fn, _ = functional.binary_stat_scores(torch.from_numpy(pred).int(), torch.from_numpy(truth).int()).tolist()
    expected = {"precision": tp / (tp + fp), "recall": tp / (tp + fn), "specificity": tn / (tn + fp)}
    assert Confusion()(pred, truth, case()) == pytest.approx(expected)


EMPTIES = {
    "both empty": (EMPTY, EMPTY, Confusion(), (NAN, NAN, 1.0)),
    "both empty = 1": (EMPTY, EMPTY, Confusion(both_empty=1.0), (1.0, 1.0, 1.0)),
    "truth empty": (HALF, EMPTY, Confusion(), (0.0, NAN, 0.5)),
    "truth empty = 0": (HALF, EMPTY, Confusion(truth_empty=0.0), (0.0, 0.0, 0.5)),
    "missed": (EMPTY, HALF, Confusion(), (0.0, 0.0, 1.0)),
    "missed, precision left out": (EMPTY, HALF, Confusion(pred_empty=None), (NAN, 0.0, 1.0)),
    "no background": (HALF, FULL, Confusion(), (1.0, 0.5, NAN)),
}


@pytest.mark.parametrize(("pred", "truth", "metric", "expected"), EMPTIES.values(), ids=EMPTIES)
def test_empty_masks_follow_the_rule(pred: np.ndarray, truth: np.ndarray, metric: Confusion, expected: tuple[float, ...]) -> None:
    np.testing.assert_equal(list(metric(pred, truth, case()).values()), expected)


def test_the_rule_is_reported() -> None:
    precision, recall, _ = Confusion(truth_empty=0.0).statistics
    assert precision.rule == "both empty left out, only prediction empty = 0"
    assert recall.rule == "both empty left out, only truth empty = 0"


def test_a_box_of_known_volume() -> None:
    truth, pred = np.zeros((2, 10, 20, 30), bool)
    truth[:5, :10, :10], pred[:5, :10, :12] = True, True
    values = VolumeError()(pred, truth, case(4.0, 0.5, 0.5))
    assert values == {
        "volume_pred_ml": pytest.approx(0.6),
        "volume_truth_ml": pytest.approx(0.5),
        "volume_error_ml": pytest.approx(0.1),
        "volume_error_rel": pytest.approx(0.2),
    }
    assert VolumeError("mm3")(pred, truth, case(4.0, 0.5, 0.5))["volume_truth_mm3"] == pytest.approx(500)


def test_area_of_an_image() -> None:
    assert VolumeError("mm2")(HALF, FULL, case(0.5, 2.0)) == {
        "area_pred_mm2": 10.0,
        "area_truth_mm2": 20.0,
        "area_error_mm2": -10.0,
        "area_error_rel": -0.5,
    }


def test_what_is_not_known_is_missing() -> None:
    unknown = list(VolumeError("mm2")(HALF, FULL, case()).values())
    np.testing.assert_equal(unknown, [NAN, NAN, NAN, -0.5])
    np.testing.assert_equal(list(VolumeError("ml")(HALF, EMPTY, case(1, 1)).values()), [NAN] * 4)  # an image has no volume


def test_bias_and_mean_absolute_error_stand_side_by_side() -> None:
    shown = {s.name: (s.column, s.absolute) for s in VolumeError().statistics}
    assert shown == {
        "volume_mae_ml": ("volume_error_ml", True),
        "volume_bias_ml": ("volume_error_ml", False),
        "volume_mae_rel": ("volume_error_rel", True),
        "volume_bias_rel": ("volume_error_rel", False),
    }
