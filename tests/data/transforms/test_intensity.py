"""What becomes 0 and 1, and over what it is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.data.case import Case
from segkit.data.io.base import ReadError
from segkit.data.io.volumes import VolumeFile
from segkit.data.statistics import CaseStatistics, statistics_of
from segkit.data.transforms.intensity import Intensity, IntensityStatistics
from segkit.data.transforms.preprocess import to_grid
from segkit.inference.predictor import InMemory
from tests.data.transforms.test_geometry import Grid

Array = np.ndarray[Any, Any]


def scaled(image: Array, whole: Array | None = None, **keys: Any) -> Array:
    """An image (H, W, C) as the network's normaliser meets it."""
    config = Grid(None, **keys)
    case = Case("a", InMemory(image), whole=None if whole is None else Hashable(whole))
    intensity = Intensity(config)
    on_grid, _, found = to_grid(case, image, config, intensity)
    return intensity.normalize(on_grid, found)


class Hashable:
    def __init__(self, array: Array) -> None:
        self.array, self.paths = array, (Path("whole"),)

    def read(self) -> Array:
        return self.array


RAMP = np.linspace(-1000, 3000, 401, dtype=np.float32).reshape(1, 401, 1)


def test_bytes_stay_bytes_under_auto() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    assert scaled(image).dtype == np.uint8


@pytest.mark.parametrize(
    ("keys", "low", "high"),
    [
        ({"scale": "auto"}, -1000, 3000),
        ({"scale": "minmax"}, -1000, 3000),
        ({"scale": "max"}, 0, 3000),
        ({"scale": "window", "window": (-160.0, 240.0)}, -160, 240),
        ({"scale": "percentiles", "percentiles": (10.0, 90.0)}, -600, 2600),
    ],
)
def test_each_scale_maps_its_limits_to_0_and_1_and_clips(keys: dict[str, Any], low: float, high: float) -> None:
    expected = np.clip((RAMP - low) / (high - low), 0, 1)
    np.testing.assert_allclose(scaled(RAMP, **keys), expected, atol=1e-6)


def test_none_leaves_values_as_they_are() -> None:
    np.testing.assert_array_equal(scaled(RAMP, scale="none"), RAMP)


def test_a_slice_is_scaled_like_its_volume_unless_it_is_looked_at_alone() -> None:
    whole = np.stack([RAMP, RAMP / 10])
    assert scaled(RAMP / 10, whole, scale="max").max() == pytest.approx(0.1)
    assert scaled(RAMP / 10, whole, scale="max", scope="image").max() == pytest.approx(1.0)


def test_neighbouring_slices_share_the_scale_of_their_volume() -> None:
    """2.5-D: three slices as channels, each of the one channel that the volume has."""
    whole = np.stack([RAMP, RAMP / 10])
    stack = np.concatenate([RAMP, RAMP / 10, RAMP / 10], axis=-1)
    np.testing.assert_allclose(scaled(stack, whole, scale="max").max(axis=(0, 1)), [1.0, 0.1, 0.1], rtol=1e-5)


def test_channels_have_ranges_of_their_own_or_one_for_all() -> None:
    two = np.concatenate([RAMP, RAMP / 100], axis=-1)
    np.testing.assert_allclose(scaled(two, scale="max").max(axis=(0, 1)), [1, 1], rtol=1e-6)
    np.testing.assert_allclose(scaled(two, scale="max", per_channel=False).max(axis=(0, 1)), [1, 0.01], rtol=1e-6)


def test_z_score_over_the_volume() -> None:
    whole = np.random.default_rng(0).normal(7, 3, (5, 20, 30, 2)).astype(np.float32)
    z = np.stack([scaled(plane, whole, scale="minmax", normalize="volume") for plane in whole])
    np.testing.assert_allclose(z.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(axis=(0, 1, 2)), 1, atol=1e-4)


SCALES: list[dict[str, Any]] = [
    *({"scale": scale} for scale in ("auto", "max", "minmax", "percentiles", "none")),
    {"scale": "window", "window": (0.0, 300.0)},
    {"scale": "minmax", "per_channel": False},
    {"scale": "minmax", "normalize": "volume"},
    {"scale": "percentiles", "normalize": "volume"},
]


