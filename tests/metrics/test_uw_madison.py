from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import directed_hausdorff

from segkit.data.manifest import Case
from segkit.metrics import Array
from segkit.metrics.uw_madison import UWMadison, hausdorff_diag, hausdorff_unit_cube, pooled_score, slice_dice

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


def test_score_of_each_class_by_hand() -> None:
    """Stomach found half, small bowel missed, large bowel rightly absent."""
    pred, truth = np.stack([SHIFTED, NOTHING, NOTHING]), np.stack([TRUTH, TRUTH, NOTHING])
    stomach, small, large = UWMadison()(pred, truth, VOLUME)
    h = 3 / math.sqrt(516)
    expected = {"uw_dice": 0.5, "uw_hausdorff": h, "uw_score": 0.4 * 0.5 + 0.6 * (1 - h)}
    assert stomach == pytest.approx(expected)
    assert small == {"uw_dice": 0, "uw_hausdorff": 1, "uw_score": 0}
    np.testing.assert_equal(large, {"uw_dice": NAN, "uw_hausdorff": 0, "uw_score": NAN})


def test_score_with_classes_as_one_by_hand() -> None:
    pred, truth = np.stack([SHIFTED, NOTHING]), np.stack([TRUTH, UNION])
    stomach, small = UWMadison(hd="unit_cube")(pred, truth, VOLUME)
    h = hausdorff_unit_cube(SHIFTED, UNION)  # TRUTH lies in UNION
    assert h == pytest.approx(math.hypot(3 / 20, 1 / 4, 2 / 10) / math.sqrt(3))
    assert stomach == pytest.approx({"uw_dice": 0.5, "uw_hausdorff": h, "uw_score": 0.4 * 0.5 + 0.6 * (1 - h)})
    assert small == pytest.approx({"uw_dice": 0.0, "uw_hausdorff": h, "uw_score": 0.6 * (1 - h)})


def test_the_literal_rule_lets_empty_slices_pull_dice_down() -> None:
    (row,) = UWMadison(both_empty=0.0)(TRUTH[None], TRUTH[None], VOLUME)
    assert row["uw_dice"] == 0.5  # two of four slices are empty on both sides
    assert row["uw_hausdorff"] == 0


def test_pooled_score_weighs_slices_equally() -> None:
    """As the challenge: 0.4 mean of all slices + 0.6 (1 - mean of all volumes), what is not defined left out."""
    dices, distances = [1.0, 0.5, 0.0, NAN], [0.1, NAN, 0.3]
    assert pooled_score(dices, distances) == pytest.approx(0.4 * 0.5 + 0.6 * 0.8)


def test_rules_tell_the_reconstruction() -> None:
    *_, score = UWMadison(hd="unit_cube").statistics
    assert score.rule == "slice with both empty left out; hd unit_cube, one side empty = 1, both empty left out"
    assert UWMadison().statistics[1].rule == "hd diag, one side empty = 1, both empty = 0"
