from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import directed_hausdorff

from segkit.data.case import Case
from segkit.metrics import Array
from segkit.metrics.compare import compare
from segkit.metrics.table import CaseTable, Row
from segkit.metrics.uw_madison import UWMadison, hausdorff_diag, hausdorff_unit_cube, slice_dice

VOLUME = Case("case1_day0", image=None, dims=3)  # type: ignore[arg-type]
NAN = float("nan")


def block(*where: slice, shape: tuple[int, ...] = (4, 10, 20)) -> Array:
    mask = np.zeros(shape, bool)
    mask[where] = True
    return mask


TRUTH = block(slice(1, 3), slice(2, 5), slice(3, 9))
SHIFTED = block(slice(1, 3), slice(2, 5), slice(6, 12))  # three columns on: half in common
NOTHING = np.zeros_like(TRUTH)
UNION = block(slice(1, 4), slice(2, 7), slice(3, 10))


def test_dice_of_slices_by_hand() -> None:
    """Slices 0 and 3 show nothing."""
    np.testing.assert_equal(slice_dice(SHIFTED, TRUTH), [NAN, 0.5, 0.5, NAN])
    np.testing.assert_equal(slice_dice(SHIFTED, TRUTH, both_empty=0.0), [0, 0.5, 0.5, 0])
    np.testing.assert_equal(slice_dice(NOTHING, TRUTH), [NAN, 0, 0, NAN])


def test_diag_by_hand() -> None:
    assert hausdorff_diag(SHIFTED, TRUTH) == pytest.approx(3 / math.sqrt(4**2 + 10**2 + 20**2))
    assert hausdorff_diag(UNION, TRUTH) == pytest.approx(math.sqrt(1 + 4 + 1) / math.sqrt(516))  # its far corner
    assert hausdorff_diag(TRUTH, TRUTH) == 0
    assert hausdorff_diag(NOTHING, NOTHING) == 0
    assert hausdorff_diag(NOTHING, TRUTH) == hausdorff_diag(TRUTH, NOTHING) == 1


def test_unit_cube_by_hand() -> None:
    assert hausdorff_unit_cube(SHIFTED, TRUTH) == pytest.approx(3 / 20 / math.sqrt(3))
    far_corner = math.sqrt((1 / 4) ** 2 + (2 / 10) ** 2 + (1 / 20) ** 2)
    assert hausdorff_unit_cube(UNION, TRUTH) == hausdorff_unit_cube(TRUTH, UNION) == pytest.approx(far_corner / math.sqrt(3))
    assert hausdorff_unit_cube(TRUTH, TRUTH) == 0
    assert math.isnan(hausdorff_unit_cube(NOTHING, NOTHING))
    assert hausdorff_unit_cube(NOTHING, TRUTH) == hausdorff_unit_cube(TRUTH, NOTHING) == 1


def test_unit_cube_gives_up_on_ten_times_too_much() -> None:
    one, ten, eleven = (block(slice(0, 1), slice(0, 1), slice(0, n)) for n in (1, 10, 11))
    assert hausdorff_unit_cube(ten, one) == pytest.approx(9 / 20 / math.sqrt(3))
    assert hausdorff_unit_cube(eleven, one) == 1
    assert hausdorff_unit_cube(one, eleven) == pytest.approx(10 / 20 / math.sqrt(3))


def test_borders_and_voxels_differ_where_one_mask_lies_in_the_other() -> None:
    """Of a 9 x 9 x 9 cube only the middle voxel is missing: its neighbours become a border, but no voxel lies far off."""
    cube = block(slice(1, 10), slice(1, 10), slice(1, 10), shape=(11, 11, 11))
    hollow = cube.copy()
    hollow[5, 5, 5] = False
    assert hausdorff_diag(hollow, cube) == pytest.approx(3 / math.sqrt(3 * 11**2))  # from (4, 5, 5) to the face at 1
    assert hausdorff_unit_cube(hollow, cube) == pytest.approx(1 / 11 / math.sqrt(3))


@pytest.mark.parametrize("seed", range(4))
def test_unit_cube_as_scipy_on_random_volumes(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=(2, 7, 14, 18))
    a, b = (ndimage.gaussian_filter(side, 1.5) > 0.05 for side in noise)
    points = [np.argwhere(mask) / mask.shape for mask in (a, b)]
    expected = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0]) / math.sqrt(3)
    assert hausdorff_unit_cube(a, b) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore::FutureWarning:monai")  # it calls its own functions in a deprecated way
def test_diag_as_monai_on_random_volumes(seed: int) -> None:
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    noise = np.random.default_rng(seed).normal(size=(2, 7, 14, 18))
    a, b = (ndimage.gaussian_filter(side, 1.5) > 0.05 for side in noise)
    y = [torch.from_numpy(mask)[None, None].float() for mask in (a, b)]
    expected = float(monai.compute_hausdorff_distance(*y, include_background=True)) / math.sqrt(7**2 + 14**2 + 18**2)
    assert hausdorff_diag(a, b) == pytest.approx(expected, abs=1e-4)


def test_each_class_of_a_volume_by_hand() -> None:
    """Stomach found half, small bowel missed, large bowel rightly absent: no slice of it counts, and its distance is 0."""
    pred, truth = np.stack([SHIFTED, NOTHING, NOTHING]), np.stack([TRUTH, TRUTH, NOTHING])
    stomach, small, large = UWMadison()(pred, truth, VOLUME)
    h, cube = 3 / math.sqrt(516), 3 / 20 / math.sqrt(3)  # classes as one
    assert stomach == pytest.approx({"uw_dice": 0.5, "uw_slices": 2, "uw_hausdorff": h, "uw_hausdorff_cube": cube})
    assert small == pytest.approx({"uw_dice": 0, "uw_slices": 2, "uw_hausdorff": 1, "uw_hausdorff_cube": cube})
    np.testing.assert_equal(list(large.values())[:3], [NAN, 0, 0])