@pytest.mark.parametrize("keys", SCALES, ids=str)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_finite_values_set_the_range(keys: dict[str, Any], wrong: float) -> None:
    """One value that is no number changes what the network sees of no other."""
    sound = np.random.default_rng(0).normal(100, 20, (9, 30, 30, 2)).astype(np.float32)
    sound[0, 0, 0] = sound[0].min(axis=(0, 1)) if wrong < 0 else sound[0].max(axis=(0, 1))
    damaged = sound.copy()
    damaged[0, 0, 0, 1] = wrong
    seen, expected = (scaled(whole[0], whole, **keys) for whole in (damaged, sound))
    assert np.isfinite(seen).all()
    np.testing.assert_allclose(seen[1:], expected[1:], rtol=0, atol=0.03 * max(float(np.ptp(expected)), 1))


def test_what_is_no_number_does_not_spread_when_the_image_is_resized() -> None:
    image = np.random.default_rng(0).normal(100, 20, (40, 40, 1)).astype(np.float32)
    damaged = image.copy()
    damaged[0, 0] = np.inf
    seen, _, _ = to_grid(Case("a", InMemory(damaged)), damaged, Grid((20, 20), interpolation="linear"), Intensity(Grid((20, 20))))
    assert np.isfinite(seen).all()
    assert 0.05 < seen.std() < 0.1


def test_an_image_without_a_single_number_is_refused_unless_it_is_a_slice_of_a_volume_with_some() -> None:
    void = np.full((4, 5, 1), np.nan, np.float32)
    with pytest.raises(ReadError, match="every value is NaN or infinite"):
        scaled(void)
    whole = Hashable(np.stack([void, np.ones_like(void)]))
    case = Case("a_000", InMemory(void), volume="a", whole=whole)
    assert not to_grid(case, void, Grid(None, scale="minmax"), Intensity(Grid(None, scale="minmax")))[0].any()


@pytest.mark.parametrize("keys", SCALES, ids=str)
@pytest.mark.parametrize("value", [-7, 0, 4000])
def test_a_constant_image_stays_constant_and_finite(keys: dict[str, Any], value: int) -> None:
    seen = scaled(np.full((6, 6, 1), value, np.float32), **keys)
    assert np.isfinite(seen).all()
    assert np.ptp(seen) == 0


def test_percentiles_that_coincide_leave_the_little_that_an_image_shows() -> None:
    """A structure of less than 0.5 % on a background of one value keeps its gray levels."""
    image = np.zeros((100, 100, 1), np.float32)
    image[50, 50:54, 0] = [1, 2, 3, 4]
    np.testing.assert_allclose(scaled(image, scale="percentiles")[50, 50:54, 0], [0.25, 0.5, 0.75, 1])


def test_foreground_is_cropped_by_the_box_of_the_volume() -> None:
    whole = np.zeros((3, 10, 12, 1), np.float32)
    whole[1, 2:5, 3:9] = 1.0
    whole[0, 4:7, 3:4] = 0.5
    assert scaled(whole[2], whole, crop_foreground=0.1).shape == (5, 6, 1)
    assert scaled(whole[2], whole, crop_foreground=0.6).shape == (3, 6, 1)


def measured(kind: type[np.generic], least: int, most: int) -> CaseStatistics:
    """Statistics of an image of two values."""
    return statistics_of(Case("a", InMemory(np.array([[[least], [most]]], kind))))


@pytest.mark.parametrize("order", [1, -1])
def test_mixed_bit_depths_are_measured_each_by_its_own_range_in_any_order(order: int) -> None:
    mixed = [measured(np.uint8, 0, 255), measured(np.uint16, 0, 4095)][::order]
    seen = IntensityStatistics.of(Grid(None), mixed, decoded=lambda top: [])
    assert (seen.intensity_max, seen.dtypes) == (4095, ["uint16", "uint8"])
    assert (seen.mean, seen.sd) == (pytest.approx([0.5]), pytest.approx([0.5]))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, ">u2", np.uint32, np.int64, np.float16, bool])
def test_an_array_has_the_type_of_numbers_that_a_file_of_it_has(kind: Any, tmp_path: Path) -> None:
    array = (np.arange(12).reshape(3, 4, 1) % 2 * 200).astype(kind)
    np.save(tmp_path / "a.npy", array[None])
    of_file, in_memory = VolumeFile(tmp_path / "a.npy").read()[0], InMemory(array).read()
    assert in_memory.dtype == of_file.dtype
    assert np.array_equal(in_memory, of_file)


@pytest.mark.parametrize(
    ("array", "why"), [(np.zeros((0, 5)), "holds no pixels"), (np.zeros((5, 5), complex), "numbers of type complex128")]
)
def test_an_array_without_gray_values_is_refused(array: Array, why: str) -> None:
    with pytest.raises(ReadError, match=f"the image: .*{why}"):
        InMemory(array).read()
