"""Kaggle's ultrasound nerves: masks are files, or codes of the table where a file is missing; subjects are groups."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from segkit.data.case import Case
from segkit.data.io import rle
from segkit.data.phantoms import ultrasound
from segkit.data.sources.nerve import Nerve

IMAGES = 12


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Nerve(tmp_path).write_phantom(tmp_path, IMAGES, seed=5)
    return tmp_path


def listed(root: Path) -> tuple[list[Case], list[str]]:
    source = Nerve(root)
    cases = list(source.cases())
    return cases, [f"{p.severity}: {p.where}: {p.what}; {p.fix}" for p in source.problems]


def test_phantom_images_read_back_as_they_were_drawn(root: Path) -> None:
    cases, problems = listed(root)
    assert problems == []
    frames = list(ultrasound.frames(IMAGES, 5))
    assert [case.id for case in cases] == [f"{frame.subject}_{frame.number}" for frame in frames]
    for case, frame in zip(cases, frames, strict=True):
        assert case.group == str(frame.subject)
        assert np.array_equal(case.image.read()[..., 0], frame.image)
        assert np.array_equal(case.masks[""].read(), frame.mask)
        assert set(np.unique(frame.mask)) <= {0, 255}


def test_every_subject_of_the_phantom_has_a_nerve_and_some_images_none() -> None:
    frames = list(ultrasound.frames(40, 0))
    seen = {subject: [frame.mask.any() for frame in frames if frame.subject == subject] for subject in {f.subject for f in frames}}
    assert len(seen) >= 4
    assert all(any(nerves) and not all(nerves) for nerves in seen.values())


def test_the_phantom_is_written_the_same_again(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = tmp_path_factory.mktemp("again")
    Nerve(again).write_phantom(again, IMAGES, seed=5)
    first, second = ({path.relative_to(place): path.read_bytes() for path in place.rglob("*.*")} for place in (root, again))
    assert len(first) == 2 * IMAGES + 1
    assert first == second


def test_a_threshold_does_not_find_the_nerve_of_the_phantom(root: Path) -> None:
    scores = []
    for case in listed(root)[0]:
        mask = case.masks[""].read() > 0
        _, bright = cv2.threshold(case.image.read()[..., 0], 0, 1, cv2.THRESH_OTSU)
        for found in (bright > 0, bright == 0):
            if mask.any():
                scores.append(2 * (mask & found).sum() / (mask.sum() + found.sum()))
    assert np.mean(scores) < 0.8


def test_a_missing_mask_is_taken_from_the_table_along_columns(root: Path) -> None:
    for name in ("1_1", "1_2"):  # with a nerve, and without
        (root / "train" / f"{name}_mask.tif").unlink()
    cases, problems = listed(root)
    assert problems == []
    for case, frame in zip(cases[:2], ultrasound.frames(IMAGES, 5), strict=False):
        assert isinstance(case.mask, rle.RunLength)
        assert np.array_equal(case.mask.read(), frame.mask)


def test_root_may_be_the_folder_of_images_itself(root: Path) -> None:
    (root / "train" / "1_1_mask.tif").unlink()
    cases, problems = listed(root / "train")
    assert (len(cases), problems) == (IMAGES, [])


def test_the_unlabelled_test_folder_is_no_part_of_the_cases(root: Path) -> None:
    (root / "test").mkdir()
    tifffile.imwrite(root / "test" / "1.tif", np.zeros((4, 5), np.uint8))
    assert len(listed(root)[0]) == IMAGES


def test_every_fault_is_reported_at_once(root: Path) -> None:
    train = root / "train"
    (train / "1_1.tif").unlink()
    for name in ("1_2", "1_3", "2_1"):
        (train / f"{name}_mask.tif").unlink()
    (train / "2_2.tiff").write_bytes((train / "2_2.tif").read_bytes())
    (train / "overview.tif").write_bytes((train / "2_2.tif").read_bytes())
    lines = [line for line in (root / "train_masks.csv").read_text().splitlines() if not line.startswith(("1,2,", "1,3,", "2,1,"))]
    lines += ["1,3,15225 2", "2,1,5 1", "2,1,6 1"]
    (root / "train_masks.csv").write_text("\n".join(lines))
    cases, problems = listed(root)
    assert problems == [
        "error: train/overview.tif: is not called SUBJECT_IMAGE.tif or SUBJECT_IMAGE_mask.tif; rename it, or move it away",
        f"error: train_masks.csv: line {len(lines)}: 2_1 stands in line {len(lines) - 1} already; keep one of them",
        "error: train/2_2.tif: ambiguous: 2_2.tif and 2_2.tiff could be the image of 2_2; keep one of them",
        "error: train/1_2.tif: has no mask train/1_2_mask.tif, and no line in train_masks.csv; add the mask, or move the image away",
        "error: train_masks.csv: line 11: 1_3: the run 15225 2 ends beyond the image of 105 rows x 145 columns = 15225 pixels; "
        "fix the line, or add 1_3_mask.tif",
        "error: train/1_1_mask.tif: has no image train/1_1.tif; add the image, or move the mask away",
    ]
    assert [case.id for case in cases][:2] == ["2_1", "2_3"]


def test_a_missing_mask_without_a_table_is_reported(root: Path) -> None:
    (root / "train_masks.csv").unlink()
    (root / "train" / "2_1_mask.tif").unlink()
    assert listed(root)[1] == [
        "error: train/2_1.tif: has no mask train/2_1_mask.tif, and no line in train_masks.csv; add the mask, or move the image away"
    ]


def test_a_table_that_cannot_be_understood_is_reported_where_it_is_needed(root: Path) -> None:
    (root / "train_masks.csv").write_text("img,pixels\n")
    assert listed(root)[1] == []
    (root / "train" / "2_1_mask.tif").unlink()
    assert listed(root)[1][0] == (
        "error: train_masks.csv: has no column subject; its columns are img, pixels; its first line is  subject,img,pixels"
    )


def test_an_image_cut_off_is_reported_where_its_size_is_needed(root: Path) -> None:
    (root / "train" / "2_1_mask.tif").unlink()
    (root / "train" / "2_1.tif").write_bytes(b"")
    assert listed(root)[1] == ["error: train/2_1.tif: zero bytes; replace the file, or move it away"]


def test_a_folder_without_such_images_says_what_root_is(tmp_path: Path) -> None:
    assert listed(tmp_path)[1] == [f"error: {tmp_path}: holds no SUBJECT_IMAGE.tif; data.root = the folder that holds train/"]
