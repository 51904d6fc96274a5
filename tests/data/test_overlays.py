from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.data.labels import Array, LabelMap
from segkit.data.overlays import PREDICTION, REFERENCE, Panel, displayable, outline, sample_grid, samples

HEAD = LabelMap.of({0: "background", 1: "head"})
ORANGE = HEAD.colors[0]


def square(height: int = 60, width: int = 80) -> Array:
    planes = np.zeros((1, height, width), bool)
    planes[0, height // 3 : height // 2, width // 4 : width // 2] = True
    return planes


def test_outline_lies_on_the_border_and_nowhere_else() -> None:
    planes = square()
    drawn = outline(np.zeros((60, 80), np.uint8), [(planes, PREDICTION)], [ORANGE])
    eroded = cv2.erode(planes[0].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    np.testing.assert_array_equal((drawn == ORANGE).all(-1), planes[0] & ~eroded)
    assert not drawn[~planes[0] | eroded].any()


def test_reference_is_dashed_over_a_prediction_that_agrees() -> None:
    planes = np.zeros((1, 128, 192), bool)
    planes[0, 30:100, 40:150] = True
    drawn = outline(np.full((128, 192), 128, np.uint8), [(planes, PREDICTION), (planes, REFERENCE)], [ORANGE])
    for colour in (ORANGE, REFERENCE.of(ORANGE)):
        assert 60 < (drawn == colour).all(-1).sum() < 250


@pytest.mark.parametrize(("shape", "width"), [((128, 192), 1), ((540, 800), 2), ((2000, 3000), 8)])
def test_lines_grow_with_the_image(shape: tuple[int, int], width: int) -> None:
    planes = square(*shape)
    drawn = outline(np.zeros(shape, np.uint8), [(planes, PREDICTION)], [ORANGE])
    across = (drawn[:, shape[1] * 3 // 8] == ORANGE).all(-1)
    assert width <= across.sum() / 2 <= width + 1


def test_lines_around_thin_structures_leave_them_visible() -> None:
    vessel = np.zeros((1, 2000, 3000), bool)
    vessel[0, 1000:1012, 100:2900] = True
    drawn = outline(np.zeros((2000, 3000), np.uint8), [(vessel, PREDICTION)], [ORANGE])
    inside = (drawn[1000:1012, 1500] == ORANGE).all(-1)
    assert 4 <= (~inside).sum() < 12


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64, np.int32])
def test_deep_images_are_stretched(dtype: type) -> None:
    ramp = (np.linspace(1000, 3000, 60 * 80).reshape(60, 80, 1)).astype(dtype)
    shown = displayable(ramp)
    assert (shown.dtype, shown.shape) == (np.uint8, (60, 80, 3))
    assert (shown[0, 0, 0], shown[-1, -1, 0]) == (0, 255)
    assert np.all(np.diff(shown[..., 0].ravel().astype(int)) >= 0)


def test_pixels_without_a_value_and_constant_images() -> None:
    image = np.ones((10, 10), np.float32)
    assert displayable(image).shape == (10, 10, 3)
    image[0, 0], image[0, 1] = np.nan, np.inf
    image[5:] = 2
    shown = displayable(image)
    assert not shown[0, :2].any()
    assert (shown[5:] == 255).all()
    assert not displayable(np.full((4, 4), np.nan)).any()


def test_ordinary_8_bit_images_are_shown_as_they_are_and_not_written_to() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    before = image.copy()
    np.testing.assert_array_equal(displayable(image), image)
    outline(image, [(square(50, 60), PREDICTION)], [ORANGE])
    np.testing.assert_array_equal(image, before)


def test_grid_puts_marked_cases_first() -> None:
    bright, dark = np.full((60, 80), 255, np.uint8), np.zeros((60, 80), np.uint8)
    bright[:2] = 0
    panels = [Panel(dark, square(), square(), "a"), Panel(bright, square(), square(), "b", mark="worst")]
    grid = sample_grid(panels, HEAD, cell=200)
    middle = grid[12 + 100, :, 0]
    assert middle[180] == 255
    assert middle[-40] == 0


@pytest.mark.parametrize("n", [1, 7, 40])
def test_samples_stay_small_on_disk(tmp_path: Path, n: int) -> None:
    """Noise does not compress: the hardest picture there is."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400), np.uint8)
    panels = [Panel(noise, square(300, 400), square(300, 400), f"case {i}   Dice 0.93") for i in range(n)]
    samples(panels, HEAD, tmp_path / "samples.png", "Validation")
    assert (tmp_path / "samples.png").stat().st_size < 2_000_000
    assert cv2.imread(str(tmp_path / "samples.png")) is not None


@pytest.mark.filterwarnings("error")
def test_samples_of_mixed_shapes_long_captions_and_odd_names(tmp_path: Path) -> None:
    labels = LabelMap.of({"$x_1$": "$x_1$", **{f"class {i}": f"class {i}" for i in range(9)}}, overlap=True)
    panels = []
    for shape in ((37, 53), (53, 37), (600, 40), (40, 600, 3)):
        planes = np.zeros((10, *shape[:2]), bool)
        planes[:, 5:20, 5:20] = True
        panels.append(Panel(np.zeros(shape, np.float32), planes, caption="$ a very long name $ " * 5))
    samples(panels, labels, tmp_path / "samples.png", "$ no mathematics $, 日本")
    assert (tmp_path / "samples.png").is_file()
