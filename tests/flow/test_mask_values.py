"""Masks of unusual values through the commands: audited, trained on, predicted, evaluated, and back as they were."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest

from tests.conftest import SMALL, Cli

OWN = [key for key in SMALL if not key.startswith(("data", "name", "preprocess"))]


def ok(segkit_in: Cli, *args: str) -> str:
    done = segkit_in(*args)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def volumes(root: Path, value: Callable[[np.ndarray], np.ndarray]) -> None:
    """Six NIfTI volumes of 12 slices with a ball, whose mask is `value` of where it is."""
    z, y, x = np.indices((12, 32, 32))
    for i in range(6):
        ball = (z - 6) ** 2 * 4 + (y - 14 - i % 3) ** 2 + (x - 16) ** 2 < 80
        image = (200 * ball + np.random.default_rng(i).normal(100, 20, ball.shape)).astype(np.float32)
        for folder, voxels in (("images", image), ("masks", value(ball))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels.transpose(2, 1, 0), np.eye(4)), root / folder / f"v{i}.nii.gz")  # type: ignore[no-untyped-call]


def with_border(ball: np.ndarray) -> np.ndarray:
    mask = ball.astype(np.int16)
    mask[:2] = -1
    return mask


@pytest.mark.slow
def test_a_negative_value_is_ignored_from_audit_to_evaluation(segkit_in: Cli, tmp_path: Path) -> None:
    volumes(tmp_path / "set", with_border)
    data = ("data=folder", "data.root=set", "data.dims=3", "data.labels={-1: ignore, 0: background, 1: organ}")
    ok(segkit_in, "audit", *data)
    ok(segkit_in, "train", *OWN, *data, "preprocess=volume", "preprocess.size=[12,32,32]", "data.batch_size=2", "name=x", "run=a")
    ok(segkit_in, "predict", "ckpt=outputs/x/a", "input=set/images", "output=pred")
    written = np.asarray(nib.load(tmp_path / "pred/v0.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert set(np.unique(written)) <= {0, 1}
    ok(segkit_in, "evaluate", "ckpt=outputs/x/a", "data.root=set", "output=network")
    ok(segkit_in, "evaluate", "masks=set/masks", *data, "output=same")
    with (tmp_path / "same/cases.csv").open() as file:
        assert {float(row["dice"]) for row in csv.DictReader(file)} == {1.0}


@pytest.mark.slow
def test_jpeg_masks_of_half_the_size_train_and_evaluate(segkit_in: Cli, tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    for i in range(8):
        inside = (y - 30 - i % 3) ** 2 + (x - 32) ** 2 < 300
        image = (40 + 120 * inside + np.random.default_rng(i).normal(0, 8, inside.shape)).clip(0, 255).astype(np.uint8)
        for folder, name, pixels in (("images", f"{i}.png", image), ("masks", f"{i}.jpg", inside[::2, ::2].astype(np.uint8) * 255)):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "set" / folder / name), pixels)
    data = ("data=folder", "data.root=set", "data.source.threshold=128", "data.source.resize_masks=true")
    ok(segkit_in, "train", *OWN, *data, "preprocess.size=[64,64]", "data.batch_size=4", "name=x", "run=a")
    ok(segkit_in, "predict", "ckpt=outputs/x/a", "input=set/images", "output=pred")
    written = cv2.imread(str(tmp_path / "pred/0.png"), cv2.IMREAD_UNCHANGED)
    assert written.shape == (64, 64)
    assert set(np.unique(written)) <= {0, 255}
    ok(segkit_in, "evaluate", "masks=pred", *data, "output=scored")
    ok(segkit_in, "evaluate", "ckpt=outputs/x/a", "data.root=set", "output=network")


@pytest.mark.parametrize("value", [lambda ball: np.where(ball, 0.9, np.nan), lambda ball: np.where(ball, 0.9, 0.1)])
def test_probabilities_and_nan_become_one_class(value: Callable[[np.ndarray], np.ndarray], segkit_in: Cli, tmp_path: Path) -> None:
    volumes(tmp_path / "set", value)
    said = ok(segkit_in, "audit", "data=folder", "data.root=set", "data.source.threshold=0.5")  # slices
    assert "0: background, 255: foreground" in said


@pytest.mark.slow
def test_a_hundred_classes_train_predict_and_evaluate(segkit_in: Cli, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(4):
        mask = np.kron(np.roll(np.arange(121), i).reshape(11, 11) % 101, np.ones((6, 6))).astype(np.uint8)
        for folder, pixels in (("images", (2 * mask + random.integers(0, 20, mask.shape)).astype(np.uint8)), ("masks", mask)):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "set" / folder / f"{i}.png"), pixels)
    names = ", ".join(f"{k}: c{k}" for k in range(1, 101))
    data = ("data=folder", "data.root=set", f"data.labels={{0: background, {names}}}")
    assert "not one pixel" not in ok(segkit_in, "audit", *data, "output=report")
    once = ("trainer.max_epochs=1", "preprocess.size=[64,64]", "data.batch_size=2", "name=x", "run=a")
    ok(segkit_in, "train", *(key for key in OWN if "max_epochs" not in key), *data, *once)
    ok(segkit_in, "predict", "ckpt=outputs/x/a", "input=set/images", "output=pred", "overlays=true")
    written = cv2.imread(str(tmp_path / "pred/0.png"), cv2.IMREAD_UNCHANGED)
    assert (written.dtype, written.shape, written.max() <= 100) == (np.uint8, (66, 66), True)
    ok(segkit_in, "evaluate", "masks=set/masks", *data, "output=same")
    with (tmp_path / "same/cases.csv").open() as file:
        assert {row["dice"] for row in csv.DictReader(file) if row["dice"]} == {"1.0"}
