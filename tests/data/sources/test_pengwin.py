"""PENGWIN: bit masks of fragments that overlap, and the intensities that the challenge publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from segkit.data.case import Case
from segkit.data.io.base import ReadError
from segkit.data.phantoms import xray
from segkit.data.sources.pengwin import FRAGMENTS, INPUT, OUTPUT, Bits, Pengwin, bit, encode_bits

N = 12


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Pengwin(tmp_path).write_phantom(tmp_path, N, seed=5)
    return tmp_path


def read(root: Path, **keys: Any) -> list[Case]:
    source = Pengwin(root, **keys)
    cases = list(source.cases())
    assert source.problems == []
    return cases


def problems(root: Path) -> list[str]:
    source = Pengwin(root)
    list(source.cases())
    return [f"{p.where}: {p.what}; {p.fix}" for p in source.problems]


def image_of(path: Path, pixels: np.ndarray) -> Case:
    for folder, content in ((INPUT, pixels), (OUTPUT, np.zeros(pixels.shape[:2], np.uint32))):
        (path / folder).mkdir(parents=True)
        tifffile.imwrite(path / folder / "001_0000.tif", content)
    return read(path)[0]


def decode_bits(mask: np.ndarray[Any, Any]) -> dict[tuple[int, int], np.ndarray[Any, Any]]:
    """(category, fragment) -> (H, W) bool, of the fragments that the mask (H, W) shows."""
    places = [(category, fragment) for category in (1, 2, 3) for fragment in range(1, FRAGMENTS + 1)]
    planes = {place: (mask.astype(np.uint32) >> np.uint32(bit(*place)) & np.uint32(1)).astype(bool) for place in places}
    return {place: plane for place, plane in planes.items() if plane.any()}


def test_bits_follow_the_published_code() -> None:
    assert [bit(1, 1), bit(1, 10), bit(2, 1), bit(3, 1), bit(3, 10)] == [1, 10, 11, 21, 30]
    for wrong in ((0, 1), (4, 1), (1, 0), (1, 11)):
        with pytest.raises(ValueError, match="categories are 1 to 3"):
            bit(*wrong)


def test_overlapping_fragments_survive_the_round_trip() -> None:
    random = np.random.default_rng(0)
    planes = {(category, fragment): random.random((9, 7)) < 0.4 for category in (1, 2, 3) for fragment in (1, 2, 10)}
    mask = encode_bits(planes)
    assert mask.dtype == np.uint32
    assert (np.sum(list(planes.values()), axis=0) > 1).any()
    decoded = decode_bits(mask)
    assert decoded.keys() == planes.keys()
    assert all(np.array_equal(decoded[place], plane) for place, plane in planes.items())
    assert mask[planes[3, 10]].min() >= 1 << 30


def test_planes_are_the_bones_that_were_drawn_and_overlap(root: Path) -> None:
    overlapping = 0
    for case, (number, view, drawn) in zip(read(root), xray.projections(N, 5), strict=True):
        assert case.id == f"{number:03d}_{view:04d}"
        assert case.group == f"{number:03d}"
        masks = {bone: pixels.read() for bone, pixels in case.masks.items()}
        for category, bone in enumerate(("SA", "LI", "RI"), 1):
            pieces = [plane for (of, _), plane in drawn.fragments.items() if of == category]
            assert np.array_equal(masks[bone], np.any(pieces, axis=0))
            assert masks[bone].any()
        overlapping += int((np.sum(list(masks.values()), axis=0) > 1).sum())
    assert overlapping > 100


def test_views_of_a_case_are_of_one_patient_and_there_are_four_patients(root: Path) -> None:
    cases = read(root)
    assert len({case.group for case in cases}) == 4
    counts = [len(decode_bits(tifffile.imread(case.masks["SA"].paths[0]))) for case in cases if case.group == cases[0].group]
    assert len(counts) == 3
    assert len(set(counts)) == 1


def test_the_patients_left_bone_is_on_the_right_of_the_image(root: Path) -> None:
    for case in read(root):
        left, right = (np.nonzero(case.masks[bone].read())[1].mean() for bone in ("LI", "RI"))
        assert left > right


def test_published_intensities_are_8_bit_with_dark_bone(root: Path) -> None:
    for published, stored in zip(read(root), read(root, published_intensity=False), strict=True):
        image, detected = published.image.read(), stored.image.read()
        assert image.dtype == np.uint8
        assert image.shape == detected.shape == (*xray.PELVIS, 1)
        assert detected.dtype == np.float32
        bone = published.masks["LI"].read() > 0
        assert image[bone].mean() < image[~bone].mean()


def test_published_intensities_are_the_negative_logarithm_from_minimum_to_maximum(tmp_path: Path) -> None:
    """Before equalisation, which keeps the order within a tile: what is detected most is brightest."""
    ramp = np.linspace(0.0, 1.0, 64, dtype=np.float32)[None].repeat(64, axis=0)
    image = image_of(tmp_path, ramp).image.read()[..., 0]
    grey = -np.log(ramp.astype(float) + 0.01)
    eight_bit = (255 * (grey - grey.min()) / (grey.max() - grey.min())).astype(np.uint8)
    assert np.array_equal(image, 255 - cv2.createCLAHE(4, (8, 8)).apply(eight_bit))
    assert image[0, -1] > image[0, 0]


def test_intensities_without_a_logarithm_are_refused(tmp_path: Path) -> None:
    negative = image_of(tmp_path / "a", np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8))
    with pytest.raises(ReadError, match=r"no logarithm;   data\.source\.published_intensity=false"):
        negative.image.read()
    nan = image_of(tmp_path / "b", np.full((8, 8), np.nan, np.float32))
    with pytest.raises(ReadError, match="one channel of finite numbers"):
        nan.image.read()
    even = image_of(tmp_path / "c", np.ones((64, 64), np.float32))
    assert even.image.read().shape == (64, 64, 1)


@pytest.mark.parametrize("value", [1, 3, 1 << 31])
def test_a_mask_that_is_no_bit_mask_is_refused(value: int, tmp_path: Path) -> None:
    """As of labels 0, 1, 2, 3."""
    tifffile.imwrite(tmp_path / "m.tif", np.full((4, 4), value, np.uint32))
    with pytest.raises(ReadError, match="only 1 to 30 stand for fragments"):
        Bits(tmp_path / "m.tif", 1).read()


def test_the_root_may_be_the_inner_folder(root: Path) -> None:
    assert [case.id for case in read(root / "train")] == [case.id for case in read(root)]


def test_what_does_not_fit_is_reported(root: Path) -> None:
    first, second, third = sorted((root / "train" / INPUT).iterdir())[:3]
    (root / "train" / OUTPUT / first.name).unlink()
    second.unlink()
    third.rename(third.with_name("odd.tif"))
    (root / "train" / OUTPUT / third.name).rename(root / "train" / OUTPUT / "odd.tif")
    assert problems(root) == [
        f"train/{INPUT}/{first.name}: has no mask train/{OUTPUT}/{first.name}; add the mask, or move the image away",
        f"train/{INPUT}/odd.tif: is not called CASE_VIEW.tif, such as 001_0000.tif; rename it and its mask, or move both away",
        f"train/{OUTPUT}/{second.name}: has no image train/{INPUT}/{second.name}; add the image, or move the mask away",
    ]
    assert problems(root.parent / "nowhere") == [
        f"{root.parent / 'nowhere'}: has no folder train/{INPUT}; data.root = the folder that holds train/"
    ]


def test_the_same_phantom_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Pengwin(tmp_path).write_phantom(tmp_path / name, 8, seed=3)
    files = sorted((tmp_path / "a").rglob("*.tif"))
    assert len(files) == 16
    assert all(path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() for path in files)


@pytest.mark.parametrize("published", [True, False])
def test_no_threshold_finds_the_bones(published: bool, root: Path) -> None:
    scores = []
    for case in read(root, published_intensity=published):
        truth = np.any([mask.read() for mask in case.masks.values()], axis=0)
        image = case.image.read()[..., 0]
        grey = np.asarray(255.0 * (image - image.min()) / np.ptp(image), np.uint8)
        bright = cv2.threshold(grey, 0, 1, cv2.THRESH_OTSU)[1] > 0
        scores.append([2 * (found & truth).sum() / (found.sum() + truth.sum()) for found in (bright, ~bright)])
    assert np.mean(np.max(scores, axis=1)) < 0.8
