from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from segkit.data.case import Case
from segkit.metrics import Array
from segkit.metrics.topology import CellScores
from segkit.system.errors import SegkitError

CELLS = CellScores("cells")
CASE = Case("a", image=None)  # type: ignore[arg-type]


def halves(line: slice = slice(30, 31), gap: slice = slice(0, 0)) -> Array:
    """Cells left and right of a vertical membrane. (40, 60)"""
    cells = np.ones((40, 60), bool)
    cells[:, line] = False
    cells[gap, line] = True
    return cells


def foam(seed: int, width: int = 1, shape: tuple[int, int] = (300, 300)) -> Array:
    """Voronoi cells parted by membranes."""
    centres = np.random.default_rng(seed).random((6, 2)) * shape
    pixels = np.moveaxis(np.indices(shape), 0, -1)
    nearest = ((pixels[:, :, None] - centres) ** 2).sum(axis=-1).argmin(axis=-1)
    walls = (ndimage.maximum_filter(nearest, 3) != ndimage.minimum_filter(nearest, 3)) if width else np.zeros(shape, bool)
    return ~(ndimage.binary_dilation(walls, iterations=width - 1) if width > 1 else walls)


def test_two_cells_merged_through_a_gap() -> None:
    """Halves of 30 and 29 columns, taken for one: sum p^2 = sum t^2 = a^2 + b^2, s = 1; no information."""
    a, b = 30 / 59, 29 / 59
    values = CELLS(halves(gap=slice(10, 11)), halves(), CASE)
    together = a**2 + b**2
    assert values["v_rand"] == pytest.approx(2 * together / (together + 1))
    assert values["adapted_rand_error"] == pytest.approx(1 - values["v_rand"])
    assert values["v_info"] == pytest.approx(0, abs=1e-12)


def test_one_cell_split_in_half() -> None:
    """2 sum p^2 / (sum t^2 + 1) with p = 1/2 each; nothing to tell, so no information shared."""
    values = CELLS(halves(slice(30, 30)), halves(slice(30, 30)), CASE)
    assert values == {"adapted_rand_error": 0, "v_rand": 1, "v_info": 1}
    split = np.ones((40, 61), bool)
    split[:, 30] = False  # goes to the left or the right, whichever the nearest is
    values = CELLS(split, np.ones((40, 61), bool), CASE)
    p = np.array([30, 31]) / 61
    assert values["v_rand"] == pytest.approx(2 * (p**2).sum() / (1 + (p**2).sum()))
    assert values["v_info"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("width", [1, 3, 6])
def test_the_width_of_predicted_membranes_costs_nothing(width: int) -> None:
    values = CELLS(halves(slice(30 - width // 2, 31 + width // 2)), halves(slice(28, 33)), CASE)
    assert values["v_rand"] == pytest.approx(1)
    assert values["v_info"] == pytest.approx(1)


def test_a_dead_end_of_membrane_costs_nothing_and_a_gap_much() -> None:
    spurious = halves()
    spurious[5, 5:20] = False
    assert CELLS(spurious, halves(), CASE)["v_rand"] == pytest.approx(1)
    assert CELLS(halves(gap=slice(39, 40)), halves(), CASE)["v_rand"] < 0.7


def test_cells_that_touch_by_a_corner_are_two() -> None:
    cells = np.zeros((20, 20), bool)
    cells[:10, :10], cells[10:, 10:] = True, True
    apart = cells.copy()
    apart[9:11, 9:11] = False
    assert CELLS(cells, apart, CASE)["v_rand"] == pytest.approx(1)


def test_membranes_are_the_other_side_of_cells() -> None:
    pred, truth = foam(0, 2), foam(1, 2)
    assert CellScores("membranes")(~pred, ~truth, CASE) == CELLS(pred, truth, CASE)


@pytest.mark.parametrize("seed", range(3))
def test_as_scikit_image_on_random_cells(seed: int) -> None:
    """It draws pairs of pixels without replacement, which changes about one in 10,000 here."""
    metrics, measure, segmentation = (pytest.importorskip(f"skimage.{name}") for name in ("metrics", "measure", "segmentation"))
    pred, truth = foam(2 * seed, 2), foam(2 * seed + 1, 3)
    found = segmentation.expand_labels(measure.label(pred, connectivity=1), 50)
    there = measure.label(truth, connectivity=1)
    values = CELLS(pred, truth, CASE)
    error, *_ = metrics.adapted_rand_error(there, found)
    assert values["adapted_rand_error"] == pytest.approx(error, abs=1e-4)
    split, merge = metrics.variation_of_information(there, found, ignore_labels=[0])  # H(s | t), H(t | s) in bits
    shares = [np.bincount(labels[truth])[1:] / truth.sum() for labels in (there, found)]
    total = sum(-(s[s > 0] * np.log2(s[s > 0])).sum() for s in shares)
    assert values["v_info"] == pytest.approx(1 - (split + merge) / total, abs=1e-4)


def test_nothing_found_is_worst_and_nothing_there_is_missing() -> None:
    nothing = np.zeros((40, 60), bool)
    assert CELLS(nothing, halves(), CASE) == {"adapted_rand_error": 1, "v_rand": 0, "v_info": 0}
    assert all(math.isnan(value) for value in CELLS(halves(), nothing, CASE).values())


def test_volumes_are_refused() -> None:
    with pytest.raises(SegkitError, match="a: CellScores is for images"):
        CELLS(np.ones((3, 4, 5), bool), np.ones((3, 4, 5), bool), CASE)
