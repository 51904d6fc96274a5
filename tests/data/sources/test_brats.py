"""BraTS 2020: modalities as channels, regions that lie in one another, and what copies of it get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segkit.data.case import Case
from segkit.data.io.volumes import VolumeFile
from segkit.data.phantoms import tomography
from segkit.data.phantoms.base import write_nifti
from segkit.data.sources.brats import BraTS

TRAINING = "MICCAI_BraTS2020_TrainingData"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    BraTS(tmp_path).write_phantom(tmp_path, 3, seed=5)
    return tmp_path


def read(root: Path, **keys: Any) -> list[Case]:
    source = BraTS(root, **keys)
    cases = list(source.cases())
    assert source.problems == []
    return cases


def problems(root: Path, **keys: Any) -> list[str]:
    source = BraTS(root, **keys)
    list(source.cases())
    return [f"{p.where}: {p.what}; {p.fix}" for p in source.problems]


def patient(root: Path, number: int) -> Path:
    return root / TRAINING / f"BraTS20_Training_{number:03d}"


def test_patients_are_volumes_of_four_channels_as_they_were_drawn(root: Path) -> None:
    cases = read(root)
    assert [case.id for case in cases] == ["BraTS20_Training_001", "BraTS20_Training_002", "BraTS20_Training_003"]
    for i, case in enumerate(cases):
        drawn = tomography.brain(5, i)
        image = case.image.read()
        assert (case.group, case.dims, case.spacing_mm) == (case.id, 3, tomography.BRAIN_MM)
        assert case.image.shape == image.shape[:3]  # type: ignore[attr-defined]
        for c, modality in enumerate(("flair", "t1", "t1ce", "t2")):
            assert np.array_equal(image[..., c], drawn.images[modality])


def test_regions_are_planes_that_lie_in_one_another(root: Path) -> None:
    source = BraTS(root)
    case = next(source.cases())
    tumor = tomography.brain(5, 0).tumor
    assert np.array_equal(case.masks["WT"].read(), tumor > 0)
    assert np.array_equal(case.masks["TC"].read(), (tumor == 1) | (tumor == 4))
    assert np.array_equal(case.masks["ET"].read(), tumor == 4)
    assert source.default_labels == {"WT": "whole_tumor", "TC": "tumor_core", "ET": "enhancing_tumor"}


def test_without_regions_the_label_map_comes_as_it_is(root: Path) -> None:
    source = BraTS(root, regions=False)
    case = next(source.cases())
    assert np.array_equal(case.masks[""].read(), tomography.brain(5, 0).tumor)
    assert source.default_labels == {0: "background", 1: "necrosis", 2: "oedema", 4: "enhancing"}


def test_modalities_become_channels_in_the_order_given(root: Path) -> None:
    image = read(root, modalities=["t2", "flair"])[1].image.read()
    drawn = tomography.brain(5, 1).images
    assert np.array_equal(image, np.stack([drawn["t2"], drawn["flair"]], axis=-1))


def test_chosen_slices_are_images_that_know_their_patient(root: Path) -> None:
    cases = read(root, modalities=["t2"], slices=[4, 40, 10])
    assert [case.position for case in cases] == [4, 14] * 3
    second = cases[1]
    assert (second.id, second.volume, second.group, second.dims) == (f"{second.volume}_014", "BraTS20_Training_001", second.volume, 2)
    assert np.array_equal(second.image.read()[..., 0], tomography.brain(5, 0).images["t2"][14])
    assert np.array_equal(second.masks["WT"].read(), tomography.brain(5, 0).tumor[14] > 0)


def test_the_label_map_of_patient_355_is_found_by_its_odd_name(root: Path) -> None:
    folder = patient(root, 2)
    (folder / f"{folder.name}_seg.nii.gz").rename(folder / "W39_1998.09.19_Segm.nii.gz")
    assert np.array_equal(read(root)[1].masks["WT"].read(), tomography.brain(5, 1).tumor > 0)


def test_patients_of_the_validation_set_have_no_masks(root: Path) -> None:
    folder = root / "MICCAI_BraTS2020_ValidationData" / "BraTS20_Validation_001"
    folder.mkdir(parents=True)
    for modality in tomography.MODALITIES:
        write_nifti(folder / f"{folder.name}_{modality}.nii", tomography.brain(5, 9).images[modality], tomography.BRAIN_MM)
    by_id = {case.id: case for case in read(root)}
    assert by_id["BraTS20_Validation_001"].mask is None
    assert len(by_id) == 4


@pytest.mark.parametrize("nesting", [".", TRAINING, f"{TRAINING}/BraTS20_Training_001"])
def test_patients_are_found_at_any_depth(root: Path, nesting: str) -> None:
    if nesting.endswith("001"):
        assert problems(root / nesting) == [f"{root / nesting}: no folders BraTS20_Training_NNN in it; {ANYWHERE}"]
    else:
        assert len(read(root / nesting)) == 3


ANYWHERE = "data.root = the folder that holds them, in any subfolders"


def test_the_names_since_2023_are_sent_to_the_source_that_reads_them(tmp_path: Path) -> None:
    (tmp_path / "BraTS-GLI-00000-000").mkdir()
    (tmp_path / "BraTS-GLI-00000-000" / "BraTS-GLI-00000-000-t1c.nii.gz").touch()
    (said,) = problems(tmp_path)
    assert "BraTS 2023 and later:  data=folder data.dims=3 \"data.source.image='(?P<id>.+)-(?P<channel>t1c|" in said


def test_the_same_phantom_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        BraTS(tmp_path).write_phantom(tmp_path / name, 2, seed=3)
    files = sorted(path for path in (tmp_path / "a").rglob("*.nii.gz"))
    assert len(files) == 10
    assert all(path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() for path in files)


def test_every_patient_has_every_part_of_a_tumour_and_no_threshold_finds_it() -> None:
    scores = []
    for i in range(6):
        drawn = tomography.brain(0, i)
        assert set(np.unique(drawn.tumor)) == {0, 1, 2, 4}
        for voxels in drawn.images.values():
            grey = np.clip(voxels * (255 / voxels.max()), 0, 255).astype(np.uint8)
            inside = grey[grey > 0].reshape(1, -1)
            level, _ = cv2.threshold(inside, 0, 1, cv2.THRESH_OTSU)  # among the voxels of the brain: harder to withstand
            found, truth = grey > level, drawn.tumor > 0
            scores.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert max(scores) < 0.8


# what goes wrong


def test_a_missing_modality_is_reported_with_its_file(root: Path) -> None:
    gone = patient(root, 2) / "BraTS20_Training_002_t1ce.nii.gz"
    gone.unlink()
    where = gone.relative_to(root).as_posix()
    assert problems(root) == [f"{where}: is missing; add it, or  data.source.modalities='[flair,t1,t2]'"]
    assert len(read(root, modalities=["flair", "t2"])) == 3


def test_a_missing_label_map_of_a_training_patient_is_reported(root: Path) -> None:
    (patient(root, 1) / "BraTS20_Training_001_seg.nii.gz").unlink()
    assert problems(root) == [f"{TRAINING}/BraTS20_Training_001: has no label map *seg*.nii; add it, or move the folder away"]


def test_two_label_maps_are_ambiguous(root: Path) -> None:
    folder = patient(root, 1)
    (folder / "other_Segm.nii.gz").write_bytes((folder / f"{folder.name}_seg.nii.gz").read_bytes())
    assert "ambiguous: BraTS20_Training_001_seg.nii.gz and other_Segm.nii.gz could be the label map" in problems(root)[0]


def test_a_modality_packed_and_unpacked_is_ambiguous(root: Path) -> None:
    folder = patient(root, 1)
    write_nifti(folder / f"{folder.name}_t2.nii", tomography.brain(5, 0).images["t2"], tomography.BRAIN_MM)
    assert "ambiguous: BraTS20_Training_001_t2.nii and BraTS20_Training_001_t2.nii.gz" in problems(root)[0]


def test_a_patient_copied_twice_is_reported_once(root: Path) -> None:
    copy = root / "copy" / "BraTS20_Training_001"
    copy.mkdir(parents=True)
    for path in patient(root, 1).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (found,) = problems(root)
    assert "is there twice" in found
    assert "copy" in found


def test_a_modality_on_another_grid_is_reported(root: Path) -> None:
    path = patient(root, 1) / "BraTS20_Training_001_t1.nii.gz"
    write_nifti(path, VolumeFile(path).read()[:-1, ..., 0], tomography.BRAIN_MM)
    (found,) = problems(root)
    assert found.startswith(f"{path.relative_to(root).as_posix()}: 23 x 64 x 64, its first channel 24 x 64 x 64")


def test_a_damaged_file_is_reported_and_the_others_stay(root: Path) -> None:
    path = patient(root, 1) / "BraTS20_Training_001_t2.nii.gz"
    path.write_bytes(b"")
    source = BraTS(root)
    assert [case.id for case in source.cases()] == ["BraTS20_Training_002", "BraTS20_Training_003"]
    assert [(p.where, p.what) for p in source.problems] == [(path.relative_to(root).as_posix(), "zero bytes")]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"modalities": ["t1c"]},
            "data.source.modalities: 't1c' is not a valid option; available: flair, t1, t1ce, t2; did you mean t1ce?",
        ),
        ({"modalities": []}, "data.source.modalities: is empty; data.source.modalities='[flair,t1,t1ce,t2]'"),
        ({"modalities": ["t2", "t2"]}, "data.source.modalities: names one twice; data.source.modalities='[flair,t1,t1ce,t2]'"),
        (
            {"slices": [50, 105]},
            "data.source.slices: [50, 105] is not a [start, stop, step] that holds a slice; data.source.slices='[50,105,10]'",
        ),
        (
            {"slices": [5, 5, 1]},
            "data.source.slices: [5, 5, 1] is not a [start, stop, step] that holds a slice; data.source.slices='[50,105,10]'",
        ),
        (
            {"slices": [5, 9, 0]},
            "data.source.slices: [5, 9, 0] is not a [start, stop, step] that holds a slice; data.source.slices='[50,105,10]'",
        ),
    ],
)
def test_keys_that_make_no_sense_are_reported(root: Path, keys: dict[str, Any], said: str) -> None:
    assert problems(root, **keys) == [said]


def test_slices_beyond_a_volume_are_reported(root: Path) -> None:
    assert len(problems(root, slices=[50, 105, 10])) == 3
    assert "has 24 slices, of which data.source.slices=[50, 105, 10] takes none" in problems(root, slices=[50, 105, 10])[0]
