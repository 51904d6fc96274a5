"""Pelvic bones: 2-D NIfTI in folders, some labels kept, poor annotations left out by their place in the reference's lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from segkit.data.case import Case
from segkit.data.io.images import read_mask
from segkit.data.phantoms import xray
from segkit.data.phantoms.base import write_nifti
from segkit.data.sources.pelvis import CLASSES, Pelvis
from segkit.system.errors import Problem

N = 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Pelvis(tmp_path).write_phantom(tmp_path, N, seed=5)
    return tmp_path


def read(root: Path, **keys: Any) -> tuple[list[Case], list[Problem]]:
    source = Pelvis(root, **keys)
    return list(source.cases()), source.problems


def errors(root: Path, **keys: Any) -> list[str]:
    return [f"{p.where}: {p.what}; {p.fix}" for p in read(root, **keys)[1] if p.severity == "error"]


def save(path: Path, stored: np.ndarray, y: float = -1.0) -> None:
    """Axes as they are stored; `y`: 1 to the front, -1 to the back."""
    untyped: Any = nibabel.Nifti1Image
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(untyped(stored, np.diag([-1.0, y, 1.0, 1.0])), path)


def side(cases: list[Case], name: str) -> list[Case]:
    return [case for case in cases if case.split == name]


def test_images_and_masks_are_what_was_drawn_upright(root: Path) -> None:
    cases, problems = read(root)
    assert [p for p in problems if p.severity != "note"] == []
    assert len(cases) == N
    for case, drawn in zip(cases, xray.radiographs(N, 5), strict=True):
        assert np.array_equal(case.image.read()[..., 0], drawn.image)
        assert np.array_equal(case.masks[""].read(), drawn.labels)
    assert cases[0].id == "train/pelvis_000"
    assert {case.group_or_id for case in cases} == {case.id for case in cases}


def test_folders_are_the_split(root: Path) -> None:
    cases, _ = read(root)
    assert [len(side(cases, name)) for name in ("train", "val", "test")] == [14, 4, 2]
    assert all(case.id.startswith("valid/") for case in side(cases, "val"))


@pytest.mark.parametrize(("n", "sides"), [(2, (1, 1, 0)), (4, (1, 2, 1)), (6, (3, 2, 1))])
def test_small_phantoms_have_validation_cases_too(n: int, sides: tuple[int, ...], tmp_path: Path) -> None:
    Pelvis(tmp_path).write_phantom(tmp_path, n, seed=0)
    cases, _ = read(tmp_path)
    assert tuple(len(side(cases, name)) for name in ("train", "val", "test")) == sides


def test_spacing_is_of_rows_and_columns_and_a_placeholder_is_called_one(root: Path) -> None:
    cases, problems = read(root)
    assert cases[0].spacing_mm == (1.0, 1.0)
    assert [p.what for p in problems] == ["1 mm in the headers of 20 files, which stands for one pixel: results in mm are in pixels"]
    for name in ("imgs", "targets"):
        path = root / "train" / name / "pelvis_000.nii.gz"
        pixels: Any = sitk.ReadImage(str(path))
        pixels.SetSpacing((0.5, 0.25))  # x, y
        sitk.WriteImage(pixels, str(path))
    assert read(root)[0][0].spacing_mm == (0.25, 0.5)


def test_every_structure_is_in_every_phantom_mask_and_stray_values_are_background(root: Path) -> None:
    cases, _ = read(root)
    assert all(set(np.unique(case.masks[""].read())) == {0, *CLASSES} for case in cases)
    stored = {int(value) for case in cases for value in np.unique(read_mask(case.masks[""].paths[0]))}
    assert stored > {0, *CLASSES}


def test_labels_that_are_not_kept_are_background(root: Path) -> None:
    source = Pelvis(root, labels=[1, 3, 4])
    kept = next(iter(source.cases())).masks[""].read()
    whole = read(root)[0][0].masks[""].read()
    assert source.default_labels == {0: "background", 1: "femur", 3: "obturator_foramen", 4: "pubis"}
    assert np.array_equal(kept, np.where(np.isin(whole, (1, 3, 4)), whole, 0))
    assert kept.any()


def test_excluded_cases_are_not_trained_on_but_validated_on(root: Path) -> None:
    cases, problems = read(root, exclude={"train": [0, 13], "valid": [1]})
    train = [case.id for case in side(cases, "train")]
    assert len(train) == 12
    assert "train/pelvis_000" not in train
    assert "train/pelvis_013" not in train
    assert [case.id for case in cases if case.facts] == ["valid/pelvis_015"]
    assert "2 of 14 images are left out, as data.source.exclude says" in [p.what for p in problems if p.severity == "note"]


def test_indices_count_in_order_of_names_as_text(tmp_path: Path) -> None:
    """As the reference sorts: 10 before 2."""
    for name in ("1", "2", "10"):
        for folder in ("imgs", "targets"):
            write_nifti(tmp_path / "train" / folder / f"{name}.nii.gz", np.eye(8, dtype=np.uint8), (1.0, 1.0))
    cases, _ = read(tmp_path, exclude={"train": [1]})
    assert {case.id for case in cases} == {"train/1", "train/2"}


def test_an_orphan_does_not_shift_the_pairs_behind_it(root: Path) -> None:
    """The reference pairs sorted lists by position."""
    (root / "train/targets/pelvis_002.nii.gz").unlink()
    (root / "train/imgs/pelvis_005.nii.gz").unlink()
    cases, _ = read(root)
    assert all(case.image.paths[0].name == case.masks[""].paths[0].name for case in cases)
    assert errors(root) == [
        "train/imgs/pelvis_002.nii.gz: has no mask train/targets/pelvis_002.nii.gz; add the mask, or move the image away",
        "train/targets/pelvis_005.nii.gz: has no image train/imgs/pelvis_005.nii.gz; add the image, or move the mask away",
    ]


def test_a_mask_on_another_grid_is_an_error(root: Path) -> None:
    write_nifti(root / "train/targets/pelvis_001.nii.gz", np.zeros((176, 160), np.uint8), (1.0, 1.0))
    path = root / "valid/targets/pelvis_015.nii.gz"
    mask: Any = sitk.ReadImage(str(path))
    mask.SetOrigin((30.0, 0.0))
    sitk.WriteImage(mask, str(path))
    first, second = errors(root)
    assert first.startswith("train/targets/pelvis_001.nii.gz: 1 x 176 x 160, the image 1 x 160 x 176")
    assert second.startswith("valid/targets/pelvis_015.nii.gz: another affine: origin 30 mm apart")
    assert "orient=null" in second
    assert len(errors(root, orient=None)) == 1  # the arrays alone: only the sizes differ


def test_flipped_files_are_turned_upright_unless_told_otherwise(tmp_path: Path) -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for name in ("imgs", "targets"):
        save(tmp_path / "train" / name / "a.nii.gz", picture.T[:, ::-1], y=1.0)
    assert np.array_equal(read(tmp_path)[0][0].image.read()[..., 0], picture)
    assert np.array_equal(read(tmp_path, orient=None)[0][0].image.read()[..., 0], picture[::-1])


def test_mistakes_are_reported_with_what_to_type(root: Path, tmp_path: Path) -> None:
    assert errors(root, labels=[1, 9]) == ["data.source.labels: 9 is not a valid option; available: 1, 2, 3, 4, 5, 6; "]
    assert errors(root, labels=[]) == ["data.source.labels: is empty; choose among 1, 2, 3, 4, 5, 6"]
    assert errors(root, exclude={"val": [1]}) == [
        "data.source.exclude: 'val' is not a valid option; available: train, valid, test; did you mean valid?"
    ]
    assert errors(root, exclude={"valid": [3, 4, -1]}) == [
        "data.source.exclude.valid: -1, 4 are beyond the 4 files of valid/imgs; indices count from 0 to 3"
    ]
    assert errors(root / "train") == [
        f"{root / 'train'}: has no folder train/imgs; data.root = the folder that holds train/, valid/ and test/"
    ]
    around, inside = tmp_path / "around", tmp_path / "around" / "set"
    Pelvis(inside).write_phantom(inside, 2, seed=0)
    assert errors(around) == [f"{around}: has no folder train/imgs; data.root={inside}"]


def test_a_volume_is_refused(root: Path) -> None:
    for name in ("imgs", "targets"):
        save(root / f"test/{name}/v.nii.gz", np.zeros((176, 160, 3), np.uint8))
    assert errors(root) == ["test/imgs/v.nii.gz: is a volume; one image is expected; save its slices as files, or use  data=nnunet"]


def test_the_same_phantom_has_the_same_bytes_and_simpleitk_reads_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Pelvis(tmp_path).write_phantom(tmp_path / name, 6, seed=3)
    files = sorted((tmp_path / "a").rglob("*.nii.gz"))
    assert len(files) == 12
    assert all(path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() for path in files)
    image: Any = sitk.ReadImage(str(tmp_path / "a/train/imgs/pelvis_000.nii.gz"))
    assert image.GetDirection() == (1, 0, 0, 1)
    assert np.array_equal(sitk.GetArrayFromImage(image), xray.radiograph(3, 0).image)


def test_no_threshold_finds_the_bones() -> None:
    scores = []
    for i in range(20):
        drawn = xray.radiograph(0, i)
        truth = drawn.labels > 0
        bright = cv2.threshold(drawn.image, 0, 1, cv2.THRESH_OTSU)[1] > 0
        scores.append([2 * (found & truth).sum() / (found.sum() + truth.sum()) for found in (bright, ~bright)])
    assert np.mean(np.max(scores, axis=1)) < 0.8
