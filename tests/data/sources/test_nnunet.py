"""nnU-Net's raw data: channels in files, regions, the ignore label, two and three dimensions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from segkit.data.case import Case, encoded_mask
from segkit.data.labels import LabelMap
from segkit.data.phantoms import tomography
from segkit.data.phantoms.base import write_nifti
from segkit.data.sources.decathlon import Decathlon
from segkit.data.sources.nnunet import NnUNet


@pytest.fixture
def root(tmp_path: Path) -> Path:
    NnUNet(tmp_path).write_phantom(tmp_path / "Dataset001_Brain", 4, seed=5)
    return tmp_path / "Dataset001_Brain"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """2-D: three grey PNGs, two channels each, and their label maps of 0, 1, 2."""
    random = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "flat" / folder).mkdir(parents=True)
    for i in range(3):
        for c in range(2):
            cv2.imwrite(str(tmp_path / "flat" / "imagesTr" / f"a_{i}_{c:04d}.png"), random.integers(0, 255, (20, 30), dtype=np.uint8))
        cv2.imwrite(str(tmp_path / "flat" / "labelsTr" / f"a_{i}.png"), random.integers(0, 3, (20, 30), dtype=np.uint8))
    labels = {"background": 0, "cell": 1, "ignore": 2}
    write_card(tmp_path / "flat", channel_names={"0": "red", "1": "green"}, labels=labels, file_ending=".png")
    return tmp_path / "flat"


def write_card(root: Path, **content: Any) -> None:
    (root / "dataset.json").write_text(json.dumps(content))


def change(root: Path, **changes: Any) -> None:
    """Keys of dataset.json; None takes one out."""
    content = {**json.loads((root / "dataset.json").read_text()), **changes}
    write_card(root, **{key: value for key, value in content.items() if value is not None})


def read(root: Path, **keys: Any) -> tuple[list[Case], dict[int | str, str] | None]:
    source = NnUNet(root, **keys)
    cases = list(source.cases())
    assert source.problems == []
    return cases, source.default_labels


def problems(root: Path) -> list[str]:
    source = NnUNet(root)
    list(source.cases())
    return [f"{p.where}: {p.what}; {p.fix}" for p in source.problems]


def test_files_of_a_case_are_its_channels_and_regions_are_planes(root: Path) -> None:
    cases, labels = read(root)
    assert [case.id for case in cases] == ["brain_001", "brain_002", "brain_003", "brain_004"]
    assert labels == {"whole_tumor": "whole_tumor", "tumor_core": "tumor_core", "enhancing_tumor": "enhancing_tumor"}
    for i, case in enumerate(cases):
        drawn = tomography.brain(5, i)
        assert (case.group, case.dims, case.spacing_mm) == (case.id, 3, tomography.BRAIN_MM)
        assert np.array_equal(case.image.read(), np.stack([drawn.images["flair"], drawn.images["t1ce"]], axis=-1))
        assert np.array_equal(case.masks["whole_tumor"].read(), drawn.tumor > 0)
        assert np.array_equal(case.masks["tumor_core"].read(), (drawn.tumor == 1) | (drawn.tumor == 4))
        assert np.array_equal(case.masks["enhancing_tumor"].read(), drawn.tumor == 4)


def test_plain_labels_are_classes_of_one_map(root: Path) -> None:
    change(root, labels={"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 3})
    cases, labels = read(root)
    assert labels == {0: "background", 1: "necrosis", 2: "oedema", 3: "enhancing"}
    tumor = tomography.brain(5, 0).tumor
    assert np.array_equal(cases[0].masks[""].read(), np.where(tumor == 4, 3, tumor))


def test_ignore_beside_regions_leaves_voxels_out_of_every_plane(root: Path) -> None:
    change(root, labels={"background": 0, "whole_tumor": [1, 2], "core": [1], "ignore": 3})
    cases, labels = read(root)
    assert labels is not None
    planes = encoded_mask(cases[0], LabelMap.of(labels, overlap=True))
    tumor = tomography.brain(5, 0).tumor
    assert len(planes) == 2
    assert np.array_equal(planes[0] == 255, tumor == 4)
    assert np.array_equal(planes[1] == 255, tumor == 4)
    assert np.array_equal(planes[0] == 1, (tumor == 1) | (tumor == 2))


def test_png_files_are_images_and_ignore_is_segkit_s(flat: Path) -> None:
    cases, labels = read(flat)
    assert labels == {0: "background", 1: "cell", 2: "ignore"}
    assert [(case.id, case.dims) for case in cases] == [("a_0", 2), ("a_1", 2), ("a_2", 2)]
    stored: Any = cv2.imread(str(flat / "imagesTr" / "a_1_0001.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(cases[1].image.read()[..., 1], stored)
    truth: Any = cv2.imread(str(flat / "labelsTr" / "a_1.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(cases[1].masks[""].read(), truth)


def test_a_colour_image_holds_three_channels_in_one_file(flat: Path) -> None:
    for path in (flat / "imagesTr").iterdir():
        path.unlink()
    for i in range(3):
        cv2.imwrite(str(flat / "imagesTr" / f"a_{i}_0000.png"), np.full((20, 30, 3), (1, 2, 3), np.uint8))
    change(flat, channel_names={"0": "R", "1": "G", "2": "B"})
    cases, _ = read(flat)
    assert cases[0].image.read()[0, 0].tolist() == [3, 2, 1]


def test_a_tiff_volume_has_its_spacing_beside_it(tmp_path: Path) -> None:
    for folder, name, kind in (("imagesTr", "v_0000", np.uint16), ("labelsTr", "v", np.uint8)):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / f"{name}.tif", np.ones((4, 20, 30), kind), photometric="minisblack")
    (tmp_path / "imagesTr" / "v.json").write_text('{"spacing": [3, 0.5, 0.5]}')
    write_card(tmp_path, channel_names={"0": "EM"}, labels={"background": 0, "cell": 1}, file_ending=".tif")
    (case,), _ = read(tmp_path)
    assert (case.dims, case.spacing_mm) == (3, (3.0, 0.5, 0.5))
    assert case.image.read().shape == (4, 20, 30, 1)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_other_volume_formats_read_by_their_ending(tmp_path: Path, ending: str) -> None:
    import SimpleITK as sitk

    for folder, name, kind in (("imagesTr", "v_0000", np.int16), ("labelsTr", "v", np.uint8)):
        (tmp_path / folder).mkdir()
        volume: Any = sitk.GetImageFromArray(np.ones((4, 20, 30), kind))
        volume.SetSpacing((1.0, 2.0, 3.0))
        sitk.WriteImage(volume, str(tmp_path / folder / f"{name}{ending}"))
    write_card(tmp_path, channel_names={"0": "CT"}, labels={"background": 0, "liver": 1}, file_ending=ending)
    (case,), _ = read(tmp_path)
    assert (case.id, case.spacing_mm, case.image.read().shape) == ("v", (3.0, 2.0, 1.0), (4, 20, 30, 1))


def test_the_same_phantom_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        NnUNet(tmp_path).write_phantom(tmp_path / name, 2, seed=3)
    files = sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 7
    assert all(path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() for path in files)


# what goes wrong


def test_a_missing_channel_is_reported_with_its_file(root: Path) -> None:
    (root / "imagesTr" / "brain_002_0001.nii.gz").unlink()
    said = "imagesTr/brain_002_0001.nii.gz: is missing; add it, or fix 'channel_names' of dataset.json"
    assert problems(root) == [said]


def test_more_channels_than_names_are_reported(root: Path) -> None:
    change(root, channel_names={"0": "FLAIR"})
    found = problems(root)
    assert len(found) == 4
    assert found[0] == (
        "imagesTr/brain_001_0000.nii.gz: brain_001 has 2 channels, but dataset.json names 1; fix 'channel_names'"  # by its first file
    )


def test_images_and_label_maps_without_partners_are_reported(root: Path) -> None:
    (root / "labelsTr" / "brain_001.nii.gz").rename(root / "labelsTr" / "brain_009.nii.gz")
    assert problems(root) == [
        "imagesTr/brain_001_0000.nii.gz: has no mask labelsTr/brain_001.nii.gz; add the mask, or move the image away",
        "labelsTr/brain_009.nii.gz: has no image imagesTr/brain_009_0000.nii.gz; add the image, or move the mask away",
    ]


def test_a_prediction_takes_every_image_with_or_without_label_map(root: Path) -> None:
    (root / "imagesTs").mkdir()
    for i in range(2):
        (root / "imagesTr" / f"brain_002_{i:04d}.nii.gz").rename(root / "imagesTs" / f"brain_009_{i:04d}.nii.gz")
    (root / "labelsTr" / "brain_001.nii.gz").unlink()
    source = NnUNet(root)
    source.needs_masks = False
    cases = list(source.cases())
    assert source.problems == []
    assert [case.id for case in cases] == ["brain_001", "brain_003", "brain_004", "brain_009"]
    assert {case.image.read().shape[-1] for case in cases} == {2}


def test_an_image_without_channel_number_is_reported(flat: Path) -> None:
    (flat / "imagesTr" / "a_0_0000.png").rename(flat / "imagesTr" / "a_0.png")
    found = problems(flat)
    assert found[0] == "imagesTr/a_0.png: is not called CASE_0000.png: its channel, in four digits, is missing; rename it"
    assert found[1].startswith("imagesTr/a_0_0000.png: is missing")


def test_a_channel_on_another_grid_is_reported(root: Path) -> None:
    write_nifti(root / "imagesTr" / "brain_001_0001.nii.gz", tomography.brain(5, 0).images["t1ce"], (5.0, 3.0, 2.0))
    (said,) = problems(root)
    assert said.startswith("imagesTr/brain_001_0001.nii.gz: spacing 5 x 3 x 2 mm, its first channel 5 x 3 x 3 mm; save it on the grid")


def test_another_number_of_cases_than_the_card_claims_is_a_warning(root: Path) -> None:
    change(root, numTraining=99)
    (said,) = problems(root)
    assert said.startswith("dataset.json: claims 99 training cases (numTraining), and imagesTr has ")
    source = NnUNet(root)
    assert len(list(source.cases())) > 1
    assert [problem.severity for problem in source.problems] == ["warning"]


def test_files_of_another_ending_are_reported(flat: Path) -> None:
    change(flat, file_ending=".tif")
    found = problems(flat)
    assert found[0] == "imagesTr: holds no files that end in .tif, as dataset.json says, e.g. a_0_0000.png; fix 'file_ending'"


def test_a_damaged_image_is_reported_by_its_file(flat: Path) -> None:
    (flat / "imagesTr" / "a_1_0000.png").write_bytes(b"nothing")
    source = NnUNet(flat)
    assert [case.id for case in source.cases()] == ["a_0", "a_2"]
    assert [p.where for p in source.problems] == ["imagesTr/a_1_0000.png"]


def test_a_folder_without_a_card_names_the_one_that_has_it(root: Path) -> None:
    assert problems(root.parent) == [f"{root.parent}: has no dataset.json; data.root={root}"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": None, "file_ending": None}, "lacks 'labels', 'file_ending'; nnU-Net wants channel_names, labels, file_ending in it"),
        ({"channel_names": None, "modality": {"0": "MR"}}, "'labels' does not map numbers to names; write it as"),
        ({"dataset": {}}, "lists its files under 'dataset', which is not read here"),
        ({"channel_names": []}, "'channel_names' is not a table of names, or 'file_ending' not an ending"),
        ({"labels": {"0": "background"}}, "'labels' does not map names to numbers, with background 0"),
        ({"labels": {"tumor": 1}}, "'labels' does not map names to numbers, with background 0"),
        ({"labels": {"background": 0, "a": "1"}}, "'labels' does not map names to numbers, with background 0"),
        ({"labels": {"background": 0, "a": []}}, "'labels' does not map names to numbers, with background 0"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "'labels' gives b the number 1 of a; give each its own"),
    ],
)
def test_a_card_that_cannot_be_used_is_reported(root: Path, changes: dict[str, Any], said: str) -> None:
    change(root, **changes)
    (found,) = problems(root)
    assert found.startswith("dataset.json: ")
    assert said in found


def test_raw_data_of_version_1_are_read_and_the_decathlon_sends_them_here(root: Path) -> None:
    second = list(NnUNet(root).cases())
    labels = {"0": "background", "1": "necrosis", "2": "oedema", "3": "enhancing"}
    listed = [{"image": f"./imagesTr/{case.id}.nii.gz", "label": f"./labelsTr/{case.id}.nii.gz"} for case in second]
    modality = {"0": "flair", "1": "t1ce"}
    change(root, channel_names=None, file_ending=None, regions_class_order=None, modality=modality, labels=labels, training=listed)
    source = NnUNet(root)
    first = list(source.cases())
    assert source.problems == []
    assert [case.image for case in first] == [case.image for case in second]
    assert source.default_labels == {0: "background", 1: "necrosis", 2: "oedema", 3: "enhancing"}
    decathlon = Decathlon(root)
    assert list(decathlon.cases()) == []
    assert [problem.fix for problem in decathlon.problems] == ["data=nnunet"]


def test_a_task_of_the_decathlon_is_sent_to_its_source(tmp_path: Path) -> None:
    Decathlon(tmp_path).write_phantom(tmp_path / "Task01", 2, 0)
    source = NnUNet(tmp_path / "Task01")
    assert list(source.cases()) == []
    assert [problem.fix for problem in source.problems] == ["data=decathlon"]


def test_a_card_that_is_no_json_is_reported(root: Path) -> None:
    (root / "dataset.json").write_text("{,}")
    (found,) = problems(root)
    assert found.startswith("dataset.json: is not JSON")
