"""What becomes 0 and 1, and over what it is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.data.case import Case
from segkit.data.transforms.intensity import Intensity
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


def test_what_is_no_number_becomes_one() -> None:
    image = np.array([[[np.nan], [np.inf], [1.0], [0.5]]], np.float32)
    assert np.isfinite(scaled(image)).all()


def test_foreground_is_cropped_by_the_box_of_the_volume() -> None:
    whole = np.zeros((3, 10, 12, 1), np.float32)
    whole[1, 2:5, 3:9] = 1.0
    whole[0, 4:7, 3:4] = 0.5
    assert scaled(whole[2], whole, crop_foreground=0.1).shape == (5, 6, 1)
    assert scaled(whole[2], whole, crop_foreground=0.6).shape == (3, 6, 1)
