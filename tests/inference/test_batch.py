"""Which images `segkit predict` takes, and what their masks are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.errors import SegkitError
from segkit.inference.batch import find_images, name_targets


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
    images = [tmp_path / "a.png", tmp_path / "a.jpg", tmp_path / "b.png"]
    names = [path.name for path in name_targets(images, tmp_path, tmp_path / "out").values()]
    assert names == ["a.png.png", "a.jpg.png", "b.png"]
    with pytest.raises(SegkitError, match="share a name"):
        name_targets([*images, tmp_path / "a.png.png"], tmp_path, tmp_path / "out")


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match="choose another output"):
        name_targets([tmp_path / "a.png"], tmp_path, tmp_path)


def test_an_input_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match="no such file, folder or match"):
        find_images(str(tmp_path / "nothing"), tmp_path / "out")
    with pytest.raises(SegkitError, match="holds no image"):
        find_images(str(tmp_path), tmp_path / "out")
