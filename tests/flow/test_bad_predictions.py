"""Wrong input of `segkit evaluate` and `segkit predict`: one clear error, and nothing is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkit.cli.evaluate import evaluate
from segkit.cli.predict import predict
from segkit.config import compose
from segkit.data.phantoms.base import write_png
from segkit.system.errors import SegkitError
from segkit.system.files import check_writable
from tests.conftest import run_segkit


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an image."""
    monkeypatch.chdir(tmp_path)
    write_png(tmp_path / "scans/a.png", np.zeros((40, 50), np.uint8))
    return tmp_path


def refused(command: str, *keys: str) -> str:
    """What it says, having written nothing but what is kept of data sets."""
    cfg: Any = compose.compose(command, keys)
    before = files()
    with pytest.raises(SegkitError) as error:
        (evaluate if command == "evaluate" else predict)(cfg)
    assert files() == before
    return str(error.value)


def files() -> list[Path]:
    return sorted(path for path in Path().rglob("*") if path.is_file() and ".cache" not in path.parts)


MASKS = "output=masks"


def test_an_empty_folder_and_one_that_is_not_there(here: Path, trained: Path) -> None:
    (here / "empty").mkdir()
    assert "input=empty: folder holds no image;   images, NIfTI" in refused("predict", f"ckpt={trained}", "input=empty", MASKS)
    assert "there is no such file, folder or match" in refused("predict", f"ckpt={trained}", "input=nowhere", MASKS)
    assert "there are no folders at all" in refused("predict", f"ckpt={trained}", "data.root=empty", MASKS)


def test_a_target_that_cannot_be_written_to(here: Path, trained: Path) -> None:
    """A file stands in its way, or (to root, who may all else) the kernel."""
    (here / "taken").write_text("mine")
    for output in ("taken", "taken/below"):
        said = refused("predict", f"ckpt={trained}", "input=scans", f"output={output}")
        assert re.search(rf"nothing can be written to {output}: .*taken is a file;   choose another  output=FOLDER", said)
        said = refused("evaluate", f"ckpt={trained}", "data=phantom", "data.phantom_n=4", f"output={output}")
        assert f"nothing can be written to {output}" in said
    (here / "masks").mkdir()
    write_png(here / "masks/a.png", np.zeros((40, 50), np.uint8))
    write_png(here / "set/images/a.png", np.zeros((40, 50), np.uint8))
    write_png(here / "set/masks/a.png", np.full((40, 50), 255, np.uint8))
    assert "taken is a file" in refused("evaluate", "masks=masks", "data=folder", "data.root=set", "output=taken")


def test_a_folder_that_takes_no_files_is_found_out_without_leaving_one(tmp_path: Path) -> None:
    check_writable(tmp_path / "new/folder", "")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SegkitError, match=r"nothing can be written to /proc/new: .*;   choose another"):
        check_writable(Path("/proc/new"), "choose another")  # to root as well


def test_a_member_without_a_card(here: Path, trained: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, here / "foreign.ckpt")
    members = (f"members.a.ckpt={trained}", "members.b.ckpt=foreign.ckpt")
    for command, more in (("evaluate", ()), ("predict", ("input=scans", MASKS))):
        said = refused(command, "experiment=pelvis_combination", *members, *more)
        assert "foreign.ckpt was written by another program: it has no segkit metadata (it holds state_dict)" in said


def test_members_that_own_the_same_class(here: Path, trained: Path) -> None:
    members = (f"members.a.ckpt={trained}", f"members.b.ckpt={trained}")
    for command, more in (("evaluate", ()), ("predict", ("input=scans", MASKS))):
        said = refused(command, "experiment=pelvis_combination", *members, *more)
        assert "members a and b both own head;   assign it with  members.NAME.labels=" in said


def test_data_with_other_class_names(here: Path, trained: Path) -> None:
    said = refused("evaluate", f"ckpt={trained}", "data=phantom", "data.phantom_n=4", "data.labels={0: background, 255: skull}")
    assert said == "the data has classes skull, the checkpoint head;   name them alike with  data.labels"


def test_an_image_of_another_kind_and_a_format_that_cannot_hold_the_images(here: Path, trained: Path) -> None:
    said = refused("predict", f"ckpt={trained}", "input=scans", MASKS, "formats=[dicom_seg]")
    assert "a.png is not a DICOM image;   possible here: formats='[labelme,nerve]'" in said
    said = refused("predict", f"ckpt={trained}", "input=scans", MASKS, "formats=[hc18]")
    assert "the pixel size of scans/a.png is not known" in said
    (here / "dicom").mkdir()
    (here / "dicom/a.dcm").write_bytes(b"\0" * 128 + b"DICM")
    assert "DICOM and other layouts: data=NAME data.root=FOLDER" in refused("predict", f"ckpt={trained}", "input=dicom", MASKS)


def test_the_command_line_tells_it_in_one_line_and_exits_with_2(here: Path, trained: Path) -> None:
    (here / "taken").write_text("mine")
    done = run_segkit(here, "predict", f"ckpt={trained}", "input=scans", "output=taken")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Traceback" not in done.stderr
