from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from segkit.data.case import Case
from segkit.metrics import Array
from segkit.metrics.surface import Surface, border
from segkit.system.errors import SegkitError


def case(*spacing_mm: float) -> Case:
    dims = 3 if len(spacing_mm) == 3 else 2
    return Case("a", image=None, spacing_mm=spacing_mm, dims=dims)  # type: ignore[arg-type]


def ball(radius: float, shape: tuple[int, ...] = (61, 61, 61), spacing: tuple[float, ...] = (1, 1, 1), shift: float = 0.0) -> Array:
    """A ball (a disc in 2-D) in the middle, moved by `shift` along the last axis; all in mm."""
    grid = np.moveaxis(np.indices(shape), 0, -1) * spacing - (np.array(shape) - 1) / 2 * spacing
    grid[..., -1] -= shift
    return np.asarray((grid**2).sum(axis=-1) <= radius**2)


def blobs(seed: int, shape: tuple[int, ...]) -> Array:
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.asarray(ndimage.gaussian_filter(noise, 2, mode="wrap") > 0.05)


def test_a_rectangle_shifted_by_three_columns() -> None:
    """All of its corners move 3 columns of 0.5 mm; 0.5 mm more than the row spacing would matter."""
    truth, pred = np.zeros((2, 40, 40), bool)
    truth[10:20, 10:30], pred[10:20, 13:33] = True, True
    values = Surface(tolerance=1.4)(pred, truth, case(2.0, 0.5))
    assert values["hd_mm"] == values["hd95_mm"] == pytest.approx(1.5)
    # Of the 56 border pixels 2 columns of 10 - 2 are 1.5 mm away, less where the top or bottom row is nearer (2 mm: never);
    # in top and bottom row 3 of 20 pixels are 0.5, 1 and 1.5 mm beyond the other's end, as are the corners.
    per_side = [1.5] * 8 + [1.5] * 8 + 2 * [1.5, 1.0, 0.5] + [0.0] * 34
    assert values["assd_mm"] == pytest.approx(np.mean(per_side))
    assert values["nsd_1.4mm"] == pytest.approx(np.mean(np.array(per_side) <= 1.4))


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 1, 0.5)])
def test_concentric_balls_lie_the_difference_of_their_radii_apart(spacing: tuple[float, ...]) -> None:
    shape = tuple(int(44 / s) | 1 for s in spacing)
    values = Surface(tolerance=6)(ball(12, shape, spacing), ball(20, shape, spacing), case(*spacing))
    half_diagonal = math.hypot(*spacing)  # borders of pixels lie that far inside at most
    for name in ("hd_mm", "hd95_mm", "assd_mm"):
        assert values[name] == pytest.approx(8, abs=half_diagonal)
    assert values["nsd_6mm"] == 0
    assert Surface(tolerance=10)(ball(12, shape, spacing), ball(20, shape, spacing), case(*spacing))["nsd_10mm"] == 1


def test_a_shifted_ball() -> None:
    """The mean distance of two spheres a small d apart is d / 2, the mean of |cos| over a sphere; borders are stairs of 1 mm."""
    a, b = (ball(30, (63, 63, 67), shift=shift) for shift in (0, 4))
    values = Surface()(a, b, case(1, 1, 1))
    assert values["hd_mm"] == pytest.approx(4)
    assert values["assd_mm"] == pytest.approx(2, abs=0.15)


def test_a_ball_shifted_by_one_thick_slice() -> None:
    a = ball(30, (17, 63, 63), (4, 1, 1))
    assert Surface()(np.roll(a, 1, axis=0), a, case(4, 1, 1))["hd_mm"] == pytest.approx(4)


