from __future__ import annotations

import math

import numpy as np
import pytest

from segkit.data.case import Case
from segkit.data.labels import LabelMap
from segkit.metrics import Array
from segkit.metrics.volumes import Stack, Stacks, VolumeDice, evaluate_volume
from segkit.system.errors import SegkitError

LABELS = LabelMap.of({0: "background", 1: "liver", 2: "tumour"})
OVERLAPPING = LabelMap.of({"lung": "lung", "heart": "heart"}, overlap=True)


def slice_of(volume: str, position: int, spacing_mm: tuple[float, ...] = (3.0, 0.5, 0.5)) -> Case:
    return Case(f"{volume}_{position}", image=None, group="p1", spacing_mm=spacing_mm, volume=volume, position=position)  # type: ignore[arg-type]


def filled(value: int, shape: tuple[int, ...] = (4, 5)) -> Array:
    return np.full(shape, value, np.uint8)


def test_slices_come_back_as_the_volume_they_were_cut_from() -> None:
    truth, pred = np.random.default_rng(0).integers(0, 3, (2, 6, 4, 5)).astype(np.uint8)
    order = [4, 1, 0, 5, 3, 2]
    cases = [slice_of("v", i) for i in range(6)]
    stacks = Stacks(cases)
    found = [stacks.add(cases[i], pred[i], truth[i]) for i in order]
    assert found[:-1] == [None] * 5
    volume = found[-1]
    assert volume is not None
    np.testing.assert_array_equal(volume.pred, pred)
    np.testing.assert_array_equal(volume.target, truth)
    assert (volume.case.id, volume.case.group, volume.case.dims, volume.case.pixel_mm) == ("v", "p1", 3, (3.0, 0.5, 0.5))


def test_volumes_are_given_back_one_by_one_and_forgotten() -> None:
    cases = [slice_of(name, i) for name in "ab" for i in range(2)]
    stacks = Stacks(cases)
    whole = [stacks.add(case, filled(1), filled(1)) for case in cases]
    assert [volume.case.id for volume in whole if volume] == ["a", "b"]
    assert not stacks.held


def test_a_slice_that_is_not_there_leaves_its_place_empty() -> None:
    cases = [slice_of("v", 10), slice_of("v", 13)]
    stacks = Stacks(cases)
    stacks.add(cases[0], filled(1), filled(2))
    volume = stacks.add(cases[1], filled(1), filled(2))
    assert volume is not None
    assert volume.pred[:, 0, 0].tolist() == [1, 0, 0, 1]
    assert volume.target[:, 0, 0].tolist() == [2, 0, 0, 2]
    assert np.asarray(volume.there).tolist() == [True, False, False, True]


def test_volumes_pass_and_single_images_do_not() -> None:
    whole = Case("w", image=None, dims=3)  # type: ignore[arg-type]
    alone = Case("x", image=None)  # type: ignore[arg-type]
    stacks = Stacks([whole, alone])
    assert stacks.add(whole, filled(1, (2, 4, 5)), filled(1, (2, 4, 5))) is not None
    assert stacks.add(alone, filled(1), filled(1)) is None


def test_slices_of_different_sizes_are_refused() -> None:
    stacks = Stacks(cases := [slice_of("v", 0), slice_of("v", 1)])
    stacks.add(cases[0], filled(1), filled(1))
    with pytest.raises(SegkitError, match="v: its slices have different sizes"):
        stacks.add(cases[1], filled(1, (4, 6)), filled(1, (4, 6)))


