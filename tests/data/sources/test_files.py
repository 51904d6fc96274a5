"""Names and links as people have them: what a folder holds is found, and every case has a name that tables can hold."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.data.sources.files import all_files, image_files, key_of
from segkit.data.sources.folder import Folder
from segkit.inference import inputs
from segkit.system.errors import Problem, SegkitError
from segkit.system.files import write_text_atomic
from tests.conftest import SMALL
from tests.runner import Cli

LATIN = os.fsdecode(b"f\xfc1")
"""A name that is not UTF-8."""
ODD = ("x" * 230, "ä" * 115, "a\nb", "a b", "a=b", "a,b", "a{b}", "a[1]", "a'b", 'a"b', "a$b", "-a", "~a", "a\\b", LATIN)


def write(path: Path, seed: int = 0, is_mask: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (24, 24)).astype(np.uint8)
    if is_mask:
        image[:] = 0
        image[4:12, 4 : 10 + seed % 10] = 255
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def write_pairs(root: Path, names: tuple[str, ...]) -> Path:
    for i, name in enumerate(names):
        write(root / "images" / f"{name}.png", i)
        write(root / "masks" / f"{name}.png", i, is_mask=True)
    return root


def below(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in image_files(folder)]


def test_links_to_folders_are_followed_also_out_of_the_root(tmp_path: Path) -> None:
    write_pairs(tmp_path / "store", ("a", "b"))
    write_pairs(tmp_path / "set", ("p1/a",))
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind / "p2").symlink_to(tmp_path / "store" / kind)
    source = Folder(tmp_path / "set")
    assert [case.id for case in source.cases()] == ["p1/a", "p2/a", "p2/b"]
    assert source.problems == []
    assert [item.name for item in inputs.of_files(str(tmp_path / "set" / "images"), tmp_path / "out")] == ["p1/a", "p2/a", "p2/b"]


def test_images_of_a_kind_that_is_not_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_pairs(tmp_path / "set", ("a",))
    (root / "images" / "b.jp2").touch()
    source = Folder(root)
    assert [case.id for case in source.cases()] == ["a"]
    (said,) = [problem for problem in source.problems if problem.severity == "warning"]
    assert said.what == "1 files of a kind that is not read are left out, e.g. images/b.jp2"
    assert "data.source.ignore='*.jp2'" in said.fix
    ignoring = Folder(root, ignore="*.jp2")
    assert list(ignoring.cases())
    assert ignoring.problems == []
    inputs.of_files(str(root / "images"), tmp_path / "out")
    assert "1 files of a kind that is not read are left out, e.g. b.jp2" in capsys.readouterr().out


def test_files_called_like_masks_are_named_before_they_are_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_pairs(tmp_path / "set", ("a", "b"))
    inputs.of_files(str(root / "images"), tmp_path / "out")
    inputs.of_files(str(root / "masks"), tmp_path / "out")  # where all are, the folder was meant
    assert capsys.readouterr().out == ""
    inputs.of_files(str(root), tmp_path / "out")
    assert "2 of 4 images are called like masks and predicted as the others, e.g. masks/a.png" in capsys.readouterr().out


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    write(tmp_path / "p" / "a.png")
    (tmp_path / "p" / "up").symlink_to(tmp_path)
    (tmp_path / "p" / "self").symlink_to(tmp_path / "p")
    (tmp_path / "again").symlink_to(tmp_path / "p")
    assert below(tmp_path) == ["again/a.png", "p/a.png"]
    found, _ = inputs.find_images(str(tmp_path / "**" / "*.png"), tmp_path / "out")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["again/a.png", "p/a.png"]


def test_what_systems_leave_behind_is_ignored(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir/a.png", "__MACOSX/a.png"):
        write(tmp_path / name)
    assert below(tmp_path) == ["a.png"]
    assert [path.name for path in all_files(tmp_path)] == ["a.png"]


def test_a_folder_a_case_is_known_by_its_folder(tmp_path: Path) -> None:
    assert key_of(tmp_path / "case_0" / "imaging.nii.gz", tmp_path, "imaging") == "case_0"


def test_names_that_are_not_utf8_are_read_as_latin1(tmp_path: Path) -> None:
    assert key_of(tmp_path / f"{LATIN}.png", tmp_path) == "fü1"


def test_a_message_is_one_line_whatever_the_name(tmp_path: Path) -> None:
    problem = Problem(f"images/a\nb{LATIN}.png", "zero bytes", "data.exclude='[\"a\nb\"]'")
    assert problem.where == "images/a\\nbfü1.png"
    assert "\n" not in problem.fix


def test_a_name_that_no_disk_takes_is_named(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match=r"the name xxxxxxxxxxxxxxxxxxxx….* has 260 bytes, too many for a disk"):
        write_text_atomic(tmp_path / ("x" * 260), "")
    write_text_atomic(tmp_path / ("ä" * 125), "whole")
    assert (tmp_path / ("ä" * 125)).read_text() == "whole"


@pytest.mark.slow
def test_odd_names_in_audit_training_prediction_and_tables(tmp_path: Path, segkit_in: Cli) -> None:
    write_pairs(tmp_path / "set", ODD)
    data = ("data=folder", f"data.root={tmp_path / 'set'}")
    assert segkit_in("audit", *data, "output=audit").returncode == 0
    small = [word for word in SMALL if not word.startswith("data=")]
    done = segkit_in("train", *data, *small, "trainer.max_epochs=1", "preprocess.size=[16,16]", "model.widths=[4,8]", "run=a")
    assert done.returncode == 0, done.stdout + done.stderr
    done = segkit_in("predict", "ckpt=outputs/small/a", "input=set/images", "output=out", "overlays=true", "probabilities=true")
    assert f"{len(ODD)} masks written" in done.stdout
    done = segkit_in("evaluate", "masks=out", *data, "output=scores")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fü1" in (tmp_path / "scores" / "cases.csv").read_text()


def test_a_name_that_is_typed_must_be_utf8(tmp_path: Path, segkit_in: Cli) -> None:
    done = segkit_in("audit", "data=folder", f"data.root={tmp_path / LATIN}")
    assert done.returncode == 2
    assert (
        done.stderr == f"segkit audit: data.root={tmp_path}/fü1 is not UTF-8 text, so no config can hold it;   rename the file or folder\n"
    )
