"""An exported file through the command line: the masks and scores of its checkpoint, on real images, and without segkit."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest

import segkit
from tests.conftest import REPOSITORY, Cli

GUIDE = REPOSITORY / "segkit" / "cli" / "guides" / "inference.md"


def run(segkit_in: Cli, *words: str) -> str:
    done = segkit_in(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_script_of_the_guide_makes_the_same_mask_without_segkit(trained: Path, segkit_in: Cli, tmp_path: Path) -> None:
    """Noise stands in for the validation images of a checkpoint that has been shared."""
    run(segkit_in, "share", f"ckpt={trained}", "output=shared")
    said = run(segkit_in, "export", "ckpt=shared", "output=model", "n=2")
    assert "images     2 images of noise, for the validation images are not here" in said
    (script,) = re.findall(r"```python\n(# masks.py.*?)```", GUIDE.read_text(), re.S)
    assert len(script.splitlines()) <= 24
    (tmp_path / "masks.py").write_text(script)
    image = next((trained.parents[2] / "outputs/.cache").glob("phantom-*/**/images/*.png"), None) or next(
        (trained.parents[2] / "outputs/.cache").glob("phantom-*/**/*.png")
    )
    done = subprocess.run(
        [sys.executable, "masks.py", "model/model.onnx", str(image), "mask.png"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = segkit.load(trained, precision="32").predict(image).mask, cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED)
    assert ours.shape == theirs.shape
    assert 0.01 < ours.mean() < 0.99
    assert np.array_equal(ours, theirs)


@pytest.mark.slow
def test_evaluate_gives_the_scores_of_the_checkpoint(trained: Path, segkit_in: Cli, tmp_path: Path) -> None:
    run(segkit_in, "export", f"ckpt={trained}", "output=model")
    run(segkit_in, "evaluate", f"ckpt={trained}", "hardware.precision=32", "output=torch")
    run(segkit_in, "evaluate", "ckpt=model/model.onnx", "output=onnx")
    ours, theirs = ([*csv.DictReader((tmp_path / name / "cases.csv").open())] for name in ("torch", "onnx"))
    assert len(ours) == len(theirs) == 3
    assert [row["dice"] for row in ours] == [row["dice"] for row in theirs]


REAL = {
    "hc18": ("experiment=fetal_head", "preprocess.size=[96,144]", "model.widths=[4,8]"),
    "hippocampus": (
        *("data=decathlon", "data.dims=3", "data.labels={0: background, 1: anterior, 2: posterior}", "preprocess=volume"),
        *("model=unet_3d", "model.widths=[4,8]", "sampling=volume_patches", "sampling.patch=[16,24,24]"),
    ),
}
INPUTS = {"hc18": "training_set/00?_HC.png", "hippocampus": "imagesTr/hippocampus_00*.nii.gz"}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_masks_of_real_images_are_those_of_the_checkpoint(name: str, real_data: Path, segkit_in: Cli, tmp_path: Path) -> None:
    """With windows and test-time augmentation where there are volumes."""
    common = (f"data.root={real_data / name}", "trainer.max_epochs=1", "trainer=cpu", "trainer.limit_train_batches=4", "run=one", "name=x")
    run(segkit_in, "train", *REAL[name], *common)
    said = run(segkit_in, "export", "ckpt=outputs/x/one", "output=model", "n=4")
    assert "images     4 validation images" in said
    images = [f"input={real_data / name / INPUTS[name]}", f"inference.tta={'horizontal' if name == 'hippocampus' else 'none'}"]
    run(segkit_in, "predict", "ckpt=outputs/x/one", *images, "output=torch", "hardware.precision=32", "probabilities=true")
    run(segkit_in, "predict", "ckpt=model/model.onnx", *images, "output=onnx", "probabilities=true")
    masks = sorted(
        path.relative_to(tmp_path / "torch") for path in (tmp_path / "torch").rglob("*") if path.name.endswith((".png", ".nii.gz"))
    )
    assert len(masks) == 2
    read = [[array_of(tmp_path / side / mask) for mask in masks] for side in ("torch", "onnx")]
    equal = [float((ours == theirs).mean()) for ours, theirs in zip(*read, strict=True)]
    assert min(equal) >= 0.999
    assert any(ours.any() for ours in read[0])


def array_of(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    return np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]
