"""Which formats can hold which predictions is told before anything is predicted."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.data.case import Case
from segkit.data.io.images import ImageFile
from segkit.data.labels import LabelMap
from segkit.inference.batch import FORMATS, open_writers
from segkit.inference.inputs import InputItem
from segkit.inference.writers.base import Target
from segkit.system.errors import SegkitError

ONE = LabelMap.of({0: "background", 1: "head"})
TWO = LabelMap.of({0: "background", 1: "head", 2: "eye"})


def picture(path: Path) -> InputItem:
    return InputItem(path.stem, path, (Case(path.stem, ImageFile(path)),))


def test_a_format_that_cannot_hold_the_images_says_which_can(tmp_path: Path) -> None:
    job = picture(tmp_path / "a.png")
    with pytest.raises(
        SegkitError, match=r"dicom_seg cannot be written, as .*a.png is not a DICOM image;   possible here: formats='\[labelme,nerve\]'"
    ):
        open_writers(["labelme", "dicom_seg"], [job], Target(tmp_path, ONE))
    with pytest.raises(SegkitError, match=r"nerve cannot be written, as it has one class, the checkpoint 2;   .*formats='\[labelme\]'"):
        open_writers(["nerve"], [job], Target(tmp_path, TWO))
    with pytest.raises(SegkitError, match="its classes are large_bowel, small_bowel, stomach, those of the checkpoint head"):
        open_writers(["uw_madison"], [job], Target(tmp_path, ONE))


@pytest.mark.parametrize("name", FORMATS)
def test_a_volume_file_has_its_own_format_only(tmp_path: Path, name: str) -> None:
    scan = tmp_path / "scan.nii.gz"
    with pytest.raises(SegkitError, match=r"cannot be written, as .*;   possible here: formats='\[\]', masks alone"):
        open_writers([name], [InputItem("scan", scan, like=scan)], Target(tmp_path, ONE))


def test_one_image_that_does_not_fit_is_enough(tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    with pytest.raises(SegkitError, match=r"scan.nii.gz is not an image that LabelMe opens"):
        open_writers(["labelme"], [picture(tmp_path / "a.png"), InputItem("scan", scan, like=scan)], Target(tmp_path, ONE))


def test_a_misspelt_format_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match=r"formats=lableme is not a valid option; did you mean labelme\?"):
        open_writers(["lableme"], [], Target(tmp_path, ONE))
    with pytest.raises(SegkitError, match="available: labelme, dicom_seg, nerve, uw_madison, hc18"):
        open_writers(["x"], [], Target(tmp_path, ONE))


def test_without_formats_nothing_is_written_and_nothing_changes(tmp_path: Path) -> None:
    jobs = [picture(tmp_path / "a.png")]
    assert open_writers([], jobs, Target(tmp_path, ONE)) == (jobs, [])
