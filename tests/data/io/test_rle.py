"""Run-length codes: both orders, exact there and back, and every code that cannot be is told."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.data.io import rle
from segkit.data.io.base import ReadError, read_table

ROWS, COLUMNS = 31, 36


def ellipse(rows: int, columns: int) -> np.ndarray:
    return cv2.ellipse(np.zeros((rows, columns), np.uint8), (columns // 2, rows // 2), (columns // 4, rows // 5), 20, 0, 360, 1, cv2.FILLED)


@pytest.mark.parametrize("order", rle.ORDERS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_mask_comes_back_from_its_code_on_an_image_that_is_not_square(share: float, order: rle.Order) -> None:
    mask = (np.random.default_rng(0).random((ROWS, COLUMNS)) < share).astype(np.uint8)
    back = rle.decode(rle.encode(mask, order), ROWS, COLUMNS, order)
    assert np.array_equal(back, mask)
    assert back.dtype == np.uint8


def test_rows_are_counted_to_the_right_and_columns_down() -> None:
    mask = np.array([[0, 1, 1], [0, 1, 0]], np.uint8)
    assert rle.encode(mask, "rows") == "2 2 5 1"
    assert rle.encode(mask, "columns") == "3 3"
    assert np.array_equal(rle.decode("2 2 5 1", 2, 3, "rows"), mask)
    assert np.array_equal(rle.decode("3 3", 2, 3, "columns"), mask)


def test_the_example_of_kaggles_text() -> None:
    """'1 3 10 5' implies pixels 1, 2, 3, 10, 11, 12, 13, 14; pixels are numbered from top to bottom, then left to right."""
    mask = rle.decode("1 3 10 5", 5, 4, "columns")
    assert (np.flatnonzero(mask.T) + 1).tolist() == [1, 2, 3, 10, 11, 12, 13, 14]
    assert rle.encode(mask * 255, "columns") == "1 3 10 5"


def test_an_empty_code_is_an_empty_mask() -> None:
    assert rle.encode(np.zeros((4, 5), np.uint8), "rows") == ""
    assert not rle.decode("", 4, 5, "rows").any()


def test_runs_may_touch() -> None:
    assert rle.decode("1 2 3 2", 1, 6, "rows").tolist() == [[1, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 3 10", "3 numbers, but starts and lengths come in pairs"),
        ("1 x", "'x' is not a whole number"),
        ("1 2.5", "'2.5' is not a whole number"),
        ("-1 3", "'-1' is not a whole number"),
        ("0 3", "a run starts at 0, but pixels are counted from 1"),
        ("4 0", "the run at 4 has no length"),
        ("19 3", "the run 19 3 ends beyond the image of 4 rows x 5 columns = 20 pixels"),
        ("21 1", "the run 21 1 ends beyond"),
        ("1 99999999999999999999999", "ends beyond"),
        ("10 2 3 1", "the run at 3 starts before the one in front of it has ended"),
        ("1 5 4 2", "the run at 4 starts before the one in front of it has ended"),
    ],
)
def test_codes_that_cannot_be_are_refused_with_the_reason(code: str, said: str) -> None:
    with pytest.raises(rle.RunLengthError, match=said.replace(".", r"\.")):
        rle.decode(code, 4, 5, "rows")


def test_pixels_of_a_table_name_it_where_the_code_is_wrong(tmp_path: Path) -> None:
    pixels = rle.RunLength("19 3", 4, 5, "rows", tmp_path / "train.csv")
    with pytest.raises(ReadError, match=r"train\.csv: run-length code '19 3': the run 19 3 ends beyond"):
        pixels.read()


def test_pixels_have_the_value_that_is_wanted_and_travel_to_workers(tmp_path: Path) -> None:
    pixels = rle.RunLength("2 3", 4, 5, "columns", tmp_path / "t.csv", 255)
    assert pickle.loads(pickle.dumps(pixels)) == pixels
    assert np.unique(pixels.read()).tolist() == [0, 255]
    assert hash(pixels) != hash(rle.RunLength("2 3", 4, 5, "rows", tmp_path / "t.csv", 255))


@pytest.mark.parametrize("order", rle.ORDERS)
def test_the_order_is_seen_where_images_are_not_square(order: rle.Order) -> None:
    codes = [(rle.encode(ellipse(310, 360), order), 310, 360), (rle.encode(ellipse(90, 50), order), 90, 50)]
    assert rle.order_by_components(codes) == order


def test_square_images_do_not_tell_the_order() -> None:
    assert rle.order_by_components([(rle.encode(ellipse(64, 64), "rows"), 64, 64)]) is None


@pytest.mark.parametrize(
    "text", ["id,code\na,1 2\n", "id;code\r\na;1 2\r\n", "\ufeffid,code\na,1 2\n", "\ufeff CODE\tid\r\n1 2\ta\r\n\r\n"]
)
def test_tables_of_any_spreadsheet_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert read_table(tmp_path / "t.csv", ("id", "code"))[1] == [(2, {"id": "a", "code": "1 2"})]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no column id and no column code; the table is empty"),
        (b"id,pixels\n", "has no column code; its columns are id, pixels"),
        (b"id,code\n\xff\xfe\x00", "is not a table of comma-separated values"),
    ],
)
def test_tables_that_are_none_are_reported(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ReadError, match=said):
        read_table(tmp_path / "t.csv", ("id", "code"))
