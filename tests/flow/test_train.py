"""One experiment from end to end: the run folder, evaluation, prediction, and the same from Python."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import segkit
from segkit.config.schema import Train
from segkit.data.labels import LabelMap
from segkit.training.checks import mirrored
from tests.conftest import PLAIN, SMALL, Cli, run_segkit, run_segkit_process


def scores(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_run_folder_is_complete(trained: Path) -> None:
    files = {path.name for path in trained.iterdir()}
    wanted = {"config.yaml", "overrides.yaml", "split.json", "provenance.json", "status.json", "checkpoints"}
    assert files >= wanted | {"metrics.csv", "cases.csv", "curves.png", "samples.png", "summary.json"}
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert json.loads((trained / "status.json").read_text())["state"] == "finished"
    assert len(scores(trained / "metrics.csv")) == 2
    assert set(yaml.safe_load((trained / "overrides.yaml").read_text())) == {*PLAIN, "run=first"}
    provenance = json.loads((trained / "provenance.json").read_text())
    assert provenance["data"]["is_phantom"]
    assert len(provenance["data"]["fingerprint"]) == 64
    assert provenance["sessions"][0]["packages"]["torch"]


def test_tensorboard_has_scalars_pictures_and_hparams(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = [EventAccumulator(str(path)).Reload() for path in trained.glob("events*")]
    tags = {tag for e in events for tag in e.Tags()["scalars"]}
    assert {"train/loss", "val/loss", "val/dice", "train/lr", "val_best/dice"} <= tags
    assert any("validation" in e.Tags()["images"] for e in events)
    assert any("_hparams_/session_start_info" in e.summary_metadata for e in events)


@pytest.mark.parametrize("start", [run_segkit, pytest.param(run_segkit_process, marks=pytest.mark.slow)])
def test_the_same_command_gives_the_same_result(start: Cli, trained: Path, tmp_path: Path) -> None:
    done = start(tmp_path, "train", *SMALL, "run=again")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/small/again/cases.csv").read_bytes() == (trained / "cases.csv").read_bytes()


def test_evaluate_repeats_the_numbers_of_the_training(trained: Path) -> None:
    done = run_segkit(trained.parents[2], "evaluate", f"ckpt={trained}")
    assert done.returncode == 0, done.stderr
    assert (trained / "evaluation" / "val" / "cases.csv").read_bytes() == (trained / "cases.csv").read_bytes()
    assert "have changed" not in done.stdout


def test_evaluate_says_that_the_data_have_changed(trained: Path, tmp_path: Path) -> None:
    (root,) = (trained.parents[1] / ".cache").glob("phantom-*/")
    shutil.copytree(root, tmp_path / "copy")
    evaluate = ("evaluate", f"ckpt={trained}", f"data.root={tmp_path / 'copy'}", "output=e")
    assert "have changed" not in run_segkit(tmp_path, *evaluate).stdout
    mask = next((tmp_path / "copy/masks").iterdir())
    cv2.imwrite(str(mask), 255 - cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)[:, ::-1])  # type: ignore[operator, call-overload, index]
    assert "the data have changed since the training" in run_segkit(tmp_path, *evaluate).stdout


@pytest.mark.slow
def test_evaluate_finds_the_data_from_another_folder_and_keeps_data_sets_apart(tmp_path: Path) -> None:
    made = run_segkit(tmp_path, "phantom", "data=phantom", "output=a", "n=12")
    assert made.returncode == 0, made.stderr
    assert run_segkit(tmp_path, "phantom", "data=phantom", "output=b", "n=6", "seed=5").returncode == 0
    done = run_segkit(tmp_path, "train", *SMALL, "data.root=a", "debug=fast", "trainer.limit_test_batches=null", "run=r")
    assert done.returncode == 0, done.stdout + done.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run_segkit(elsewhere, "evaluate", "ckpt=../outputs/small/r")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "synthetic" in done.stdout
    run = tmp_path / "outputs/small/r"
    assert (run / "evaluation/val/cases.csv").read_bytes() == (run / "cases.csv").read_bytes()
    done = run_segkit(elsewhere, "evaluate", "ckpt=../outputs/small/r", "data=folder", "data.root=../b")
    assert done.returncode == 0, done.stdout + done.stderr
    (other,) = (run / "evaluation").glob("folder-*")
    assert len({row["case"] for row in scores(other / "cases.csv")}) == 6
    (tmp_path / "a").rename(tmp_path / "moved")
    assert "moved" not in run_segkit(tmp_path, "evaluate", "ckpt=outputs/small/r").stdout
    done = run_segkit(tmp_path, "evaluate", "ckpt=outputs/small/r", "data.root=moved", "subset=all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["subset"] for row in scores(run / "evaluation/all/cases.csv")} == {"train", "val"}


def test_a_monitor_that_is_not_measured_is_refused_before_training(segkit_in: Cli) -> None:
    done = segkit_in("train", *SMALL, "metric.monitor=dcie")
    assert done.returncode == 2
    assert "did you mean dice?" in done.stderr


def test_predict_returns_masks_on_the_original_grid_that_score_the_same(trained: Path, tmp_path: Path) -> None:
    """From the files alone: the Dice of the written masks is the Dice of the table."""
    (root,) = (trained.parents[1] / ".cache").glob("phantom-*/")
    done = run_segkit(tmp_path, "predict", f"ckpt={trained}/checkpoints/best.ckpt", f"input={root}/images", "output=masks", "overlays=true")
    assert done.returncode == 0, done.stderr
    for row in scores(trained / "cases.csv"):
        truth = cv2.imread(str(root / "masks" / f"{row['case']}.png"), 0)
        mask = cv2.imread(str(tmp_path / "masks" / f"{row['case']}.png"), 0)
        assert truth is not None
        assert mask is not None
        assert mask.shape == truth.shape
        assert set(np.unique(mask)) <= {0, 255}
        dice = 2 * ((mask > 0) & (truth > 0)).sum() / max(1, (mask > 0).sum() + (truth > 0).sum())
        assert dice == pytest.approx(float(row["dice"]), abs=0.005)
    assert (tmp_path / "masks" / "sizes.csv").exists()
    again = run_segkit(tmp_path, "predict", f"ckpt={trained}", f"input={root}/images", "output=masks")
    assert "0 masks written" in again.stdout


def test_predict_continues_after_a_bad_file_and_lists_it(trained: Path, tmp_path: Path) -> None:
    good = np.zeros((37, 53), np.uint8)
    cv2.imwrite(str(tmp_path / "good.png"), good)
    cv2.imwrite(str(tmp_path / "colour.png"), np.dstack([good, good + 1, good + 2]))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxxxx")
    done = run_segkit(tmp_path, "predict", f"ckpt={trained}", f"input={tmp_path}", "output=out")
    assert done.returncode == 1
    assert "broken.png" in done.stdout
    assert "is a color image, but this checkpoint takes gray ones" in done.stdout
    written = cv2.imread(str(tmp_path / "out" / "good.png"), 0)
    assert written is not None
    assert written.shape == (37, 53)


def test_python_gives_what_the_command_line_gives(trained: Path) -> None:
    predictor = segkit.load(trained / "checkpoints" / "best.ckpt", accelerator="cpu")
    image = np.random.default_rng(0).integers(0, 255, (100, 150), np.uint8)
    prediction = predictor.predict(image)
    assert prediction.mask.shape == (100, 150)
    assert prediction.probs.shape == (1, 100, 150)
    assert ((prediction.probs[0] >= 0.5) == (prediction.mask == 1)).all()
    assert (predictor.predict(np.dstack([image] * 3)).mask == prediction.mask).all(), "three equal channels are gray"
    with pytest.raises(segkit.SegkitError, match="is a color image, but this checkpoint takes gray ones"):
        predictor.predict(np.dstack([image, image, 255 - image]))


def test_train_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = segkit.train(*SMALL, "debug=fast", "run=python")
    assert result.ckpt.exists()
    assert result.summary.line("dice").n == 2, "of three: trainer.limit_test_batches"


def test_an_image_of_6000_x_6000_comes_back_at_its_size(trained: Path) -> None:
    predictor = segkit.load(trained, accelerator="cpu")
    assert predictor.predict(np.zeros((6000, 6000), np.uint8)).mask.shape == (6000, 6000)


def test_init_from_starts_with_the_weights_of_another_run(trained: Path, segkit_in: Cli) -> None:
    done = segkit_in("train", *SMALL, "debug=fast", f"init_from={trained}")
    assert done.returncode == 0, done.stderr
    assert "weights from" in done.stdout


@pytest.mark.slow
def test_hydras_own_multirun_gives_a_folder_to_each_job(segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", "-m", *SMALL, "debug=fast", "seed=0,1", "hydra/sweeper=basic")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("outputs/multirun/*/*/cases.csv"))) == 2


def test_early_stopping_stops(segkit_in: Cli, tmp_path: Path) -> None:
    options = ("trainer.max_epochs=40", "optimizer.lr=1e-9", "callbacks.early_stopping.patience=2", "run=early")
    done = segkit_in("train", *SMALL, *options)
    assert done.returncode == 0, done.stderr
    assert len(scores(tmp_path / "outputs/small/early/metrics.csv")) < 10


@pytest.mark.slow
def test_a_folder_with_three_classes_and_its_own_network_needs_no_change_in_segkit(tmp_path: Path) -> None:
    """A data set from a folder of images, and a network from the user's own module."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for i in range(1, 13):
        mask = np.zeros((40, 56), np.uint8)
        mask[5:20, 5:20] = 7
        mask[22:38, 30:50] = 9
        cv2.imwrite(str(tmp_path / "set/images" / f"{i}.png"), mask * 20 + rng.integers(0, 30, mask.shape, np.uint8))
        cv2.imwrite(str(tmp_path / "set/masks" / f"{i}.png"), mask)
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n\n\nclass Tiny(nn.Module):\n"
        "    def __init__(self, in_channels: int, out_channels: int, width: int = 8) -> None:\n"
        "        super().__init__()\n"
        "        self.stride = 1\n"
        "        self.layers = nn.Sequential(nn.Conv2d(in_channels, width, 5, padding=2), nn.ReLU(), nn.Conv2d(width, out_channels, 1))\n\n"
        "    def forward(self, x):\n        return self.layers(x)\n"
    )
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/tiny.yaml").write_text("_target_: mynets.Tiny\nwidth: 12\n")
    labels = "data.labels={0: background, 7: square, 9: block}"
    args = ("data=folder", f"data.root={tmp_path}/set", labels, "model=tiny", "allow_targets=[mynets]", "preprocess=native", "run=own")
    done = run_segkit(
        tmp_path,
        "train",
        *args,
        "trainer.max_epochs=80",
        "trainer.check_val_every_n_epoch=20",
        "optimizer.lr=2e-2",
        "data.batch_size=2",
        "augment=none",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "outputs/folder/own"
    assert {row["class"] for row in scores(run / "cases.csv")} == {"square", "block"}
    assert np.mean([float(row["dice"]) for row in scores(run / "cases.csv")]) > 0.8
    refused = run_segkit(tmp_path, "predict", f"ckpt={run}", f"input={tmp_path}/set/images/1.png", "output=out")
    assert refused.returncode == 2
    assert "allow_targets='[mynets]'" in refused.stderr
    done = run_segkit(tmp_path, "predict", f"ckpt={run}", f"input={tmp_path}/set/images/1.png", "output=out", "allow_targets=[mynets]")
    assert done.returncode == 0, done.stderr
    mask = cv2.imread(str(tmp_path / "out/1.png"), 0)
    assert mask is not None
    assert set(np.unique(mask)) == {0, 7, 9}


def test_mirroring_structures_that_have_a_side_is_warned_of(segkit_in: Cli) -> None:
    labels = "data.labels={0: background, 255: left_head}"
    warned = segkit_in("train", labels, "debug=fast", "model=unet_light", "model.widths=[8,16]", "preprocess.size=[48,64]")
    assert "class left_head has a side" in warned.stdout
    assert "augment.transforms.flip=null" in warned.stdout
    cfg = segkit.compose("train", [labels, "augment.transforms.flip=null"])
    assert isinstance(cfg, Train)
    assert mirrored(cfg, LabelMap.of({0: "background", 255: "left_head"})) == []


def test_masks_of_two_checkpoints_never_share_a_folder(trained: Path, segkit_in: Cli, tmp_path: Path) -> None:
    image = next((trained.parents[1] / ".cache").rglob("images/*.png"))
    other = shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path / "other.ckpt")
    content = torch.load(other, weights_only=True)
    torch.save({**content, "global_step": 1}, other)
    assert segkit_in("predict", f"ckpt={trained}", f"input={image}", "output=masks").returncode == 0
    assert "1 there already" in segkit_in("predict", f"ckpt={trained}", f"input={image}", "output=masks").stdout
    refused = segkit_in("predict", "ckpt=other.ckpt", f"input={image}", "output=masks")
    assert refused.returncode != 0
    assert "holds masks of another checkpoint" in refused.stdout + refused.stderr
    assert segkit_in("predict", "ckpt=other.ckpt", f"input={image}", "output=masks", "overwrite=true").returncode == 0
