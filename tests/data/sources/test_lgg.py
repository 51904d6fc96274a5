"""LGG: slices in folders, and the preprocessing that the published network was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from segkit.data.case import Case
from segkit.data.io.base import ReadError
from segkit.data.phantoms import tomography
from segkit.data.sources.lgg import FOLDER, LGG, gray

SLICES = 24


@pytest.fixture
def root(tmp_path: Path) -> Path:
    LGG(tmp_path).write_phantom(tmp_path, SLICES, seed=5)
    return tmp_path


def read(root: Path, **keys: Any) -> list[Case]:
    source = LGG(root, **keys)
    cases = list(source.cases())
    assert source.problems == []
    return cases


def problems(root: Path, **keys: Any) -> list[str]:
    source = LGG(root, **keys)
    list(source.cases())
    return [f"{p.where}: {p.what}; {p.fix}" for p in source.problems]


def folders(root: Path) -> list[Path]:
    return sorted((root / FOLDER).iterdir(), key=lambda folder: folder.name.split("_")[2])


def write_volume(folder: Path, volume: np.ndarray, masks: np.ndarray | None = None) -> None:
    folder.mkdir(parents=True)
    masks = np.zeros(volume.shape[:3], np.uint8) if masks is None else masks
    for z, (image, mask) in enumerate(zip(volume, masks, strict=True), 1):
        tifffile.imwrite(folder / f"{folder.name}_{z}.tif", image, photometric="rgb")
        tifffile.imwrite(folder / f"{folder.name}_{z}_mask.tif", mask)


def test_slices_know_their_patient_and_place_and_are_what_was_drawn(root: Path) -> None:
    cases = read(root)
    assert len(cases) == SLICES
    assert len({case.group for case in cases}) == 4
    drawn = [one for _, one in tomography.brain_slices(SLICES, 5)]
    by_volume = [[case for case in cases if case.volume == folder.name] for folder in folders(root)]
    for members, one in zip(by_volume, drawn, strict=True):
        assert [case.position for case in members] == list(range(1, 7))
        assert members[0].id == f"{members[0].volume}_1"
        assert members[0].volume.startswith(members[0].group)
        colours = np.stack([gray(one.images[name]) for name in ("t1", "flair", "t1ce")], axis=-1)
        assert np.array_equal(np.stack([case.image.read() for case in members]), colours)
        assert np.array_equal(np.stack([case.masks[""].read() for case in members]) == 255, one.tumor > 0)


def test_slices_are_in_order_of_their_numbers_not_of_their_names(tmp_path: Path) -> None:
    write_volume(tmp_path / "TCGA_CS_4941_19960909", np.full((11, 8, 8, 3), 9, np.uint8))
    assert [case.position for case in read(tmp_path)] == list(range(1, 12))


def test_the_root_may_be_the_inner_folder(root: Path) -> None:
    assert [case.id for case in read(root / FOLDER)] == [case.id for case in read(root)]


def test_first_and_last_slices_can_be_left_out(root: Path) -> None:
    cases = read(root, drop_ends=True)
    assert len(cases) == SLICES - 2 * 4
    assert {case.position for case in cases} == {2, 3, 4, 5}


def test_the_same_phantom_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        LGG(tmp_path).write_phantom(tmp_path / name, 8, seed=3)
    files = sorted((tmp_path / "a").rglob("*.tif"))
    assert len(files) == 16
    assert all(path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() for path in files)


def test_no_threshold_finds_the_tumour(root: Path) -> None:
    scores = []
    for case in read(root):
        truth = case.masks[""].read() > 0
        if truth.any():
            channels = np.moveaxis(case.image.read(), -1, 0)
            found = [cv2.threshold(np.ascontiguousarray(channel), 0, 1, cv2.THRESH_OTSU)[1] > 0 for channel in channels]
            scores.append([2 * (f & truth).sum() / (f.sum() + truth.sum()) for f in found])
    assert np.mean(scores, axis=0).max() < 0.8


# the published preprocessing


def test_published_volumes_have_mean_0_and_standard_deviation_1_by_channel(root: Path) -> None:
    cases = read(root, published_preprocessing=True)
    assert len(cases) == SLICES - 2 * 4  # without both ends
    first = [case for case in cases if case.volume == cases[0].volume]
    volume = np.stack([case.image.read() for case in first])
    assert volume.shape == (4, 256, 256, 3)
    assert volume.dtype == np.float32
    assert np.allclose(volume.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    assert np.allclose(volume.std(axis=(0, 1, 2)), 1, atol=1e-3)
    assert first[0].whole is not None
    assert np.array_equal(first[0].whole.read(), volume)


def test_published_images_and_masks_are_cropped_padded_and_resized_alike(tmp_path: Path) -> None:
    volume, masks = np.full((5, 100, 100, 3), 5, np.uint8), np.zeros((5, 100, 100), np.uint8)
    volume[:, 20:84, 40:72] = 100  # 64 x 32: padded by 16 on both sides, then four times as large
    volume[:, 36:52, 48:56] = 200
    masks[:, 36:52, 48:56] = 255
    write_volume(tmp_path / "TCGA_CS_4941_19960909", volume, masks)
    case = read(tmp_path, published_preprocessing=True)[0]
    expected = np.zeros((256, 256), np.uint8)
    expected[64:128, 96:128] = 255
    assert np.array_equal(case.masks[""].read(), expected)
    image = case.image.read()[..., 0]
    assert image[70:122, 102:122].min() > image[140:250, 70:186].max()
    assert image[140:250, 70:186].min() > image[:, :60].max()


def test_published_intensities_are_cut_at_percentiles_of_all_channels_together(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    volume = random.integers(60, 200, (5, 256, 256, 3)).astype(np.uint8)
    volume[..., 2] //= 2
    write_volume(tmp_path / "TCGA_CS_4941_19960909", volume)
    cases = read(tmp_path, published_preprocessing=True)
    kept = volume[1:4].astype(np.float64)
    low, high = np.percentile(kept, (10, 99))
    clipped = np.clip(kept, low, high)
    expected = (clipped - clipped.mean(axis=(0, 1, 2))) / clipped.std(axis=(0, 1, 2))
    assert np.allclose(np.stack([case.image.read() for case in cases]), expected, atol=1e-4)


def test_a_dark_slice_at_an_end_keeps_its_place_but_does_not_count(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    volume = random.integers(60, 200, (6, 64, 64, 3)).astype(np.uint8)
    volume[4] = 3
    write_volume(tmp_path / "TCGA_CS_4941_19960909", volume)
    cases = read(tmp_path, published_preprocessing=True)
    published = np.stack([case.image.read() for case in cases])
    assert [case.position for case in cases] == [2, 3, 4, 5]
    assert np.allclose(published[:3].mean(axis=(0, 1, 2)), 0, atol=1e-4)
    assert len(np.unique(published[3])) <= 3


def test_an_empty_volume_cannot_be_cropped(tmp_path: Path) -> None:
    write_volume(tmp_path / "TCGA_CS_4941_19960909", np.zeros((4, 16, 16, 3), np.uint8))
    with pytest.raises(ReadError, match="every voxel of its volume is 0: no brain to crop to"):
        read(tmp_path, published_preprocessing=True)[0].image.read()


def test_the_real_sample_reads(real_data: Path) -> None:
    if not (real_data / "brain_lgg").is_dir():
        pytest.skip(f"no brain_lgg in {real_data}")
    cases = read(real_data / "brain_lgg")
    assert len(cases) == 40
    assert {case.group for case in cases} == {"TCGA_CS_4942", "TCGA_HT_7602"}
    assert {case.image.read().shape for case in cases} == {(256, 256, 3)}
    assert any(case.masks[""].read().any() for case in cases)


# what goes wrong


def test_a_slice_without_its_mask_is_reported_and_the_other_way_round(root: Path) -> None:
    folder = folders(root)[0]
    (folder / f"{folder.name}_3_mask.tif").unlink()
    (folder / f"{folder.name}_5.tif").unlink()
    place = f"{FOLDER}/{folder.name}/{folder.name}"
    assert problems(root) == [
        f"{place}_3.tif: has no mask {place}_3_mask.tif; add the mask, or move the image away",
        f"{place}_5_mask.tif: has no image {place}_5.tif; add the image, or move the mask away",
    ]


def test_a_file_of_another_volume_is_reported(root: Path) -> None:
    first, second = folders(root)[:2]
    (first / f"{first.name}_1.tif").rename(second / f"{first.name}_1.tif")
    said = f"is not called {second.name}_<n>.tif or _<n>_mask.tif; rename it, or move it away"
    assert f"{FOLDER}/{second.name}/{first.name}_1.tif: {said}" in problems(root)


def test_two_files_of_one_number_are_reported(root: Path) -> None:
    folder = folders(root)[0]
    (folder / f"{folder.name}_03.tif").write_bytes((folder / f"{folder.name}_3.tif").read_bytes())
    three = f"{folder.name}_03.tif"
    what = f"ambiguous: {three} and {folder.name}_3.tif could be the image of {folder.name}_3"
    assert problems(root) == [f"{FOLDER}/{folder.name}/{three}: {what}; keep one of them"]


def test_a_folder_without_patients_is_reported(tmp_path: Path) -> None:
    said = "no folders TCGA_<site>_<patient>_<date> in it; data.root = the folder that holds kaggle_3m/"
    assert problems(tmp_path) == [f"{tmp_path}: {said}"]


def test_a_volume_of_two_slices_has_none_between_its_ends(tmp_path: Path) -> None:
    write_volume(tmp_path / "TCGA_CS_4941_19960909", np.full((2, 8, 8, 3), 9, np.uint8))
    (said,) = problems(tmp_path, drop_ends=True)
    assert said.startswith("TCGA_CS_4941_19960909: has 2 slices, and without its first and last there are none")
