"""Every way to the network's grid is undone exactly: a mask that goes there and back is the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from segkit.data.labels import IGNORE
from segkit.data.transforms import geometry
from segkit.system.errors import SegkitError


@dataclass(frozen=True)
class Grid:
    """The keys of `preprocess`."""

    size: tuple[int, ...] | None
    fit: Literal["stretch", "pad", "crop", "keep"] = "stretch"
    pad_mode: Literal["constant", "reflect", "symmetric", "edge"] = "constant"
    interpolation: Literal["area", "linear", "cubic"] = "area"
    crop_foreground: float | None = None
    spacing_mm: tuple[float, ...] | None = None
    pad_to: Literal["square"] | int | None = None
    mask_interpolation: Literal["nearest", "soft"] = "nearest"
    scale: Literal["auto", "max", "minmax", "percentiles", "window", "none"] = "auto"
    percentiles: tuple[float, float] = (0.5, 99.5)
    window: tuple[float, float] | None = None
    scope: Literal["volume", "image"] = "volume"
    per_channel: bool = True
    normalize: str = "dataset"


def disc(shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    centre, radius = (shape[0] / 2, shape[1] / 2), min(shape) / 3
    return ((rows - centre[0]) ** 2 + (cols - centre[1]) ** 2 < radius**2).astype(np.uint8)


def there_and_back(grid: Grid, mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    steps = geometry.plan(grid, mask.shape)
    on_grid = geometry.apply_mask(steps, mask)
    probs = (on_grid == 1).astype(np.float32)[None]
    return (geometry.undo(steps, probs, np.zeros(1, np.float32))[0] >= 0.5).astype(np.uint8)


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("shape", [(37, 53), (540, 800), (800, 540), (1, 1), (7, 300)])
@pytest.mark.parametrize("size", [(64, 96), (96, 64), (33, 33)])
def test_every_shape_reaches_the_grid_and_comes_back(
    fit: Literal["stretch", "pad", "crop"], shape: tuple[int, int], size: tuple[int, int]
) -> None:
    grid = Grid(size, fit)
    steps = geometry.plan(grid, shape)
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    assert geometry.apply(steps, image).shape == (*size, 3)
    assert geometry.apply_mask(steps, np.zeros(shape, np.uint8)).shape == size
    assert geometry.undo(steps, np.zeros((2, *size), np.float32), np.zeros(2, np.float32)).shape == (2, *shape)


@pytest.mark.parametrize("grid", [Grid(None), Grid((64, 120), "pad"), Grid((90, 80), "pad", "reflect"), Grid((192, 240))])
def test_lossless_steps_give_the_mask_back(grid: Grid) -> None:
    mask = disc((64, 80))
    assert (there_and_back(grid, mask) == mask).all()


@pytest.mark.parametrize("grid", [Grid((96, 120), "pad"), Grid((100, 100)), Grid((100, 200), "pad", "reflect")])
def test_resizing_moves_a_border_by_less_than_a_pixel(grid: Grid) -> None:
    mask = disc((64, 80))
    back = there_and_back(grid, mask)
    assert 2 * (mask & back).sum() / (mask.sum() + back.sum()) > 0.98


def test_padding_is_ignored_by_the_loss_unless_it_repeats_the_image() -> None:
    constant = geometry.apply_mask(geometry.plan(Grid((64, 64), "pad"), (32, 64)), np.ones((32, 64), np.uint8))
    assert (constant[:16] == IGNORE).all()
    assert (constant[16:48] == 1).all()
    reflected = geometry.apply_mask(geometry.plan(Grid((64, 64), "pad", "reflect"), (32, 64)), np.ones((32, 64), np.uint8))
    assert (reflected == 1).all()


def test_what_a_crop_never_saw_is_filled_as_configured() -> None:
    steps = geometry.plan(Grid((32, 32), "crop"), (32, 64))
    back = geometry.undo(steps, np.full((2, 32, 32), 0.25, np.float32), np.array([1, 0], np.float32))
    assert back[0, 0, 0] == 1
    assert back[1, 0, 0] == 0
    assert back[0, 16, 32] == 0.25


def test_odd_remainder_goes_to_the_bottom_and_right() -> None:
    (pad,) = geometry.plan(Grid((812, 812), "pad"), (540, 812))
    assert isinstance(pad, geometry.Pad)
    assert pad.offset == (136, 0)
    assert geometry.Pad((3, 3), (6, 6), "constant").offset == (1, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_images_keep_their_type(dtype: Any) -> None:
    image = np.ones((10, 20, 1), dtype)
    out = geometry.apply(geometry.plan(Grid((30, 30), "pad"), (10, 20)), image)
    assert out.dtype == dtype


@pytest.mark.parametrize(
    "grid",
    [
        Grid((12, 40, 48)),
        Grid((12, 40, 48), "pad"),
        Grid((12, 40, 48), "crop"),
        Grid((12, 40, 48), "keep"),
        Grid(None, spacing_mm=(2.0, 1.0, 1.0)),
        Grid(None, pad_to=16),
        Grid(None, pad_to="square"),
        Grid((16, 32, 32), pad_to=24, spacing_mm=(1.0, 1.0, 1.0)),
    ],
)
@pytest.mark.parametrize("shape", [(9, 31, 44), (20, 50, 20), (1, 8, 8)])
def test_volumes_reach_the_grid_and_come_back(grid: Grid, shape: tuple[int, ...]) -> None:
    steps = geometry.plan(grid, shape, (3.0, 0.7, 0.7))
    image = np.random.default_rng(0).random((*shape, 2)).astype(np.float32)
    there = geometry.apply(steps, image)
    mask = geometry.apply_mask(steps, np.zeros(shape, np.uint8))
    assert there.shape[:-1] == mask.shape
    assert geometry.apply_mask(steps, np.zeros((4, *shape), np.uint8)).shape == (4, *mask.shape)
    assert geometry.undo(steps, np.zeros((3, *mask.shape), np.float32), np.zeros(3, np.float32)).shape == (3, *shape)


def test_resizing_a_volume_is_linear_along_every_axis() -> None:
    ramp = np.mgrid[:10, :12, :14].astype(np.float32).sum(axis=0)
    out = geometry.resize(ramp, (20, 24, 28), "linear")
    expected = sum(np.meshgrid(*[np.clip((np.arange(2 * n) + 0.5) / 2 - 0.5, 0, n - 1) for n in ramp.shape], indexing="ij"))
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_re_spacing_makes_pixels_of_the_wanted_size_and_comes_back() -> None:
    mask = disc((64, 80))
    steps = geometry.plan(Grid(None, spacing_mm=(0.5, 0.25)), mask.shape, (1.0, 0.5))
    assert geometry.apply_mask(steps, mask).shape == (128, 160)
    on_grid = geometry.apply_mask(steps, mask)
    back = geometry.undo(steps, (on_grid == 1).astype(np.float32)[None], np.zeros(1, np.float32))[0] >= 0.5
    assert (back == mask).mean() > 0.99


def test_an_image_without_pixel_size_cannot_be_re_spaced() -> None:
    with pytest.raises(SegkitError, match=r"no known pixel size;   add  preprocess\.spacing_mm=null"):
        geometry.plan(Grid(None, spacing_mm=(1.0, 1.0)), (10, 10), ())
    with pytest.raises(SegkitError, match="2 numbers, but these are volumes"):
        geometry.plan(Grid((10, 10)), (10, 10, 10), ())


def test_keep_pads_or_cuts_but_never_scales() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    out = geometry.apply(geometry.plan(Grid((5, 2), "keep"), (3, 4)), image)
    assert out[..., 0].tolist() == [[0, 0], [1, 2], [5, 6], [9, 10], [0, 0]]


def test_a_foreground_crop_is_undone_and_the_rest_is_background() -> None:
    image = np.zeros((20, 30, 1), np.float32)
    image[4:10, 12:25] = 1
    box = geometry.foreground_box(image, 0.1)
    assert box == ((4, 10), (12, 25))
    steps = geometry.plan(Grid(None, crop_foreground=0.1), (20, 30), (), box)
    assert geometry.apply(steps, image).shape == (6, 13, 1)
    back = geometry.undo(steps, np.ones((1, 6, 13), np.float32), np.zeros(1, np.float32))
    assert (back[0] == image[..., 0]).all()
    assert geometry.foreground_box(np.zeros((4, 4, 1)), 0.0) is None


def test_padding_modes_and_targets() -> None:
    image = np.arange(3, dtype=np.uint8).reshape(1, 3, 1)
    rows = {
        mode: geometry.Pad((1, 3), (1, 7), mode).forward(image)[0, :, 0].tolist() for mode in ("constant", "reflect", "symmetric", "edge")
    }
    assert rows == {
        "constant": [0, 0, 0, 1, 2, 0, 0],
        "reflect": [2, 1, 0, 1, 2, 1, 0],
        "symmetric": [1, 0, 0, 1, 2, 2, 1],
        "edge": [0, 0, 0, 1, 2, 2, 2],
    }
    assert [step.target for step in geometry.plan(Grid(None, pad_to="square"), (7, 30, 44))] == [(7, 44, 44)]
    assert [step.target for step in geometry.plan(Grid(None, pad_to=16), (30, 44))] == [(32, 48)]
    assert geometry.plan(Grid(None, pad_to=16), (32, 48)) == ()


def test_soft_masks_keep_thin_lines_by_majority_and_make_no_new_values() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 10:25], mask[5, 5] = 2, IGNORE
    soft = geometry.apply_mask(geometry.plan(Grid((10, 10), mask_interpolation="soft"), (40, 40)), mask)
    assert set(np.unique(soft)) <= {0, 2, IGNORE}
    assert soft[5].tolist() == [0, 0, 0, 2, 2, 2, 0, 0, 0, 0]  # columns 2.5 to 6.25: those that are covered by more than half
    planes = geometry.apply_mask(geometry.plan(Grid((10, 10), mask_interpolation="soft"), (40, 40)), (mask == 2).astype(np.uint8)[None])
    assert set(np.unique(planes)) <= {0, 1}
