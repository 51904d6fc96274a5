"""The Decathlon: pairs by dataset.json or by name, on one grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from segkit.data.case import Case
from segkit.data.phantoms import tomography
from segkit.data.phantoms.base import write_nifti
from segkit.data.sources.decathlon import Decathlon


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Decathlon(tmp_path).write_phantom(tmp_path / "set", 4, seed=5)
    return tmp_path / "set"


def read(root: Path, **keys: Any) -> list[Case]:
    source = Decathlon(root, **keys)
    cases = list(source.cases())
    assert source.problems == []
    return cases


def problems(root: Path) -> list[str]:
    source = Decathlon(root)
    list(source.cases())
    return [f"{p.where}: {p.what}; {p.fix}" for p in source.problems]


def card(root: Path, **changes: Any) -> None:
    """Change dataset.json; None takes a key out."""
    path = root / "dataset.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_volumes_read_back_as_they_were_drawn_with_the_names_of_their_labels(root: Path) -> None:
    source = Decathlon(root)
    cases = list(source.cases())
    assert [case.id for case in cases] == [case.group for case in cases] == ["brain_001", "brain_002", "brain_003", "brain_004"]
    assert source.default_labels == {0: "background", 1: "necrosis", 2: "oedema", 3: "enhancing"}
    for i, case in enumerate(cases):
        drawn = tomography.brain(5, i)
        assert (case.dims, case.spacing_mm) == (3, tomography.BRAIN_MM)
        assert np.array_equal(case.image.read()[..., 0], drawn.images["t1ce"])
        assert np.array_equal(case.masks[""].read(), np.where(drawn.tumor == 4, 3, drawn.tumor))


def test_without_a_list_files_are_paired_by_name_and_labels_are_unknown(root: Path) -> None:
    listed = read(root)
    (root / "dataset.json").unlink()
    for folder in ("imagesTr", "labelsTr"):  # what macOS leaves in archives
        (root / folder / "._brain_001.nii.gz").write_bytes(b"\0\5\x16\7")
    source = Decathlon(root)
    assert list(source.cases()) == listed
    assert source.problems == []
    assert source.default_labels is None


def test_modalities_on_a_fourth_axis_are_channels(root: Path) -> None:
    for path in (root / "imagesTr").iterdir():
        voxels = np.stack([np.asarray(nibabel.load(path).dataobj)] * 2, axis=-1)  # type: ignore[attr-defined]
        nibabel.save(nibabel.Nifti1Image(voxels, nibabel.load(path).affine), path)  # type: ignore[attr-defined,no-untyped-call]
    assert "holds 2 channels, but dataset.json names 1 modalities" in problems(root)[0]
    card(root, modality={"0": "T1", "1": "T2"})
    assert read(root)[0].image.read().shape == (24, 64, 64, 2)


def test_orientation_is_turned_to_what_a_viewer_shows_unless_configured_otherwise(root: Path) -> None:
    upright = read(root)[0].image.read()
    for path in (root / "imagesTr" / "brain_001.nii.gz", root / "labelsTr" / "brain_001.nii.gz"):
        nibabel.save(nibabel.as_closest_canonical(nibabel.load(path)), path)  # type: ignore[no-untyped-call]
    assert np.array_equal(read(root)[0].image.read(), upright)
    assert np.array_equal(read(root, orient=None)[0].image.read(), upright[:, ::-1, ::-1])


def test_the_same_phantom_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Decathlon(tmp_path).write_phantom(tmp_path / name, 2, seed=3)
    files = sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 5
    assert all(path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() for path in files)


def test_the_real_sample_reads(real_data: Path) -> None:
    if not (real_data / "hippocampus").is_dir():
        pytest.skip(f"no hippocampus in {real_data}")
    cases = read(real_data / "hippocampus")
    assert len(cases) == 40
    assert all(case.image.shape == case.masks[""].read().shape for case in cases)  # type: ignore[attr-defined]
    assert set(np.unique(cases[0].masks[""].read())) == {0, 1, 2}
    assert {case.spacing_mm for case in cases} == {(1.0, 1.0, 1.0)}


# what goes wrong


def test_a_folder_without_images_names_the_one_that_has_them(root: Path) -> None:
    assert problems(root.parent) == [f"{root.parent}: has no folder imagesTr; data.root={root}"]


def test_files_without_partners_are_reported(root: Path) -> None:
    (root / "dataset.json").unlink()
    (root / "labelsTr" / "brain_001.nii.gz").unlink()
    (root / "imagesTr" / "brain_002.nii.gz").unlink()
    assert problems(root) == [
        "imagesTr/brain_001.nii.gz: has no mask labelsTr/brain_001.*; add the mask, or move the image away",
        "labelsTr/brain_002.nii.gz: has no image imagesTr/brain_002.*; add the image, or move the mask away",
    ]


def test_a_listed_file_that_is_missing_is_reported(root: Path) -> None:
    (root / "labelsTr" / "brain_001.nii.gz").unlink()
    said = f"names ./labelsTr/brain_001.nii.gz, which is missing; put it into {root}, or fix the name"
    assert problems(root) == [f"dataset.json: {said}"]


def test_a_list_for_validation_is_the_split_of_the_data_set(root: Path) -> None:
    training = json.loads((root / "dataset.json").read_text())["training"]
    for kind in ("images", "labels"):
        (root / f"{kind}Va").mkdir()
        (root / f"{kind}Tr" / "brain_004.nii.gz").rename(root / f"{kind}Va" / "brain_004.nii.gz")
    moved = {key: f"./{key}sVa/brain_004.nii.gz" for key in ("image", "label")}
    card(root, training=training[:3], validation=[moved])
    assert [case.split for case in read(root)] == ["train", "train", "train", "val"]
    card(root, validation=[{"image": moved["image"]}])  # without labels it is no part of the cases
    assert [case.split for case in read(root)] == ["", "", ""]


def test_images_that_are_not_listed_are_reported(root: Path) -> None:
    card(root, training=json.loads((root / "dataset.json").read_text())["training"][:3])
    (said,) = problems(root)
    assert said.startswith("imagesTr: 1 images are not among those that dataset.json lists, and are left out, e.g. brain_004.nii.gz")


@pytest.mark.parametrize("way", ["path", "link"])
def test_files_outside_the_root_are_refused(root: Path, way: str) -> None:
    outside = root.parent / "outside.nii.gz"
    (root / "imagesTr" / "brain_001.nii.gz").rename(outside)
    name = "../outside.nii.gz"
    if way == "link":
        name = "./imagesTr/brain_001.nii.gz"
        (root / name).symlink_to(outside)
    training = json.loads((root / "dataset.json").read_text())["training"]
    training[0]["image"] = name
    card(root, training=training)
    fix = "put the file itself below data.root, or set data.root to a folder above all files"
    assert problems(root) == [f"dataset.json: names {name}, which leads out of data.root to {outside}; {fix}"]


def test_a_label_map_on_another_grid_is_reported(root: Path) -> None:
    write_nifti(root / "labelsTr" / "brain_001.nii.gz", tomography.brain(5, 0).tumor[1:], tomography.BRAIN_MM)
    write_nifti(root / "labelsTr" / "brain_002.nii.gz", tomography.brain(5, 1).tumor, (5.0, 3.0, 2.0))
    source = Decathlon(root)
    assert [case.id for case in source.cases()] == ["brain_003", "brain_004"]
    assert [(p.where, p.what) for p in source.problems] == [
        ("labelsTr/brain_001.nii.gz", "23 x 64 x 64, the image 24 x 64 x 64"),
        ("labelsTr/brain_002.nii.gz", "spacing 5 x 3 x 2 mm, the image 5 x 3 x 3 mm"),
    ]


def test_a_damaged_volume_is_reported_by_its_file(root: Path) -> None:
    (root / "imagesTr" / "brain_003.nii.gz").write_bytes(b"<html>not found</html>" * 40)
    (said,) = problems(root)
    assert said.startswith("imagesTr/brain_003.nii.gz: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is truncated ("),
        ("[1]", "holds a list, not keys and values"),
        ('{"labels": {"background": "0"}}', "'labels' does not map numbers to names"),
        ('{"training": 3}', "'training' is not a list"),
        ('{"training": [{"image": "./imagesTr/brain_001.nii.gz"}]}', "entry 0 of 'training' does not name an image and a label"),
        ('{"channel_names": {"0": "T1"}}', "has 'channel_names': this is a data set of nnU-Net; data=nnunet"),
    ],
)
def test_a_card_that_cannot_be_used_is_reported(root: Path, text: str, said: str) -> None:
    (root / "dataset.json").write_text(text)
    found = problems(root)[0]
    assert found.startswith("dataset.json: ")
    assert said in found
