"""Submissions: headers, rows and their order as the competitions want them, and codes and ellipses that lead back to the mask."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from segkit.data.case import Case
from segkit.data.io.images import ImageFile
from segkit.data.labels import LabelMap
from segkit.data.slices import Volume
from segkit.inference.batch import open_writers
from segkit.inference.inputs import InputItem
from segkit.inference.writers.base import Target
from segkit.system.errors import SegkitError

NERVE = LabelMap.of({0: "background", 255: "nerve"})
HEAD = LabelMap.of({0: "background", 255: "head"})
BOWEL = LabelMap.of({"stomach": "stomach", "large_bowel": "large_bowel", "small_bowel": "small_bowel"}, overlap=True)


def job(path: Path, mm: tuple[float, ...] = ()) -> InputItem:
    return InputItem(path.stem, path, (Case(path.stem, ImageFile(path), spacing_mm=mm),))


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def decoded(code: str, rows: int, columns: int) -> np.ndarray:
    """Along columns, by pycocotools: its codes count zeros and ones in turn."""
    counts, at = [], 0
    numbers = [int(number) for number in code.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        counts += [start - 1 - at, length]
        at = start - 1 + length
    return coco.decode(coco.frPyObjects({"size": [rows, columns], "counts": [*counts, rows * columns - at]}, rows, columns))


def blobs(*shape: int) -> np.ndarray:
    noise = np.random.default_rng(1).random(shape).astype(np.float32)
    smooth = [cv2.GaussianBlur(plane, (0, 0), 2) for plane in noise.reshape(-1, *shape[-2:])]
    return (np.stack(smooth).reshape(shape) > 0.5).astype(np.uint8)


def test_nerves_are_counted_along_columns(tmp_path: Path) -> None:
    jobs, (writer,) = open_writers(["nerve"], [job(tmp_path / f"{name}.tif") for name in ("10", "2", "1")], Target(tmp_path, NERVE))
    masks = {"10": blobs(42, 58), "2": np.zeros((42, 58), np.uint8), "1": np.ones((42, 58), np.uint8)}
    for one in jobs:
        writer.write(one, masks[one.name])
    writer.close()
    header, *rows = table(tmp_path / "nerve_submission.csv")
    assert header == ["img", "pixels"]
    assert [name for name, _ in rows] == ["1", "2", "10"]
    assert [code for _, code in rows[:2]] == [f"1 {42 * 58}", ""]
    np.testing.assert_array_equal(decoded(rows[2][1], 42, 58), masks["10"])


def slice_path(root: Path, z: int, day: str = "case1_day2") -> Path:
    return root / "train" / "case1" / day / "scans" / f"slice_{z:04d}_36_31_1.50_1.50.png"


def test_gi_tract_has_three_rows_a_slice_counted_along_rows(tmp_path: Path) -> None:
    images = [slice_path(tmp_path, z) for z in (2, 1)]
    jobs, (writer,) = open_writers(["uw_madison"], [job(path) for path in images], Target(tmp_path, BOWEL))
    masks = blobs(2, 3, 31, 36)
    masks[0, 1] = 0
    for one, mask in zip(jobs, masks, strict=True):
        writer.write(one, mask)
    writer.close()
    header, *rows = table(tmp_path / "uw_madison_submission.csv")
    assert header == ["id", "class", "predicted"]
    ids = [f"case1_day2_slice_{z}" for z in ("0001", "0002")]
    assert [row[:2] for row in rows] == [[id_, name] for id_ in ids for name in ("large_bowel", "small_bowel", "stomach")]
    large, small, stomach = (row[2] for row in rows[3:])
    assert large == ""  # plane 1 of the label map
    np.testing.assert_array_equal(decoded(stomach, 36, 31).T, masks[0, 0])
    np.testing.assert_array_equal(decoded(small, 36, 31).T, masks[0, 2])


def test_slices_of_a_volume_have_rows_of_their_own(tmp_path: Path) -> None:
    images = Volume(tuple(ImageFile(slice_path(tmp_path, z)) for z in range(4)))
    whole = InputItem("case1_day2", tmp_path, (Case("case1_day2", images, dims=3),))
    _, (writer,) = open_writers(["uw_madison"], [whole], Target(tmp_path, BOWEL))
    masks = blobs(3, 4, 31, 36)
    writer.write(whole, masks)
    writer.close()
    rows = table(tmp_path / "uw_madison_submission.csv")[1:]
    assert len(rows) == 4 * 3
    np.testing.assert_array_equal(decoded(rows[9][2], 36, 31).T, masks[1, 3])  # the large bowel of slice 3


def test_rows_of_an_earlier_prediction_stay(tmp_path: Path) -> None:
    jobs = [job(tmp_path / "1.tif"), job(tmp_path / "2.tif")]
    _, (first,) = open_writers(["nerve"], jobs, Target(tmp_path, NERVE))
    first.write(jobs[0], np.ones((3, 3), np.uint8))
    first.write(jobs[1], np.ones((3, 3), np.uint8))
    first.close()
    _, (second,) = open_writers(["nerve"], [*jobs, job(tmp_path / "3.tif")], Target(tmp_path, NERVE))
    assert [second.is_done(one) for one in (*jobs, job(tmp_path / "3.tif"))] == [True, True, False]
    second.write(jobs[1], np.zeros((3, 3), np.uint8))
    second.close()
    assert table(tmp_path / "nerve_submission.csv") == [["img", "pixels"], ["1", "1 9"], ["2", ""]]
    (tmp_path / "nerve_submission.csv").write_text("id,code\n")
    _, (third,) = open_writers(["nerve"], jobs, Target(tmp_path, NERVE))
    with pytest.raises(SegkitError, match="first line is not  img,pixels"):
        third.is_done(jobs[0])


def test_two_images_never_share_a_row(tmp_path: Path) -> None:
    twins = [
        InputItem("a/1", tmp_path / "a/1.tif", job(tmp_path / "a/1.tif").cases),
        InputItem("b/1", tmp_path, job(tmp_path / "b/1.tif").cases),
    ]
    with pytest.raises(SegkitError, match="b/1 and a/1 would share the row 1"):
        open_writers(["nerve"], twins, Target(tmp_path, NERVE))


def drawn(centre: tuple[float, float], axes: tuple[float, float], angle: float) -> np.ndarray:
    """Pixels (200, 300) whose middle lies in an ellipse; all in pixels."""
    y, x = np.mgrid[:200, :300]
    u = (x - centre[0]) * math.cos(angle) + (y - centre[1]) * math.sin(angle)
    v = (y - centre[1]) * math.cos(angle) - (x - centre[0]) * math.sin(angle)
    return ((u / axes[0]) ** 2 + (v / axes[1]) ** 2 <= 1).astype(np.uint8)


def test_heads_are_ellipses_in_mm(tmp_path: Path) -> None:
    one = job(tmp_path / "001_HC.png", (0.2, 0.2))
    _, (writer,) = open_writers(["hc18"], [one], Target(tmp_path, HEAD))
    writer.write(one, drawn((140.0, 90.0), (80.0, 60.0), 0.5))
    writer.close()
    header, row = table(tmp_path / "hc18_submission.csv")
    assert header == ["filename", "center_x_mm", "center_y_mm", "semi_axes_a_mm", "semi_axes_b_mm", "angle_rad"]
    assert row[0] == "001_HC.png"
    np.testing.assert_allclose([float(number) for number in row[1:]], [28, 18, 16, 12, 0.5], atol=0.02)


def test_the_width_of_the_drawn_outline_can_be_taken_off(tmp_path: Path) -> None:
    one = job(tmp_path / "001_HC.png", (0.2, 0.2))
    _, (writer,) = open_writers(["hc18"], [one], Target(tmp_path, HEAD, outline_px=1.5))
    writer.write(one, drawn((140.0, 90.0), (80.0, 60.0), 0.5))
    writer.close()
    (row,) = table(tmp_path / "hc18_submission.csv")[1:]
    np.testing.assert_allclose([float(number) for number in row[3:5]], [78.5 * 0.2, 58.5 * 0.2], atol=0.02)


def test_an_image_without_a_head_is_reported(tmp_path: Path) -> None:
    one = job(tmp_path / "001_HC.png", (0.2, 0.2))
    _, (writer,) = open_writers(["hc18"], [one], Target(tmp_path, HEAD))
    writer.write(one, np.zeros((200, 300), np.uint8))
    writer.close()
    assert table(tmp_path / "hc18_submission.csv")[1] == ["001_HC.png", "", "", "", "", ""]
    (problem,) = writer.problems
    assert (problem.where, "no head found" in problem.what) == (str(tmp_path / "001_HC.png"), True)


def test_pixel_sizes_of_the_test_set_stand_in_the_table_of_the_challenge(tmp_path: Path) -> None:
    images = [job(tmp_path / "test_set" / f"{name}_HC.png") for name in ("000", "001")]
    with pytest.raises(SegkitError, match=r"pixel size of .*000_HC.png is not known .test_set_pixel_size.csv"):
        open_writers(["hc18"], images, Target(tmp_path, HEAD))
    other = tmp_path / "other"
    images = [job(other / "test_set" / f"{name}_HC.png") for name in ("000", "001")]
    other.mkdir()
    (other / "test_set_pixel_size.csv").write_text("filename,pixel size(mm)\n000_HC.png,0.1\n001_HC.png,0.3\n")
    _, (writer,) = open_writers(["hc18"], images, Target(tmp_path, HEAD))
    for one in images:
        writer.write(one, drawn((140.0, 90.0), (80.0, 60.0), 0.5))
    writer.close()
    first, second = table(tmp_path / "hc18_submission.csv")[1:]
    assert float(first[3]) == pytest.approx(8.0, abs=0.02)
    assert float(second[3]) == pytest.approx(24.0, abs=0.02)


TEST_SETS = {
    "hc18": (HEAD, [f"{i:03d}_HC.png" for i in range(335)], 1, "hc18_submission.csv"),
    "nerve": (NERVE, [f"{i}.tif" for i in range(1, 5509, 9)], 1, "nerve_submission.csv"),
    "uw_madison": (BOWEL, [f"case1_day{d}/scans/slice_{z:04d}_36_31_1.50_1.50.png" for d in (1, 20) for z in range(1, 145)], 3, ""),
}


@pytest.mark.parametrize("name", TEST_SETS)
def test_a_whole_test_set_has_its_rows_in_its_order(name: str, tmp_path: Path) -> None:
    """HC18: 335 images; nerve: every ninth of 5508; UW-Madison: 144 slices of a day, three rows each."""
    labels, images, rows_each, file = TEST_SETS[name]
    (tmp_path / "test_set_pixel_size.csv").write_text("filename,pixel size(mm)\n" + "".join(f"{image},0.1\n" for image in images))
    paths = [tmp_path / "test_set" / image for image in reversed(images)]
    given = [InputItem(path.relative_to(tmp_path).as_posix(), path, job(path).cases) for path in paths]
    jobs, (writer,) = open_writers([name], given, Target(tmp_path, labels))
    ellipse = cv2.ellipse(np.zeros((31, 36), np.uint8), (18, 15), (12, 8), 20, 0, 360, 1, -1)
    for one in jobs:
        writer.write(one, np.stack([ellipse] * 3) if labels.overlap else ellipse)
    writer.close()
    header, *rows = table(tmp_path / (file or "uw_madison_submission.csv"))
    assert len(rows) == len(images) * rows_each
    assert all(len(row) == len(header) and all(row) for row in rows)
    named = [row[0] for row in rows[::rows_each]]
    if name == "uw_madison":
        assert named == [f"case1_day{d}_slice_{z:04d}" for d in (1, 20) for z in range(1, 145)]
    else:
        assert named == [image.removesuffix(".tif") for image in images]
