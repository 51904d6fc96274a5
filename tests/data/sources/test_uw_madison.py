"""UW-Madison: slices by file name, three overlapping planes from run-length codes along rows, known bad days left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segkit.data.case import Case
from segkit.data.io import rle
from segkit.data.io.images import read_image
from segkit.data.phantoms import tomography
from segkit.data.phantoms.base import write_png
from segkit.data.sources.uw_madison import CLASSES, UWMadison

HEADER = "id,class,segmentation"
SLICES = 16


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("uw")
    UWMadison(root).write_phantom(root, SLICES, seed=5)
    return root


def listed(root: Path, **keys: Any) -> tuple[list[Case], list[str]]:
    source = UWMadison(root, **keys)
    cases = list(source.cases())
    return cases, [f"{p.severity}: {p.where}: {p.what}; {p.fix}" for p in source.problems]


def disc(rows: int, columns: int) -> np.ndarray:
    return cv2.circle(np.zeros((rows, columns), np.uint8), (columns // 2, rows // 2), 9, 1, cv2.FILLED)


def small(root: Path, days: tuple[str, ...] = ("case1_day0",), positions: tuple[int, ...] = (1, 2)) -> list[str]:
    """Slices of 30 rows x 40 columns, each with its three lines, which are written and returned; a disc is the stomach."""
    table = [HEADER]
    for day in days:
        for z in positions:
            write_png(
                root / "train" / day.split("_")[0] / day / "scans" / f"slice_{z:04d}_40_30_1.50_1.63.png", np.full((30, 40), z, np.uint16)
            )
            codes = {"large_bowel": "", "small_bowel": "5 3", "stomach": rle.encode(disc(30, 40), "rows")}
            table += [f"{day}_slice_{z:04d},{name},{codes[name]}" for name in CLASSES]
    write_table(root, table)
    return table


def write_table(root: Path, lines: list[str], end: str = "\n") -> None:
    (root / "train.csv").write_bytes((end.join(lines) + end).encode())


def test_phantom_slices_read_back_as_they_were_drawn(phantom: Path) -> None:
    cases, problems = listed(phantom)
    assert problems == []
    by_id = {case.id: case for case in cases}
    for scan in tomography.mr_scans(SLICES, 5):
        for z, image, masks in zip(scan.positions, scan.images, scan.masks, strict=True):
            case = by_id.pop(f"case{scan.case}_day{scan.day}_slice_{z:04d}")
            assert (case.group, case.volume, case.position) == (f"case{scan.case}", f"case{scan.case}_day{scan.day}", z)
            assert case.spacing_mm == (3.0, 1.5, 1.5)
            assert np.array_equal(case.image.read()[..., 0], image)
            assert list(case.masks) == list(CLASSES)
            assert np.array_equal(np.stack([plane.read() for plane in case.masks.values()]), masks)
    assert not by_id


def test_the_phantom_has_four_patients_repeated_days_overlaps_and_empty_slices(tmp_path: Path) -> None:
    UWMadison(tmp_path).write_phantom(tmp_path, 40, seed=0)
    cases, _ = listed(tmp_path)
    masks = {case.id: np.stack([plane.read() for plane in case.masks.values()]) for case in cases}
    assert len({case.group for case in cases}) >= 4
    assert len({case.volume for case in cases}) > len({case.group for case in cases})
    assert sum((mask.sum(axis=0) > 1).any() for mask in masks.values()) > 20
    assert 0 < sum(not mask.any() for mask in masks.values()) < 8
    for group in {case.group for case in cases}:
        assert np.any([masks[case.id].any(axis=(1, 2)) for case in cases if case.group == group], axis=0).all()


def test_the_phantom_is_written_the_same_again(phantom: Path, tmp_path: Path) -> None:
    UWMadison(tmp_path).write_phantom(tmp_path, SLICES, seed=5)
    first, second = ({path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")} for root in (phantom, tmp_path))
    assert len(first) == SLICES + 1
    assert first == second


def test_a_threshold_does_not_find_the_organs_of_the_phantom(phantom: Path) -> None:
    scores = []
    for case in listed(phantom)[0]:
        image, organs = case.image.read()[..., 0], np.any([plane.read() for plane in case.masks.values()], axis=0)
        if organs.any():
            _, bright = cv2.threshold((image // 256).astype(np.uint8), 0, 1, cv2.THRESH_OTSU)
            scores.append(2 * (organs & (bright > 0)).sum() / (organs.sum() + bright.sum()))
    assert np.mean(scores) < 0.8


def test_width_stands_first_in_a_file_name_and_codes_run_along_rows(tmp_path: Path) -> None:
    small(tmp_path)
    cases, problems = listed(tmp_path, slice_mm=2.5)
    assert problems == []
    assert [case.id for case in cases] == ["case1_day0_slice_0001", "case1_day0_slice_0002"]
    assert cases[0].spacing_mm == (2.5, 1.63, 1.5)
    stomach = cases[0].masks["stomach"].read()
    assert stomach.shape == read_image(cases[0].image.paths[0]).shape[:2] == (30, 40)
    assert np.array_equal(stomach, disc(30, 40))
    assert not cases[0].masks["large_bowel"].read().any()


def test_a_table_along_columns_is_reported_from_its_shreds_and_read_with_the_other_order(tmp_path: Path) -> None:
    table = small(tmp_path)
    along_rows, along_columns = (rle.encode(disc(30, 40), order) for order in rle.ORDERS)
    write_table(tmp_path, [line.replace(along_rows, along_columns) for line in table])
    assert listed(tmp_path)[1] == [
        "error: train.csv: its pixels are counted along columns, not rows: read along rows, the structures fall to pieces; "
        "data.source.order=columns"
    ]
    cases, problems = listed(tmp_path, order="columns")
    assert problems == []
    assert np.array_equal(cases[0].masks["stomach"].read(), disc(30, 40))


def test_a_phantom_can_be_written_along_columns(tmp_path: Path) -> None:
    source = UWMadison(tmp_path, order="columns", table="t.csv", images="pictures")
    source.write_phantom(tmp_path, 4, seed=0)
    assert len(list(source.cases())) == 4
    assert source.problems == []


def test_known_bad_days_are_left_out_and_reported_so(tmp_path: Path) -> None:
    small(tmp_path, days=("case7_day0", "case7_day1"))
    cases, problems = listed(tmp_path)
    assert {case.volume for case in cases} == {"case7_day1"}
    assert problems == [
        "note: case7_day0: 2 slices left out, as data.source.exclude_days says; its masks are known to lie beside the organs"
    ]
    assert len(listed(tmp_path, exclude_days=[])[0]) == 4
    assert listed(tmp_path, exclude_days=["case7_day5"])[1] == [
        "warning: data.source.exclude_days: 'case7_day5' is not a day of this data set; a day is called  caseC_dayD"
    ]


def test_gaps_between_slices_are_noted(tmp_path: Path) -> None:
    small(tmp_path, positions=(1, 2, 5))
    cases, problems = listed(tmp_path)
    assert [case.position for case in cases] == [1, 2, 5]
    assert problems == ["note: train: 1 of 1 volumes lack slices in between: slices are further apart there than 3 mm; "]


def test_the_unlabelled_test_folder_is_no_part_of_the_cases(tmp_path: Path) -> None:
    small(tmp_path)
    write_png(tmp_path / "test/case9/case9_day0/scans/slice_0001_40_30_1.50_1.50.png", np.zeros((30, 40), np.uint16))
    cases, problems = listed(tmp_path)
    assert (len(cases), problems) == (2, [])


@pytest.mark.parametrize(("delimiter", "end", "mark"), [(",", "\r\n", "\ufeff"), (";", "\n", ""), ("\t", "\r\n", "\ufeff")])
def test_tables_of_any_spreadsheet_are_read(delimiter: str, end: str, mark: str, tmp_path: Path) -> None:
    lines = [line.replace(",", delimiter) for line in small(tmp_path)]
    write_table(tmp_path, [mark + lines[0], *lines[1:]], end)
    cases, problems = listed(tmp_path)
    assert problems == []
    assert np.array_equal(cases[1].masks["stomach"].read(), disc(30, 40))


def test_every_fault_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    lines = small(tmp_path, positions=(1, 2, 3))
    day = tmp_path / "train/case1/case1_day0/scans"
    write_png(day / "slice_0004_40_30_1.50_1.50.png", np.zeros((30, 40), np.uint16))
    write_png(day / "slice_0003_40_30_1.50_1.50.png", np.zeros((30, 40), np.uint16))
    write_png(day / "overview.png", np.zeros((30, 40), np.uint16))
    lines[2] = "case1_day0_slice_0001,small_bowel,5 3 7"
    lines[4] = "case1_day0_slice_0002,large_bowel,1199 3"
    lines[5] = "case1_day0_slice_0002,liver,1 2"
    lines += ["case1_day0_slice_0001,stomach,", "case2_day0_slice_0001,stomach,1 1"]
    write_table(tmp_path, lines)
    cases, problems = listed(tmp_path)
    assert problems == [
        "error: train/case1/case1_day0/scans/overview.png: is not called caseC_dayD/scans/slice_ZZZZ_WIDTH_HEIGHT_sx_sy.png; "
        "rename it, or move it away",
        "error: train/case1/case1_day0/scans/slice_0003_40_30_1.50_1.63.png: is the second file of slice 0003, beside "
        "slice_0003_40_30_1.50_1.50.png; keep one of them",
        "error: train.csv line 3: small_bowel of case1_day0_slice_0001: 3 numbers, but starts and lengths come in pairs; "
        "fix the line, or  data.exclude='[\"case1_day0_slice_0001\"]'",
        "error: train.csv line 5: large_bowel of case1_day0_slice_0002: the run 1199 3 ends beyond the image of "
        "30 rows x 40 columns = 1200 pixels; fix the line, or  data.exclude='[\"case1_day0_slice_0002\"]'",
        "error: train.csv line 6: class 'liver' is not a valid option; available: large_bowel, small_bowel, stomach; ",
        "error: train.csv line 11: stomach of case1_day0_slice_0001 stands in line 4 already; keep one of them",
        "error: train/case1/case1_day0/scans/slice_0004_40_30_1.50_1.50.png: has no line in train.csv; "
        "add its three lines, or move the image away",
        "error: train.csv line 12: case2_day0_slice_0001 is an id without a file in train/; add the image, or remove the lines",
        "warning: train.csv: lacks lines of 1 of 4 slices, which count as empty there, e.g. case1_day0_slice_0002: small_bowel; "
        "add a line with an empty segmentation where that is right",
    ]
    assert [case.position for case in cases] == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "train.csv: is missing; put it there, or  data.source.table=null  for images without masks"),
        (
            "",
            "train.csv: has no column id and no column class and no column segmentation; the table is empty; its first line is  " + HEADER,
        ),
        ("id,class,rle\n", "train.csv: has no column segmentation; its columns are id, class, rle; its first line is  " + HEADER),
        (HEADER + "\n", "train.csv: holds no slices; add a line for each slice and class"),
        (
            HEADER + "\nx_1,stomach,1 1\n",
            "train.csv: none of its ids is that of an image: ids are called 'x_1', images 'case1_day0_slice_0001'; "
            "use the table of these images",
        ),
    ],
)
def test_a_table_that_does_not_do(content: str | None, said: str, tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "train.csv").unlink()
    if content is not None:
        (tmp_path / "train.csv").write_text(content)
    cases, problems = listed(tmp_path)
    assert (cases, problems) == ([], [f"error: {said}"])


def test_images_alone_are_unlabelled(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "train.csv").unlink()
    cases, problems = listed(tmp_path, table=None)
    assert problems == []
    assert [case.mask for case in cases] == [None, None]


def test_a_root_that_lies_too_high_names_the_right_one(tmp_path: Path) -> None:
    small(tmp_path / "gi")
    cases, problems = listed(tmp_path)
    assert cases == []
    assert problems == [f"error: {tmp_path / 'train'}: holds no folders caseC/caseC_dayD/scans; data.root={tmp_path / 'gi'}"]


def test_a_distance_of_slices_is_more_than_nothing(tmp_path: Path) -> None:
    small(tmp_path)
    assert listed(tmp_path, slice_mm=0.0)[1] == ["error: data.source.slice_mm: 0 is not a distance; data.source.slice_mm=3.0"]


def test_real_slices_have_whole_organs_within_the_body(real_data: Path) -> None:
    """Of the sample, which is sparse: single slices of many days."""
    cases, problems = listed(real_data / "gi_tract")
    assert [problem.partition(":")[0] for problem in problems] == ["note"]
    assert (len(cases), len({case.group for case in cases})) == (36, 12)
    inside, drawn = [], 0
    for case in cases:
        image = case.image.read()[..., 0]
        assert image.dtype == np.uint16
        for plane in case.masks.values():
            mask = plane.read()
            assert mask.shape == image.shape
            if mask.any():
                drawn += 1
                inside.append(float(np.mean(image[mask > 0] > 0.03 * image.max())))
    assert drawn > 36
    assert np.mean(inside) > 0.95