def test_the_literal_rule_lets_empty_slices_pull_dice_down() -> None:
    (row,) = UWMadison(both_empty=0.0)(TRUTH[None], TRUTH[None], VOLUME)
    assert (row["uw_dice"], row["uw_slices"]) == (0.5, 4)  # two of four slices are empty on both sides
    assert row["uw_hausdorff"] == 0


def test_a_slice_that_is_missing_is_no_empty_slice() -> None:
    there = np.array([False, True, True, True])
    (row,) = UWMadison(both_empty=0.0)(TRUTH[None], TRUTH[None], VOLUME, there)
    assert (row["uw_dice"], row["uw_slices"]) == (pytest.approx(2 / 3), 3)


def volumes(seed: int, n: int = 6) -> list[tuple[Array, Array]]:
    """Two classes each: volumes of unequal depth, in which classes are absent, missed and invented."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        noise = rng.normal(size=(2, 2, 3 + 2 * i, 9, 12))
        pred, truth = ndimage.gaussian_filter(noise, (0, 0, 1, 2, 2)) > 0.06
        pred[i % 2] &= i != 1
        truth[0] &= i not in (2, 3)
        pred[0] &= i != 3
        found.append((pred, truth))
    found.append((np.zeros((2, 4, 9, 12), bool),) * 2)
    return found


def table_of(judged: list[tuple[Array, Array]]) -> CaseTable:
    metric = UWMadison()
    values = [metric(pred, truth, VOLUME) for pred, truth in judged]
    rows = [Row(f"{i}", f"{i}", "val", name, 1, 1, row) for i, of in enumerate(values) for name, row in zip("ab", of, strict=True)]
    return CaseTable.of(rows, {"uw_madison": metric})


@pytest.mark.parametrize("seed", range(3))
def test_the_summary_has_the_numbers_of_the_challenge(seed: int) -> None:
    """Each slice and class weighs the same in Dice, each volume and class in the distance; computed over flat lists."""
    judged = volumes(seed)
    dices = np.concatenate([slice_dice(p, t) for pred, truth in judged for p, t in zip(pred, truth, strict=True)])
    diag = [hausdorff_diag(p, t) for pred, truth in judged for p, t in zip(pred, truth, strict=True)]
    cube = [hausdorff_unit_cube(pred.any(axis=0), truth.any(axis=0)) for pred, truth in judged]
    summary = table_of(judged).summary()
    assert summary.line("uw_dice").mean == pytest.approx(np.nanmean(dices))
    assert summary.line("uw_score").mean == pytest.approx(0.4 * np.nanmean(dices) + 0.6 * (1 - np.mean(diag)))
    assert summary.line("uw_score_cube").mean == pytest.approx(0.4 * np.nanmean(dices) + 0.6 * (1 - np.nanmean(cube)))
    of_a = np.concatenate([slice_dice(pred[0], truth[0]) for pred, truth in judged])
    assert summary.line("uw_dice", "a").mean == pytest.approx(np.nanmean(of_a))
    assert summary.line("uw_hausdorff", "a").mean == pytest.approx(np.mean(diag[::2]))


def test_the_interval_of_the_score_is_that_of_volumes_drawn_again() -> None:
    """By the plain bootstrap: volumes are drawn, and the challenge's number is computed of each draw."""
    judged = [volume for seed in range(5) for volume in volumes(seed)]
    table = table_of(judged)
    of_volume = np.array([[row.values[c] for c in ("uw_dice", "uw_slices", "uw_hausdorff")] for row in table.rows]).reshape(-1, 2, 3)
    scores = []
    for drawn in np.random.default_rng(1).integers(len(of_volume), size=(2000, len(of_volume))):
        dice, slices, distance = np.moveaxis(of_volume[drawn], -1, 0)
        scores.append(0.4 * np.nansum(dice * slices) / slices.sum() + 0.6 * (1 - distance.mean()))
    line = table.summary().line("uw_score")
    width = np.quantile(scores, 0.975) - np.quantile(scores, 0.025)
    assert line.low == pytest.approx(np.quantile(scores, 0.025), abs=0.1 * width)
    assert line.high == pytest.approx(np.quantile(scores, 0.975), abs=0.1 * width)


def test_two_runs_differ_by_the_difference_of_their_scores() -> None:
    judged = volumes(0)
    a, b = table_of(judged), table_of([(truth, truth) for _, truth in judged])
    gain = next(line for line in compare(a, b).lines if (line.class_name, line.statistic) == ("overall", "uw_score"))
    assert gain.mean_a == pytest.approx(a.summary().line("uw_score").mean)
    assert gain.mean_b == pytest.approx(1)
    assert gain.difference == pytest.approx(1 - gain.mean_a)


def test_what_is_nowhere_has_no_score() -> None:
    nothing = np.zeros((2, 4, 9, 12), bool)
    summary = table_of([(nothing, nothing)]).summary()
    assert math.isnan(summary.line("uw_score").mean)
    assert summary.line("uw_hausdorff").mean == 0


def test_rules_tell_what_is_averaged_and_both_reconstructions_have_names_of_their_own() -> None:
    rules = {statistic.name: statistic.rule for statistic in UWMadison().statistics}
    assert rules["uw_dice"] == "mean over slices, both empty left out"
    assert rules["uw_hausdorff"] == "mean over volumes, one side empty = 1, both empty = 0"
    assert rules["uw_score_cube"] == "0.4 uw_dice + 0.6 (1 - uw_hausdorff_cube)"
    assert len(rules) == len(UWMadison().statistics) == 5
