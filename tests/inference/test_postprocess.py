"""Steps on masks whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from segkit.data.labels import Array, LabelMap
from segkit.inference.postprocess import (
    FillHoles,
    FitEllipse,
    LargestComponents,
    MinimumSize,
    Smooth,
    check_classes,
    components,
    postprocess,
)
from segkit.system.errors import SegkitError

TWO = LabelMap.of({0: "background", 1: "a", 2: "b"})
PLANES = LabelMap.of({1: "a", 2: "b"}, overlap=True)


def squares(*sizes: int, dims: int = 2) -> np.ndarray:
    mask = np.zeros((12, 60) if dims == 2 else (8, 12, 60), bool)
    for i, n in enumerate(sizes):
        mask[(..., slice(0, n), slice(12 * i, 12 * i + n))] = True
    return mask


@pytest.mark.parametrize("dims", [2, 3])
def test_the_largest_objects_stay(dims: int) -> None:
    mask = squares(3, 9, 5, dims=dims)
    assert np.array_equal(LargestComponents()(mask), mask & (components(mask)[0] == 2))
    assert LargestComponents(2)(mask).sum() == mask.sum() - squares(3, dims=dims).sum()
    assert np.array_equal(LargestComponents(7)(mask), mask)


def test_small_objects_go_by_pixels_or_by_millimetres() -> None:
    mask = squares(3, 9, 5)
    assert MinimumSize(px=10)(mask).sum() == 81 + 25
    assert MinimumSize(mm=10)(mask, (2.0, 0.5)).sum() == 81 + 25
    assert MinimumSize(mm=10)(mask, (2.0, 2.0)).sum() == 81 + 25 + 9
    assert np.array_equal(MinimumSize(mm=10)(mask), mask)  # the pixel size is not known


def test_holes_are_filled_if_they_are_enclosed_and_small_enough() -> None:
    mask = squares(9, 9)
    mask[2:4, 2:4] = False
    mask[2:6, 14:18] = False
    mask[7, 0:3] = False  # open to the outside
    filled = FillHoles()(mask)
    assert filled[3, 3]
    assert filled[3, 15]
    assert not filled[7, 0]
    assert not FillHoles(px=4)(mask)[3, 15]


def test_holes_that_touch_by_a_corner_are_two() -> None:
    mask = np.ones((9, 9), bool)
    mask[2:4, 2:4] = mask[4:6, 4:6] = False
    assert FillHoles(px=4)(mask).all()
    assert not FillHoles(px=3)(mask)[2, 2]


def test_smoothing_removes_a_spike_and_keeps_a_half_plane() -> None:
    mask = np.zeros((40, 40), bool)
    mask[20:] = True
    spiked = mask.copy()
    spiked[10:20, 20] = True
    assert np.array_equal(Smooth(2.0)(mask), mask)
    assert (Smooth(2.0)(spiked) != mask).sum() <= 4


def test_an_ellipse_is_fitted_to_a_bitten_one() -> None:
    rows, columns = np.mgrid[:120, :160]
    truth = ((columns - 80) / 50) ** 2 + ((rows - 60) / 35) ** 2 <= 1
    bitten = truth.copy()
    bitten[40:55, 25:40] = False
    fitted = FitEllipse()(bitten)
    dice = [2 * (m & truth).sum() / (m.sum() + truth.sum()) for m in (bitten, fitted)]
    assert dice[1] > 0.985 > dice[0] - 0.02
    assert np.array_equal(FitEllipse()(truth), truth) or 2 * (FitEllipse()(truth) & truth).sum() / (2 * truth.sum()) > 0.995
    assert not FitEllipse()(np.zeros((9, 9), bool)).any()


def test_exclusive_classes_take_from_the_background_alone() -> None:
    mask = np.zeros((10, 30), np.uint8)
    mask[1:9, 1:9] = 1
    mask[3:5, 3:5] = 2  # inside a
    mask[6, 6] = 0  # a hole
    mask[2, 20] = 1  # a speck
    out = postprocess(mask, TWO, [LargestComponents(classes=["a"]), FillHoles()])
    assert out[3, 3] == 2
    assert out[6, 6] == 1
    assert out[2, 20] == 0


def test_overlapping_classes_are_treated_each_by_itself() -> None:
    planes = np.stack([squares(3, 9), squares(9, 3)]).astype(np.uint8)
    out = postprocess(planes, PLANES, [LargestComponents(classes=["b"])])
    assert np.array_equal(out[0], planes[0])
    assert out[1].sum() == 81


def test_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(SegkitError, match="postprocess names the class c; available: a, b"):
        check_classes([LargestComponents(classes=["c"])], TWO, 0.5)
    with pytest.raises(SegkitError, match="threshold names the class c; available: a, b"):
        check_classes([], PLANES, {"c": 0.3})
    with pytest.raises(SegkitError, match="the likeliest of exclusive classes is taken"):
        check_classes([], TWO, 0.3)


class Numbers:
    """A step that returns numbers where it should return bool."""

    classes = None

    def __call__(self, mask: Array, pixel_mm: tuple[float, ...]) -> Array:
        return np.where(mask, 255, 0)


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_a_step_of_numbers_makes_class_indices_all_the_same(names: list[str]) -> None:
    labels = LabelMap.of(dict(enumerate(["background", *names])))
    mask = np.eye(6, dtype=np.uint8) * len(names)
    assert np.array_equal(postprocess(mask, labels, [Numbers()]), mask)
