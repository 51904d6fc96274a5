"""Every way to the network's grid is undone exactly: a mask that goes there and back is the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from segkit.data import geometry
from segkit.data.labels import IGNORE


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


def test_what_a_crop_never_saw_is_filled_as_told() -> None:
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