def test_a_row_a_class_where_classes_exclude_each_other() -> None:
    truth, pred = np.zeros((2, 2, 1, 6), np.uint8)
    truth[0, 0], pred[0, 0] = [1, 1, 2, 0, 255, 255], [1, 0, 2, 2, 1, 2]
    truth[1, 0] = [1, 1, 0, 0, 0, 0]
    case = Case("v", image=None, group="p1", dims=3)  # type: ignore[arg-type]
    liver, tumour = evaluate_volume(Stack(case, pred, truth), LABELS, {"dice": VolumeDice()}, "val")
    assert (liver.case, liver.group, liver.subset, liver.class_name) == ("v", "p1", "val", "liver")
    assert (liver.n_truth_px, liver.n_pred_px, liver.values) == (4, 1, {"volume_dice": pytest.approx(2 / 5)})
    assert (tumour.n_truth_px, tumour.n_pred_px, tumour.values) == (1, 2, {"volume_dice": pytest.approx(2 / 3)})


def test_a_row_a_class_where_classes_overlap() -> None:
    truth, pred = np.zeros((2, 2, 3, 1, 4), np.uint8)
    truth[0, 1, 0], pred[0, 1, 0] = [1, 1, 0, 255], [1, 1, 0, 1]
    truth[1, 1, 0] = [0, 1, 1, 0]
    case = Case("v", image=None, dims=3)  # type: ignore[arg-type]
    lung, heart = evaluate_volume(Stack(case, pred, truth), OVERLAPPING, {"dice": VolumeDice()})
    assert (lung.values["volume_dice"], lung.n_pred_px) == (1, 2)
    assert (heart.values["volume_dice"], heart.n_truth_px) == (0, 2)


def test_only_the_largest_object_of_the_prediction_counts() -> None:
    """8 true voxels, found; 4 more in one piece elsewhere, which hangs together over slices."""
    truth, pred = np.zeros((2, 1, 4, 8, 8), bool)
    truth[0, :2, :2, :2] = pred[0, :2, :2, :2] = True
    pred[0, :, 6, 6] = True
    case = Case("v", image=None, dims=3)  # type: ignore[arg-type]
    assert VolumeDice()(pred, truth, case) == [{"volume_dice": pytest.approx(16 / 20)}]
    assert VolumeDice(largest=True)(pred, truth, case) == [{"volume_dice": 1}]
    assert VolumeDice(largest=True)(truth, pred, case) == [{"volume_dice": pytest.approx(16 / 20)}]  # truth stays as it is


@pytest.mark.parametrize("order", [(0, 1, 5), (5, 0, 1)])
def test_slices_that_are_missing_do_not_part_an_object(order: tuple[int, ...]) -> None:
    stacks = Stacks([slice_of("v", i) for i in order])
    *_, volume = [stacks.add(slice_of("v", i), filled(1), filled(1)) for i in order]
    assert volume is not None
    liver, _ = evaluate_volume(volume, LABELS, {"dice": VolumeDice(largest=True)})
    assert (liver.values["volume_dice"], liver.n_truth_px) == (1, 60)


def test_slices_without_the_structure_part_an_object() -> None:
    cases = [slice_of("v", i) for i in range(4)]
    stacks = Stacks(cases)
    *_, volume = [stacks.add(case, filled(int(i != 2)), filled(1)) for i, case in enumerate(cases)]
    assert volume is not None
    liver, _ = evaluate_volume(volume, LABELS, {"dice": VolumeDice(largest=True)})
    assert liver.values["volume_dice"] == pytest.approx(2 * 40 / (40 + 80))


def test_empty_volumes_follow_the_rule() -> None:
    nothing, full = np.zeros((1, 2, 3, 3), bool), np.ones((1, 2, 3, 3), bool)
    case = Case("v", image=None, dims=3)  # type: ignore[arg-type]
    assert VolumeDice(largest=True)(nothing, nothing, case)[0]["volume_dice"] == 1
    assert math.isnan(VolumeDice(both_empty=None)(nothing, nothing, case)[0]["volume_dice"])
    assert VolumeDice()(full, nothing, case)[0]["volume_dice"] == 0
    assert VolumeDice(largest=True).statistics[0].rule == "both empty = 1, only truth empty = 0, largest object of the prediction"
