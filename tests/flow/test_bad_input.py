"""Wrong data meets `segkit train`: all faults in one list, exit code 2, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import Cli

FOLDER = ("data=folder", "data.root=set", "model.widths=[4,8]", "preprocess.size=[32,32]", "trainer.compile=false")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten good pairs, named so that 10 sorts before 2 as text."""
    root = tmp_path / "set"
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(1, 11):
        cv2.imwrite(str(root / "images" / f"{i}.png"), rng.integers(0, 255, (37, 53), np.uint8))
        mask = np.zeros((37, 53), np.uint8)
        mask[i : i + 10, 5:30] = 255
        cv2.imwrite(str(root / "masks" / f"{i}.png"), mask)
    return root


def refused(segkit_in: Cli, tmp_path: Path, *more: str) -> str:
    done = segkit_in("train", *FOLDER, *more)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("outputs/*/*/status.json")), "a run folder was left behind"
    return done.stderr


def test_good_data_of_37_x_53_trains_and_1_is_not_paired_with_10(folder: Path, segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *FOLDER, "preprocess=native", "debug=fast", "run=good")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "outputs/folder/good/checkpoints/best.ckpt").exists()


def test_every_fault_is_reported_at_once(folder: Path, segkit_in: Cli, tmp_path: Path) -> None:
    whole = (folder / "images" / "3.png").read_bytes()
    (folder / "images" / "3.png").write_bytes(whole[: len(whole) // 2])
    cv2.imwrite(str(folder / "masks" / "4.png"), np.zeros((30, 53), np.uint8))
    seven = np.zeros((37, 53), np.uint8)
    seven[5:9, 5:9] = 7
    cv2.imwrite(str(folder / "masks" / "5.png"), seven)
    (folder / "masks" / "6.png").unlink()
    (folder / "images" / "7.jpg").write_bytes(whole)
    said = refused(segkit_in, tmp_path, "data.labels={0: background, 255: head}")
    for words in ("3.png", "truncated", "4.png", "30 x 53", "5.png", "7: NAME", "6.png", "7.jpg"):
        assert words in said


def test_a_value_without_a_name_gives_the_line_to_type(folder: Path, segkit_in: Cli, tmp_path: Path) -> None:
    mask = np.zeros((37, 53), np.uint8)
    mask[3:9, 3:9] = 7
    cv2.imwrite(str(folder / "masks" / "5.png"), mask)
    assert "data.labels='{0: background, 7: NAME, 255: NAME}'" in refused(segkit_in, tmp_path)


def test_an_empty_folder(segkit_in: Cli, tmp_path: Path) -> None:
    (tmp_path / "set/images").mkdir(parents=True)
    (tmp_path / "set/masks").mkdir()
    assert "images" in refused(segkit_in, tmp_path)


def test_a_folder_that_is_not_there(segkit_in: Cli, tmp_path: Path) -> None:
    assert "set" in refused(segkit_in, tmp_path)


def test_the_same_image_on_both_sides_of_the_split(folder: Path, segkit_in: Cli, tmp_path: Path) -> None:
    for i in range(2, 11):
        (folder / "images" / f"{i}.png").write_bytes((folder / "images" / "1.png").read_bytes())
    assert "data.exclude=" in refused(segkit_in, tmp_path)


def test_typos_are_reported_before_torch_is_imported(segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", "modle=unet", "trainer.max_epochs=abc")
    assert done.returncode == 2
    assert "did you mean model?" in done.stderr
    assert "trainer.max_epochs   needs a whole number, got 'abc'" in done.stderr
