"""ISBI 2012: one stack in three layouts, and groups of neighbouring slices."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from segkit.data.case import Case
from segkit.data.io.images import read_mask
from segkit.data.phantoms import microscopy
from segkit.data.sources.isbi_em import SPACING_MM, IsbiEm

N = 20


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    IsbiEm(root).write_phantom(root, N, seed=5)
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(written, tmp_path / "em"))


@pytest.fixture
def stacks(root: Path) -> Path:
    """The same slices as the two files of the release."""
    place = root.parent / "release"
    place.mkdir()
    for name, folder in (("train-volume", "image"), ("train-labels", "label")):
        pages = [read_mask(root / "train" / folder / f"{i}.png") for i in range(N)]
        tifffile.imwrite(place / f"{name}.tif", np.stack(pages), photometric="minisblack")
    return place


@pytest.fixture
def tifs(root: Path) -> Path:
    """The same slices as single TIFFs, whose names have a prefix that differs."""
    place = root.parent / "tifs"
    for folder, name in (("image", "train-volume"), ("label", "train-labels")):
        (place / "train" / f"{folder}s").mkdir(parents=True)
        for i in range(N):
            pixels = read_mask(root / "train" / folder / f"{i}.png")
            tifffile.imwrite(place / "train" / f"{folder}s" / f"{name}{i:02d}.tif", pixels)
    return place


def read(root: Path, **keys: Any) -> list[Case]:
    source = IsbiEm(root, **keys)
    cases = list(source.cases())
    assert source.problems == []
    return cases


def problems(root: Path, **keys: Any) -> list[str]:
    source = IsbiEm(root, **keys)
    list(source.cases())
    return [f"{p.where}: {p.what}; {p.fix}" for p in source.problems]


def test_slices_are_what_was_drawn_in_order_of_one_volume(root: Path) -> None:
    cases = read(root)
    assert [case.position for case in cases] == list(range(N))  # not 0, 1, 10, 11
    assert {case.volume for case in cases} == {"train"}
    assert {case.spacing_mm for case in cases} == {SPACING_MM} == {(5e-5, 4e-6, 4e-6)}
    for case, drawn in zip(cases, microscopy.sections(N, 5), strict=True):
        assert np.array_equal(case.image.read()[..., 0], drawn.image)
        assert np.array_equal(case.masks[""].read() == 0, drawn.membrane)


def test_all_layouts_hold_the_same_slices(root: Path, stacks: Path, tifs: Path) -> None:
    mirror, release, single = read(root), read(stacks), read(tifs)
    for a, b, c in zip(mirror, release, single, strict=True):
        assert a.position == b.position == c.position
        assert a.group == b.group == c.group
        for other in (b, c):
            assert np.array_equal(a.image.read(), other.image.read())
            assert np.array_equal(a.masks[""].read(), other.masks[""].read())
    assert (mirror[3].id, release[3].id, single[3].id) == ("3", "train-volume_03", "train-volume03")


@pytest.mark.parametrize("inside", ["train", "..", "."])
def test_the_root_may_be_the_folder_inside_or_around(inside: str, root: Path) -> None:
    assert len(read((root / inside).resolve())) == N


def test_neighbouring_slices_stay_together(root: Path) -> None:
    groups = [case.group for case in read(root)]
    assert groups == [f"block_{i // 5}" for i in range(N)]
    assert len({case.group for case in read(root, blocks=N)}) == 1


def test_blocks_go_by_slice_numbers_from_the_first_on(root: Path) -> None:
    """A slice that is missing moves no other one into another block."""
    for i in (0, 1, 4):
        for folder in ("image", "label"):
            (root / "train" / folder / f"{i}.png").unlink()
    assert [case.group for case in read(root)][:6] == ["block_0"] * 4 + ["block_1"] * 2
    assert [case.position for case in read(root)][:3] == [2, 3, 5]


def test_small_phantoms_have_four_blocks_too(tmp_path: Path) -> None:
    IsbiEm(tmp_path).write_phantom(tmp_path, 8, seed=0)
    assert len(read(tmp_path)) == 8
    assert len({case.group for case in read(tmp_path)}) >= 4


@pytest.mark.parametrize(
    ("foreground", "labels"), [("membrane", {0: "membrane", 255: "background"}), ("cell", {0: "background", 255: "cell"})]
)
def test_the_foreground_is_membranes_or_cells(foreground: Any, labels: dict[int, str], root: Path) -> None:
    assert IsbiEm(root, foreground=foreground).default_labels == labels


def test_slices_without_a_partner_are_reported(root: Path) -> None:
    train = root / "train"
    (train / "image" / "3.png").unlink()
    (train / "label" / "12.png").unlink()
    (train / "image" / "7.png").rename(train / "image" / "seven.png")
    (train / "image" / "a_9.png").write_bytes((train / "image" / "9.png").read_bytes())
    assert problems(root) == [
        "train/image/seven.png: has no number in its name, so nothing says which slice it is; rename it, or move it away",
        "train/image/9.png: ambiguous: 9.png and a_9.png could be the image of 9; keep one of them",
        "train/image/12.png: has no mask train/label/12.*; add the mask, or move the image away",
        "train/label/3.png: has no image train/image/3.* (and 1 more, such as 7.png); add the image, or move the mask away",
    ]


def test_a_release_that_is_not_whole_is_reported(stacks: Path) -> None:
    labels = stacks / "train-labels.tif"
    pages = tifffile.imread(labels)
    tifffile.imwrite(labels, pages[:-2], photometric="minisblack")
    assert problems(stacks) == ["train-labels.tif: has 18 pages, train-volume.tif has 20; get both files of one release"]
    labels.write_bytes(labels.read_bytes()[:100])
    assert problems(stacks)[0].startswith("train-labels.tif: ")
    labels.unlink()
    assert problems(stacks) == [f"train-volume.tif: has no train-labels.tif beside it; put it into {stacks}"]


def test_mistakes_are_reported_with_what_to_type(root: Path, tmp_path: Path) -> None:
    assert problems(root, foreground="nucleus") == ["data.source.foreground: 'nucleus' is not a valid option; available: membrane, cell; "]
    assert problems(root, blocks=0) == ["data.source.blocks: is 0; a group has one slice or more; data.source.blocks=5"]
    (tmp_path / "empty").mkdir()
    fix = "data.root = the folder that holds train-volume.tif and train-labels.tif, or train/image and train/label"
    assert problems(tmp_path / "empty") == [f"{tmp_path / 'empty'}: holds no slices in any known layout; {fix}"]
    for path in (root / "train" / "label").iterdir():
        path.unlink()
    (root / "train" / "label").rmdir()
    assert problems(root) == [f"train/image: has no folder label beside it; put the masks into {root / 'train' / 'label'}"]


def test_the_same_phantom_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        IsbiEm(tmp_path).write_phantom(tmp_path / name, 8, seed=3)
    files = sorted((tmp_path / "a").rglob("*.png"))
    assert len(files) == 16
    assert all(path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() for path in files)


def test_neighbouring_phantom_slices_are_more_alike_than_distant_ones() -> None:
    drawn = [section.membrane for section in microscopy.sections(20, 0)]

    def shared(distance: int) -> float:
        return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in zip(drawn, drawn[distance:], strict=False)]))

    assert shared(1) > shared(2) > 1.5 * shared(12)


def test_no_threshold_finds_the_membranes() -> None:
    scores = []
    for drawn in microscopy.sections(20, 0):
        bright = cv2.threshold(drawn.image, 0, 1, cv2.THRESH_OTSU)[1] > 0
        scores.append([2 * (f & drawn.membrane).sum() / (f.sum() + drawn.membrane.sum()) for f in (bright, ~bright)])
    assert np.mean(np.max(scores, axis=1)) < 0.8


def test_the_real_stack_is_found(real_data: Path) -> None:
    if not (real_data / "em_membrane").is_dir():
        pytest.skip("no em_membrane/ among the real samples")
    cases = read(real_data / "em_membrane")
    assert [case.position for case in cases] == list(range(30))
    assert len({case.group for case in cases}) == 6
    for case in cases[::10]:
        assert case.image.read().shape == (512, 512, 1)
        assert set(np.unique(case.masks[""].read())) == {0, 255}
