"""Which images `segkit predict` takes, and what their masks are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.data.manifest import Case
from segkit.data.readers import ImageFile
from segkit.data.volumes import VolumeFile
from segkit.errors import SegkitError
from segkit.inference.jobs import Job, find_images, name_masks, of_cases, of_files


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_masks_of_an_earlier_run_are_no_input(tmp_path: Path) -> None:
    touch(tmp_path / "1.png", tmp_path / "10.png", tmp_path / "2.png", tmp_path / "masks/1.png")
    for source in (tmp_path, tmp_path / "**/*.png"):
        images, root = find_images(str(source), tmp_path / "masks")
        assert [path.name for path in images] == ["1.png", "2.png", "10.png"]
        assert root == tmp_path


def test_two_images_of_one_stem_keep_their_suffix(tmp_path: Path) -> None:
    images = [tmp_path / "a.png", tmp_path / "a.jpg", tmp_path / "b.png", tmp_path / "sub/c.nii.gz"]
    assert list(name_masks(images, tmp_path).values()) == ["a.png", "a.jpg", "b", "sub/c"]
    with pytest.raises(SegkitError, match="share a name"):
        name_masks([*images, tmp_path / "a.png.png"], tmp_path)


def test_a_mask_has_the_format_of_its_volume_and_is_a_png_otherwise(tmp_path: Path) -> None:
    assert Job("sub/a", tmp_path / "a.jpg").target(tmp_path) == tmp_path / "sub/a.png"
    assert Job("a", tmp_path / "a.nii.gz", like=tmp_path / "a.nii.gz").target(tmp_path) == tmp_path / "a.nii.gz"


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    with pytest.raises(SegkitError, match="choose another output"):
        of_files(str(tmp_path / "a.png"), tmp_path)


def test_slices_of_a_volume_file_become_one_mask_and_slices_with_files_of_their_own_one_each(tmp_path: Path) -> None:
    volume = VolumeFile(tmp_path / "scan.nii.gz")
    cut = [Case(f"scan_{z}", ImageFile(volume.path), volume="scan", position=z, whole=volume) for z in (1, 0)]
    own = [Case(f"day_{z}", ImageFile(tmp_path / f"{z}.png"), volume="day", position=z) for z in (0, 1)]
    jobs = of_cases([*cut, *own])
    assert [job.name for job in jobs] == ["day_0", "day_1", "scan"]
    assert [case.position for case in jobs[2].cases] == [0, 1]
    assert jobs[2].like == volume.path


def test_an_input_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match="no such file, folder or match"):
        find_images(str(tmp_path / "nothing"), tmp_path / "out")
    with pytest.raises(SegkitError, match="holds no image"):
        find_images(str(tmp_path), tmp_path / "out")
