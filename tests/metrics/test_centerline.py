from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from segkit.data.case import Case
from segkit.metrics import Array, Centerline

CASE = Case("a", image=None)  # type: ignore[arg-type]


def vessel(start: int = 5, stop: int = 95, width: int = 1, dims: int = 2) -> Array:
    """A straight tube along the last axis."""
    mask = np.zeros((21,) * (dims - 1) + (100,), bool)
    middle = slice(10 - width // 2, 10 + width // 2 + 1)
    mask[(middle,) * (dims - 1) + (slice(start, stop),)] = True
    return mask


def cldice(pred: Array, truth: Array, **rules: float | None) -> float:
    return Centerline(**rules)(pred, truth, CASE)["cldice"]


@pytest.mark.parametrize("dims", [2, 3])
def test_half_of_a_vessel(dims: int) -> None:
    """All that was found is right, half of what is there was found: harmonic mean of 1 and 1/2."""
    assert cldice(vessel(5, 50, dims=dims), vessel(5, 95, dims=dims)) == pytest.approx(2 / 3)


@pytest.mark.parametrize("dims", [2, 3])
def test_width_costs_nothing(dims: int) -> None:
    thin, thick = vessel(width=3, dims=dims), vessel(width=7, dims=dims)
    assert cldice(thick, thin) == cldice(thin, thick) == pytest.approx(1)
    assert 2 * (thin & thick).sum() / (thin.sum() + thick.sum()) < 0.7  # Dice minds


@pytest.mark.parametrize("side", range(1, 8))
@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_found_exactly_is_perfect(side: int, dims: int) -> None:
    """Also cubes, of which thinning may leave nothing: then the whole mask stands for its skeleton."""
    cube = np.zeros((12,) * dims, bool)
    cube[(slice(3, 3 + side),) * dims] = True
    assert cldice(cube, cube) == 1
    assert cldice(np.roll(cube, 8, axis=0) & ~cube, cube) < 1


def test_a_gap_costs_its_length() -> None:
    pred = vessel(width=3)
    pred[:, 40:58] = False
    sensitivity = pred[vessel(width=3) & (np.arange(21) == 10)[:, None]].mean()
    assert cldice(pred, vessel(width=3)) == pytest.approx(2 * sensitivity / (1 + sensitivity), abs=0.02)


def test_beside_the_vessel_is_zero() -> None:
    assert cldice(np.roll(vessel(), 4, axis=0), vessel()) == 0


def test_it_is_symmetric_on_random_masks() -> None:
    for seed in range(3):
        a, b = (ndimage.gaussian_filter(noise, 2) > 0 for noise in np.random.default_rng(seed).normal(size=(2, 60, 60)))
        assert 0 < cldice(a, b) == pytest.approx(cldice(b, a))
        assert cldice(a, a) == 1


@pytest.mark.parametrize("shape", [(80, 60), (20, 22, 24)])
def test_order_and_direction_of_the_axes_do_not_matter(shape: tuple[int, ...]) -> None:
    """Thinning alone depends on both: up to 0.02 on these masks."""
    noise = np.random.default_rng(1).normal(size=(2, *shape))
    a, b = ndimage.gaussian_filter(noise[0], 2.5) > 0.02, ndimage.gaussian_filter(noise[0] + noise[1] / 2, 2.5) > 0.03
    axes = range(len(shape))
    flips = [flipped for n in range(len(shape) + 1) for flipped in itertools.combinations(axes, n)]
    turned = [[np.flip(mask.transpose(order), flip) for mask in (a, b)] for order in itertools.permutations(axes) for flip in flips]
    assert {cldice(*pair) for pair in turned} == {cldice(a, b)}


def test_empty_masks_follow_the_rule() -> None:
    nothing = np.zeros_like(vessel())
    assert cldice(nothing, nothing) == 1
    assert math.isnan(cldice(nothing, nothing, both_empty=None))
    assert cldice(vessel(), nothing) == 0
    assert math.isnan(cldice(vessel(), nothing, truth_empty=None))
    assert cldice(nothing, vessel(), both_empty=None, truth_empty=None) == 0
