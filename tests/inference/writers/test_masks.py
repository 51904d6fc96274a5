from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segkit.data.io.images import read_mask
from segkit.data.labels import LabelMap
from segkit.data.overlays import PREDICTION, outline
from segkit.inference.writers.masks import (
    SIZE_HEADER,
    is_written,
    mask_paths,
    palettes,
    size_rows,
    write_mask,
    write_png,
    write_probabilities,
)
from segkit.inference.writers.tables import Table, read_rows
from segkit.system.errors import SegkitError

CLASSES = np.array([[0, 1, 1], [2, 0, 2]], np.uint8)


def read(path: Path) -> np.ndarray:
    """With another reader than the one that wrote."""
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(
    ("values", "dtype"), [({0: "background", 255: "head", 7: "eye"}, np.uint8), ({0: "background", 1000: "head", 2: "eye"}, np.uint16)]
)
def test_mask_holds_the_values_of_the_label_map(tmp_path: Path, values: dict[int, str], dtype: type) -> None:
    labels = LabelMap.of(values)
    assert write_mask(tmp_path / "sub" / "a.png", CLASSES, labels) == [tmp_path / "sub" / "a.png"]
    raw = read(tmp_path / "sub" / "a.png")
    background, first, second = values
    np.testing.assert_array_equal(raw, np.choose(CLASSES, [background, first, second]))
    assert raw.dtype.itemsize == np.dtype(dtype).itemsize or dtype is np.uint16
    encoded, unknown = labels.encode(cv2.imread(str(tmp_path / "sub" / "a.png"), cv2.IMREAD_UNCHANGED))
    np.testing.assert_array_equal(encoded, CLASSES)
    assert unknown == ()


def test_mask_of_a_colour_map(tmp_path: Path) -> None:
    labels = LabelMap.of({"#000000": "background", "#ff8000": "head", "#0000ff": "eye"})
    write_mask(tmp_path / "a.png", CLASSES, labels)
    raw = read(tmp_path / "a.png")
    assert raw[0, 1].tolist() == [255, 128, 0]
    np.testing.assert_array_equal(labels.encode(raw)[0], CLASSES)


def test_a_palette_colours_the_classes_and_leaves_their_values(tmp_path: Path) -> None:
    labels = LabelMap.of({0: "background", 255: "head", 7: "eye"})
    (path,) = write_mask(tmp_path / "a.png", CLASSES, labels, palette=True)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), np.choose(CLASSES, [0, 255, 7]))
        shown = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(shown, np.array([(0, 0, 0), *labels.colors], np.uint8)[CLASSES])
    np.testing.assert_array_equal(labels.encode(read_mask(path))[0], CLASSES)


def test_a_palette_of_overlapping_classes_has_the_colour_of_the_class(tmp_path: Path) -> None:
    labels = LabelMap.of({"l": "lung", "h": "heart"}, overlap=True)
    paths = write_mask(tmp_path / "a.png", np.stack([CLASSES > 0, CLASSES == 2]).astype(np.uint8), labels, palette=True)
    for path, colour in zip(paths, labels.colors, strict=True):
        with Image.open(path) as picture:
            values, shown = np.asarray(picture), np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(shown, np.where(values[..., None] == 255, colour, 0))
        assert set(np.unique(values)) == {0, 255}


@pytest.mark.parametrize("values", [{0: "background", 256: "head"}, {"#000000": "background", "#ff0000": "head"}])
def test_values_that_are_no_index_of_a_palette(values: dict[int | str, str]) -> None:
    with pytest.raises(SegkitError, match="leave palette=false"):
        palettes(LabelMap.of(values))


def test_overlapping_classes_are_one_file_each(tmp_path: Path) -> None:
    labels = LabelMap.of({"l": "left/upper lung", "h": "heart"}, overlap=True)
    planes = np.stack([CLASSES > 0, CLASSES == 2]).astype(np.uint8)
    paths = write_mask(tmp_path / "a.png", planes, labels)
    assert [path.name for path in paths] == ["a_left_upper_lung.png", "a_heart.png"]
    for path, plane in zip(paths, planes, strict=True):
        np.testing.assert_array_equal(read(path), plane * 255)


def test_what_is_done_is_known_only_when_all_of_it_is_there(tmp_path: Path) -> None:
    labels = LabelMap.of({"l": "lung", "h": "heart"}, overlap=True)
    assert not is_written(tmp_path / "a.png", labels)
    write_mask(tmp_path / "a.png", np.zeros((2, 3, 4), np.uint8), labels)
    assert is_written(tmp_path / "a.png", labels)
    (tmp_path / "a_heart.png").unlink()
    assert not is_written(tmp_path / "a.png", labels)


def test_names_and_values_that_no_file_can_hold(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match="equal file names"):
        mask_paths(tmp_path / "a.png", LabelMap.of({"a": "lung/left", "b": "lung left"}, overlap=True))
    with pytest.raises(SegkitError, match="up to 65535"):
        write_mask(tmp_path / "a.png", CLASSES, LabelMap.of({0: "background", 70000: "a", 1: "b"}))


def test_probabilities_open_with_numpy_alone(tmp_path: Path) -> None:
    probs = np.random.default_rng(0).random((2, 30, 40), np.float32)
    write_probabilities(tmp_path / "a.npz", probs, ("lung", "heart"))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(file["probs"], probs, atol=5e-4)
        assert file["probs"].dtype == np.float16
        assert file["classes"].tolist() == ["lung", "heart"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_overlay_has_the_size_of_the_image_and_its_colours_in_order(tmp_path: Path) -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    image[..., 0] = 200
    planes = np.zeros((1, 40, 50), bool)
    planes[0, 10:20, 10:30] = True
    write_png(tmp_path / "a.png", outline(image, [(planes, PREDICTION)], [(0, 255, 10)]))
    drawn = read(tmp_path / "a.png")
    assert drawn.shape == (40, 50, 3)
    assert (drawn[10, 15].tolist(), drawn[30, 40].tolist()) == ([0, 255, 10], [200, 0, 0])


def test_areas_in_pixels_and_mm2(tmp_path: Path) -> None:
    labels = LabelMap.of({0: "background", 1: "head", 2: "eye"})
    assert size_rows("a", CLASSES, labels, (0.5, 0.2)) == [("a", "head", "2", "0.2", ""), ("a", "eye", "2", "0.2", "")]
    assert size_rows("a", CLASSES[None], labels, (2.0, 0.5, 0.2))[0] == ("a", "head", "2", "", "0.4")
    assert size_rows("b", CLASSES, labels) == [("b", "head", "2", "", ""), ("b", "eye", "2", "", "")]


def test_area_table_keeps_the_cases_that_were_skipped(tmp_path: Path) -> None:
    labels = LabelMap.of({0: "background", 1: "head"})
    path = tmp_path / "sizes.csv"
    for found in (
        {"a": size_rows("a", CLASSES == 1, labels, (0.1, 0.3)), "b": size_rows("b", CLASSES == 1, labels)},
        {"b": size_rows("b", CLASSES > 0, labels, (1.0, 1.0))},
    ):
        table = Table(tmp_path, path.name, SIZE_HEADER)
        table.add(found)
        table.write()
    rows = read_rows(path, SIZE_HEADER)
    assert rows == {"a": [("a", "head", "2", repr(2 * (0.1 * 0.3)), "")], "b": [("b", "head", "4", "4.0", "")]}
    (tmp_path / "sizes.csv").write_text("something else\n")
    with pytest.raises(SegkitError, match="first line is not  case,class"):
        read_rows(path, SIZE_HEADER)
