"""Masks as LabelMe polygons: drawn again, by our reader and by LabelMe, they are the masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from segkit.data.case import Case, stack_planes
from segkit.data.io.images import ImageFile
from segkit.data.labels import LabelMap
from segkit.data.phantoms.base import write_png
from segkit.data.slices import Channels, Volume
from segkit.data.sources.labelme import LabelMe
from segkit.inference.batch import open_writers
from segkit.inference.inputs import InputItem
from segkit.inference.writers.base import Target
from segkit.inference.writers.labelme import polygons_of, write_labelme

LABELS = LabelMap.of({"l": "lung", "h": "heart"}, overlap=True)


def filled(mask: np.ndarray) -> np.ndarray:
    """Polygons of a mask, filled by Pillow with their outline as LabelMe does."""
    canvas = Image.new("L", mask.shape[::-1])
    for line in polygons_of(mask):
        ImageDraw.Draw(canvas).polygon(line * 3 if len(line) < 3 else line, fill=1, outline=1)
    return np.asarray(canvas)


@pytest.mark.parametrize("smooth", [0.0, 1.0, 3.0], ids=["noise", "ragged", "blobs"])
def test_polygons_drawn_again_are_the_mask_whatever_its_holes(smooth: float) -> None:
    rng = np.random.default_rng(0)
    for share in (0.1, 0.4, 0.6, 0.9, 1.0):
        field = ndimage.gaussian_filter(rng.random((41, 60)), smooth)
        mask = field <= np.quantile(field, share)
        np.testing.assert_array_equal(filled(mask), mask)


def test_a_ring_in_a_ring_is_two_polygons_with_few_corners() -> None:
    mask = np.zeros((40, 40), bool)
    for inset, value in ((2, True), (6, False), (10, True), (14, False)):
        mask[inset : 40 - inset, inset : 40 - inset] = value
    polygons = list(polygons_of(mask))
    assert len(polygons) == 2
    assert max(map(len, polygons)) <= 16  # two squares, the corners of a hole cut off, and the way between them
    np.testing.assert_array_equal(filled(mask), mask)


def planes() -> np.ndarray:
    """A disc with a hole, and an ellipse across it that touches the border: (2, 90, 120)."""
    y, x = np.mgrid[:90, :120]
    away = np.hypot(x - 50, y - 45)
    return np.stack([(away < 40) & (away > 10), ((x - 100) / 40) ** 2 + ((y - 40) / 20) ** 2 < 1]).astype(np.uint8)


def job(folder: Path, name: str = "sub/a") -> InputItem:
    image = folder / f"{name}.png"
    write_png(image, np.zeros((90, 120), np.uint8))
    return InputItem(name, image, (Case(name, ImageFile(image)),))


def test_the_labelme_source_reads_back_what_was_written(tmp_path: Path) -> None:
    (one,), (writer,) = open_writers(["labelme"], [job(tmp_path / "images")], Target(tmp_path / "out", LABELS))
    assert not writer.is_done(one)
    writer.write(one, planes())
    writer.close()
    assert writer.is_done(one)
    source = LabelMe(tmp_path, annotations="out")
    (case,) = source.cases()
    assert source.problems == []
    assert case.image.paths == (one.source,)
    np.testing.assert_array_equal(stack_planes(case, LABELS), planes())


def test_the_file_is_what_labelme_writes_itself(tmp_path: Path) -> None:
    write_labelme(tmp_path / "out" / "a.json", planes(), ["lung", "fémur"], tmp_path / "images" / "a.png")
    document = json.loads((tmp_path / "out" / "a.json").read_text(encoding="utf-8"))
    assert (document["imagePath"], document["imageData"]) == ("../images/a.png", None)
    assert (document["imageHeight"], document["imageWidth"]) == (90, 120)
    assert [shape["label"] for shape in document["shapes"]] == ["lung", "fémur"]
    assert {shape["shape_type"] for shape in document["shapes"]} == {"polygon"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json"]


def shape_to_mask(size: tuple[int, ...], points: list[list[float]]) -> np.ndarray:
    """What `labelme.utils.shape_to_mask` does with a polygon, word for word: the package itself wants a window system."""
    mask = Image.fromarray(np.zeros(size[:2], dtype=np.uint8))
    draw = ImageDraw.Draw(mask)
    xy = [tuple(point) for point in points]
    assert len(xy) > 2, "Polygon must have points more than 2"
    draw.polygon(xy=xy, outline=1, fill=1)
    return np.array(mask, dtype=bool)


def test_labelme_draws_the_mask_from_the_file(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a.json", planes(), ["lung", "heart"], tmp_path / "a.png")
    document = json.loads((tmp_path / "a.json").read_text())
    for label, plane in zip(("lung", "heart"), planes(), strict=True):
        drawn = np.zeros((document["imageHeight"], document["imageWidth"]), bool)
        for shape in document["shapes"]:
            if shape["label"] == label:
                drawn |= shape_to_mask(drawn.shape, shape["points"])
        np.testing.assert_array_equal(drawn, plane)


def test_a_mask_of_nothing_and_one_of_a_pixel_are_files_as_well(tmp_path: Path) -> None:
    one = np.zeros((2, 4, 5), np.uint8)
    one[1, 2, 3] = 1
    write_labelme(tmp_path / "a.json", one, ["lung", "heart"], tmp_path / "a.png")
    (shape,) = json.loads((tmp_path / "a.json").read_text())["shapes"]
    assert (shape["label"], shape["points"]) == ("heart", [[3, 2]] * 3)


def test_exclusive_classes_are_called_by_their_names_and_overlapping_ones_as_in_the_source(tmp_path: Path) -> None:
    assert Target(tmp_path, LABELS).source_names() == ("l", "h")
    assert Target(tmp_path, LabelMap.of({0: "background", 7: "bone", 8: "bone", 9: "skin"})).source_names() == ("bone", "skin")


def test_pictures_that_a_network_saw_as_a_volume_are_a_file_each(tmp_path: Path) -> None:
    images = [job(tmp_path, f"s{z}").cases[0].image for z in range(3)]
    whole = InputItem("scan", tmp_path, (Case("scan", Volume(tuple(images)), dims=3),))
    (one,), (writer,) = open_writers(["labelme"], [whole], Target(tmp_path / "out", LABELS))
    masks = np.zeros((2, 3, 90, 120), np.uint8)
    masks[0, 2] = planes()[0]
    writer.write(one, masks)
    documents = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").rglob("*.json"))]
    assert [(document["imagePath"], len(document["shapes"])) for document in documents] == [
        ("../../s0.png", 0),
        ("../../s1.png", 0),
        ("../../s2.png", 1),
    ]


def test_a_slice_between_its_neighbours_names_its_own_picture(tmp_path: Path) -> None:
    before, own, after = (job(tmp_path, f"s{z}").cases[0].image for z in range(3))
    one = InputItem("s1", before.paths[0], (Case("s1", Channels((before, own, after)), volume="scan", position=1),))
    _, (writer,) = open_writers(["labelme"], [one], Target(tmp_path, LABELS, neighbours=(-1, 0, 1)))
    writer.write(one, planes())
    assert json.loads((tmp_path / "s1.json").read_text())["imagePath"] == "s1.png"
