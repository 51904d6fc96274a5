"""Shapes of LabelMe become the pixels that LabelMe itself fills."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segkit.data.io import polygons
from segkit.data.io.base import ReadError
from segkit.data.io.polygons import EmbeddedImage, Shape, ShapeError, Shapes

ROWS, COLUMNS = 40, 60
YS, XS = np.mgrid[:ROWS, :COLUMNS]


def png(pixels: Any) -> str:
    return base64.b64encode(cv2.imencode(".png", np.asarray(pixels))[1].tobytes()).decode()


def entry(kind: str | None, points: Any, label: str = "rib", **more: Any) -> dict[str, Any]:
    raw = {"label": label, "points": points, "group_id": None, "flags": {}, **more}
    return raw if kind is None else {**raw, "shape_type": kind}


def drawn(raw: dict[str, Any]) -> np.ndarray[Any, Any]:
    return polygons.draw([(polygons.parse(raw), 1)], ROWS, COLUMNS) > 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.json"


def write(file: Path, *shapes: dict[str, Any], **more: Any) -> Path:
    file.write_text(json.dumps({"shapes": shapes, **more}))
    return file


def test_a_rectangle_includes_both_its_ends_whichever_corner_comes_first() -> None:
    wanted = (XS >= 5) & (XS <= 20) & (YS >= 3) & (YS <= 8)
    assert np.array_equal(drawn(entry("rectangle", [[5, 3], [20, 8]])), wanted)
    assert np.array_equal(drawn(entry("rectangle", [[20, 3], [5, 8]])), wanted)


def test_a_polygon_includes_its_outline_and_is_what_old_files_mean_without_a_type() -> None:
    square = [[5, 3], [20, 3], [20, 8], [5, 8]]
    wanted = (XS >= 5) & (XS <= 20) & (YS >= 3) & (YS <= 8)
    for kind in (None, "polygon", "oriented_rectangle"):
        assert np.array_equal(drawn(entry(kind, square)), wanted)


def test_a_circle_is_given_by_centre_and_rim() -> None:
    disc = np.hypot(XS - 30, YS - 20)
    found = drawn(entry("circle", [[30, 20], [30, 30]]))
    assert found[disc <= 9.5].all()
    assert not found[disc >= 10.8].any()


def test_a_point_is_a_disc_of_radius_five() -> None:
    found = drawn(entry("point", [[30, 20]]))
    assert (found.any(axis=0).sum(), found.any(axis=1).sum()) == (11, 11)
    assert found[20, 30]


def test_lines_are_ten_pixels_wide() -> None:
    assert drawn(entry("line", [[10, 20], [50, 20]]))[:, 30].sum() == 10
    bent = drawn(entry("linestrip", [[10, 10], [40, 10], [40, 35]]))
    assert bent[:, 20].sum() == 10
    assert bent[25].sum() == 10


def test_a_mask_lies_at_its_first_corner_and_is_clipped_by_the_image() -> None:
    stencil = np.zeros((4, 6), np.uint8)
    stencil[1:, 2:] = 1
    found = drawn(entry("mask", [[10, 5], [15, 8]], mask=png(stencil)))
    assert np.array_equal(found[5:9, 10:16], stencil > 0)
    assert found.sum() == stencil.sum()
    corner = drawn(entry("mask", [[-2, -1], [3, 2]], mask=png(stencil)))
    assert np.array_equal(corner[:3, :4], stencil[1:, 2:] > 0)
    assert corner.sum() == 12
    fractions = drawn(entry("mask", [[10.4, 5.4], [15.7, 8.8]], mask=png(stencil)))
    assert np.array_equal(fractions, found)


def test_fractions_of_a_pixel_are_not_rounded_away() -> None:
    whole = drawn(entry("circle", [[30, 20], [30, 29]]))
    assert drawn(entry("circle", [[30, 20], [30, 29.6]])).sum() > whole.sum()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (entry("polygn", [[0, 0], [1, 1], [2, 0]]), "shape_type 'polygn' is not a valid option; did you mean polygon?"),
        (entry("freehand", []), "shape_type 'freehand' is not a valid option; available: polygon, rectangle, oriented_rectangle, "),
        (entry("polygon", [[0, 0], [1, 1]]), "a polygon of 2 points; expected 3 or more"),
        (entry("circle", [[0, 0]]), "a circle of 1 points; expected 2"),
        (entry("polygon", []), "a polygon of 0 points; expected 3 or more"),
        (entry("polygon", [[0, 0], [1], [2, 0]]), "its points are not a list of [x, y]"),
        (entry("polygon", [[0, 0], [1, float("nan")], [2, 0]]), "its points are not a list of [x, y]"),
        (entry("polygon", None), "its points are not a list of [x, y]"),
        (entry("mask", [[0, 0], [3, 3]], mask="@@"), "its mask is not a PNG in base64"),
        (entry("mask", [[0, 0], [3, 3]]), "its mask is not a PNG in base64"),
        (entry("mask", [[0, 0], [3, 3]], mask=png(np.ones((4, 3)))), "its mask is 4 x 3, but its corners make 4 x 4"),
        (entry("polygon", [[0, 0], [1, 1], [2, 0]], label=""), "has no label"),
        ([], "is not a shape with a label and points"),
    ],
)
def test_a_shape_that_cannot_be_says_why(raw: Any, said: str) -> None:
    with pytest.raises(ShapeError) as refusal:
        polygons.parse(raw)
    assert str(refusal.value).startswith(said)


def test_faults_are_reported_with_the_number_and_label_of_the_shape() -> None:
    shapes, faults = polygons.shapes_of({"shapes": [entry("point", [[1, 1]]), entry("line", [[1, 1]]), 5]})
    assert list(shapes) == [1]
    assert faults == ["shape 2 (rib): a line of 1 points; expected 2", "shape 3: is not a shape with a label and points"]


def test_shapes_of_one_label_are_joined_and_others_do_not_cut_them(file: Path) -> None:
    write(
        file, entry("rectangle", [[0, 0], [9, 9]]), entry("rectangle", [[5, 5], [14, 14]], "other"), entry("rectangle", [[8, 8], [12, 12]])
    )
    ribs = Shapes(file, (("rib", 1),), ROWS, COLUMNS).read()
    assert ribs.dtype == np.uint8
    assert set(np.unique(ribs)) == {0, 1}
    assert ribs.sum() == 100 + 25 - 4
    assert Shapes(file, (("other", 1),), ROWS, COLUMNS).read().sum() == 100


def test_in_a_class_map_later_shapes_cover_earlier_ones(file: Path) -> None:
    first, second = entry("rectangle", [[0, 0], [9, 9]], "b"), entry("rectangle", [[5, 5], [14, 14]], "a")
    ignored, ground = entry("point", [[40, 20]], polygons.IGNORE), entry("point", [[30, 20]], polygons.BACKGROUND)
    write(file, first, second, ignored, ground)
    pixels = Shapes(file, (("a", 1), ("b", 2), (polygons.IGNORE, 255)), ROWS, COLUMNS)
    found = pixels.read()
    assert (found[0, 0], found[7, 7], found[20, 40], found[20, 30]) == (2, 1, 255, 0)
    write(file, second, first)
    assert pixels.read()[7, 7] == 2  # the file has changed, so it is read again


@pytest.mark.parametrize("pixels", [np.arange(12, dtype=np.uint8).reshape(3, 4), np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000])
def test_a_grey_image_inside_the_file_keeps_its_bits(file: Path, pixels: Any) -> None:
    found = EmbeddedImage(write(file, imageData=png(pixels))).read()
    assert found.dtype == pixels.dtype
    assert np.array_equal(found[..., 0], pixels)


def test_a_colour_image_inside_the_file_is_rgb(file: Path) -> None:
    bgr = np.zeros((3, 4, 3), np.uint8)
    bgr[..., 2] = 200
    assert EmbeddedImage(write(file, imageData=png(bgr))).read()[0, 0].tolist() == [200, 0, 0]


def test_an_image_inside_the_file_that_is_cut_off_is_no_half_image(file: Path) -> None:
    whole = base64.b64decode(png(np.random.default_rng(0).integers(0, 255, (60, 60), np.uint8)))
    write(file, imageData=base64.b64encode(whole[:1500]).decode())
    assert polygons.embedded_size(file, polygons.labelme_document(file)) == (60, 60)
    with pytest.raises(ReadError, match="truncated"):
        EmbeddedImage(file).read()


def test_how_far_a_shape_lies_off_the_image() -> None:
    inside = Shape("rib", "polygon", ((0, 0), (COLUMNS, 0), (COLUMNS, ROWS)))
    assert inside.slip(ROWS, COLUMNS) == 0
    slipped = Shape("rib", "line", ((-1.5, 3), (10, 3)))
    assert slipped.slip(ROWS, COLUMNS) == 1.5
    with pytest.raises(ShapeError, match=r"reaches 9\.0 pixels beyond the image of"):
        Shape("rib", "line", ((-9, 3), (10, 3))).slip(ROWS, COLUMNS)
    away = Shape("rib", "circle", ((COLUMNS + 20, 5), (COLUMNS + 10, 5)))
    with pytest.raises(ShapeError, match="lies outside the image of"):
        away.slip(ROWS, COLUMNS)