def test_ellipses_in_anisotropic_pixels() -> None:
    """Axes 30 x 20 and 36 x 26 mm: 6 mm apart at all four ends."""
    y, x = np.indices((81, 161))
    y, x = (y - 40) * 1.0, (x - 80) * 0.5
    truth, pred = ((x / a) ** 2 + (y / b) ** 2 <= 1 for a, b in ((30, 20), (36, 26)))
    values = Surface()(pred, truth, case(1.0, 0.5))
    assert values["hd_mm"] == pytest.approx(6, abs=0.6)
    assert values["hd95_mm"] == pytest.approx(6, abs=0.6)
    assert 5.4 < values["assd_mm"] <= 6.3


@pytest.mark.parametrize("start", range(60, 200, 7))
def test_what_lies_exactly_at_the_tolerance_is_within_wherever_it_lies(start: int) -> None:
    """2 mm are 20 columns of 0.1 mm, which no computer can write exactly. Both have the first column in common."""
    truth, pred = np.zeros((2, 3, 240), bool)
    truth[:, [0, start]], pred[:, [0, start + 20]] = True, True
    assert Surface(tolerance=2)(pred, truth, case(0.1, 0.1))["nsd_2mm"] == 1
    assert Surface(tolerance=1.999)(pred, truth, case(0.1, 0.1))["nsd_1.999mm"] == 0.5


SETTINGS = [((40, 50), (1.0, 1.0)), ((33, 47), (0.7, 1.9)), ((14, 24, 20), (3.0, 0.8, 0.9))]


@pytest.mark.parametrize(("shape", "spacing"), SETTINGS, ids=str)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore::FutureWarning:monai")  # it calls its own functions in a deprecated way
def test_as_monai_on_random_masks(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> None:
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    pred, truth = blobs(2 * seed, shape), blobs(2 * seed + 1, shape)
    values = Surface(tolerance=1.5)(pred, truth, case(*spacing))
    y = [torch.from_numpy(mask)[None, None].float() for mask in (pred, truth)]
    keywords = {"include_background": True, "spacing": spacing}
    expected = {
        "hd_mm": monai.compute_hausdorff_distance(*y, **keywords),
        "hd95_mm": monai.compute_hausdorff_distance(*y, percentile=95, **keywords),
        "assd_mm": monai.compute_average_surface_distance(*y, symmetric=True, **keywords),
        "nsd_1.5mm": monai.compute_surface_dice(*y, class_thresholds=[1.5], **keywords),
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(float(value), abs=1e-4), name


@pytest.mark.parametrize("seed", range(3))
def test_as_all_pairs_of_border_pixels(seed: int) -> None:
    """By scipy's own erosion and a full table of distances."""
    pred, truth = blobs(seed, (21, 26)), blobs(seed + 9, (21, 26))
    a, b = (np.argwhere(mask & ~ndimage.binary_erosion(mask)) * (1.2, 0.4) for mask in (pred, truth))
    table = cdist(a, b)
    values = Surface()(pred, truth, case(1.2, 0.4))
    assert values["hd_mm"] == pytest.approx(max(table.min(axis=0).max(), table.min(axis=1).max()))
    assert values["assd_mm"] == pytest.approx(np.concatenate([table.min(axis=0), table.min(axis=1)]).mean())


def test_the_border_of_the_image_is_a_border() -> None:
    assert border(np.ones((4, 5), bool)).sum() == 14
    assert border(np.ones((1, 5), bool)).all()


@pytest.mark.parametrize("swap", [False, True])
def test_a_missed_or_invented_object_costs_more_than_the_worst_found_one(swap: bool) -> None:
    shape, at = (30, 40), case(0.5, 2.0)
    corner, other, nothing = np.zeros((3, *shape), bool)
    corner[0, 0], other[-1, -1] = True, True
    metric = Surface()
    worst = metric(other, corner, at)
    missed = metric(*((corner, nothing) if swap else (nothing, corner)), at)
    assert missed["hd_mm"] == missed["hd95_mm"] == missed["assd_mm"] == pytest.approx(math.hypot(15, 80))
    assert missed["hd_mm"] > worst["hd_mm"]
    assert missed["nsd_2mm"] == worst["nsd_2mm"] == 0


def test_misses_and_inventions_are_counted_apart() -> None:
    full, nothing = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    seen = [(v["missed"], v["invented"]) for p in (full, nothing) for t in (full, nothing) for v in [Surface()(p, t, case(1, 1))]]
    np.testing.assert_equal(seen, [(0, np.nan), (np.nan, 1), (1, np.nan), (np.nan, 0)])


def test_both_empty_is_left_out_or_perfect() -> None:
    nothing = np.zeros((4, 4), bool)
    assert all(math.isnan(v) for v in list(Surface()(nothing, nothing, case(1, 1)).values())[:4])
    assert list(Surface(both_empty="perfect")(nothing, nothing, case(1, 1)).values())[:4] == [0, 0, 0, 1]


def test_without_a_pixel_size_millimetres_are_missing_and_pixels_are_not() -> None:
    a, b = blobs(0, (20, 20)), blobs(1, (20, 20))
    assert math.isnan(Surface()(a, b, case())["hd_mm"])
    assert Surface()(a, b, case())["missed"] == 0
    assert Surface(unit="px")(a, b, case())["hd_px"] == Surface()(a, b, case(1, 1))["hd_mm"]
    assert "pixel size unknown = missing" in Surface().rule
    assert "pixel size" not in Surface(unit="px").rule


def test_columns_are_reported_before_they_are_made() -> None:
    metric = Surface(tolerance=0.5, unit="px")
    assert metric.names == ("hd_px", "hd95_px", "assd_px", "nsd_0.5px", "missed", "invented")
    assert tuple(metric(blobs(0, (9, 9)), blobs(1, (9, 9)), case())) == metric.names
    assert [statistic.column for statistic in metric.statistics] == list(metric.names)


def test_the_rule_names_the_definition() -> None:
    assert Surface().rule.startswith("as MONAI defines it; ")
    assert Surface(definition="deepmind").rule.startswith("as DeepMind's surface-distance defines it; ")


def test_squares_within_each_other_weighted_by_length() -> None:
    """Sides of 10 and 16 pixels, 3 apart. Lines run between pixels, and cut each corner by a diagonal of a half."""
    pred, target = np.zeros((2, 24, 24), bool)
    pred[7:17, 7:17], target[4:20, 4:20] = True, True
    values = Surface(tolerance=3, definition="deepmind")(pred, target, case(1.0, 1.0))
    corners = 4 * math.sqrt(0.5)
    inner, outer = 4 * 9 + corners, 4 * 15 + corners
    assert values["nsd_3mm"] == pytest.approx((inner + 4 * 11) / (inner + outer))  # beyond the inner's ends: 2 elements of a side at each
    assert values["hd_mm"] == pytest.approx(3 * math.sqrt(2))
    beyond = 8 * (math.hypot(3, 1) + math.hypot(3, 2)) + corners * 3 * math.sqrt(2)
    assert values["assd_mm"] == pytest.approx((3 + (44 * 3 + beyond) / outer) / 2)
    assert values["hd95_mm"] == pytest.approx(math.hypot(3, 2))


@pytest.mark.parametrize(("shape", "spacing"), [((40, 50), (1.5, 0.5)), ((20, 24, 28), (2.0, 1.0, 0.5))])
def test_surface_dice_by_area_agrees_with_monai(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    import torch
    from monai.metrics import compute_surface_dice

    for seed in range(3):
        a, b = blobs(seed, shape), blobs(seed + 9, shape)
        batch = (torch.as_tensor(mask)[None, None] for mask in (a, b))
        theirs = compute_surface_dice(*batch, class_thresholds=[1.2], include_background=True, spacing=spacing, use_subvoxels=True)
        ours = Surface(tolerance=1.2, definition="deepmind")(a, b, case(*spacing))["nsd_1.2mm"]
        assert ours == pytest.approx(float(theirs), abs=1e-5)


def test_deepminds_definition_without_monai_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.metrics.surface.find_spec", lambda name: None)
    with pytest.raises(SegkitError, match="pip install monai"):
        Surface(definition="deepmind")
