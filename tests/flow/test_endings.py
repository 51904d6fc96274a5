"""How a training ends that does not end well: numbers that are not finite, time that is over before the first validation."""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from segkit.models import checkpoint
from tests.conftest import PLAIN, SMALL, Cli

NET = '''
from pathlib import Path

import torch


class Net(torch.nn.Module):
    """Gives NaN in the fourth batch that it is trained on, where there is a file `nan`; needs too much memory, where one `large`,
    and in every validation, where one `large_val`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv, self.norm, self.n = torch.nn.Conv2d(in_channels, 4, 3, padding=1), torch.nn.BatchNorm2d(4), 0
        self.head = torch.nn.Conv2d(4, out_channels, 1)

    def forward(self, x):
        if torch.is_grad_enabled():
            self.n += 1
            x = x * float("nan") if self.n == 4 and Path("nan").exists() else x
            x = x + torch.empty(10**16).sum() if self.n == 4 and Path("large").exists() else x
        elif not self.training and Path("large_val").exists():
            x = x + torch.empty(10**16).sum()
        return self.head(self.norm(self.conv(x)).relu())
'''
OWN = (*(key for key in SMALL if not key.startswith("model.")), "model=own", "allow_targets=[ownnet]", "trainer.max_epochs=3")


@pytest.fixture
def fourth_batch(tmp_path: Path) -> Path:
    """A working folder with a network whose fourth batch is NaN. An epoch has three."""
    (tmp_path / "ownnet.py").write_text(NET)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/own.yaml").write_text("_target_: ownnet.Net\n")
    (tmp_path / "nan").touch()
    return tmp_path


def status(run: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((run / "status.json").read_text())
    return content


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def write_images(root: Path, filled: Iterable[int]) -> None:
    """Six images, whose masks show a bright rectangle where they are `filled`."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    random = np.random.default_rng(0)
    for i in range(6):  # PNG: no pixel size, so no distance in millimeters
        mask = np.zeros((48, 64), np.uint8)
        mask[10 : 20 + i, 10:40] = i in filled
        cv2.imwrite(str(root / f"images/{i}.png"), random.integers(0, 90, mask.shape, dtype=np.uint8) + 80 * mask)
        cv2.imwrite(str(root / f"masks/{i}.png"), mask)


def typed(line: str) -> list[str]:
    return shlex.split(line.partition("segkit ")[2])


@pytest.mark.parametrize(("where", "fix"), [("large", "data.batch_size=2"), ("large_val", "inference.window='[24,32]'")])
def test_out_of_memory_is_one_line_that_names_what_to_make_smaller(where: str, fix: str, segkit_in: Cli, fourth_batch: Path) -> None:
    (fourth_batch / "nan").rename(fourth_batch / where)
    done = segkit_in("train", *OWN, "run=r")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "out of memory" in line
    assert fix in line
    assert status(fourth_batch / "outputs/small/r")["state"] == "failed"


def test_a_rate_that_is_far_too_high_stops_at_the_first_loss_that_is_nan(segkit_in: Cli, tmp_path: Path) -> None:
    keys = ("optimizer.lr=1e15", "trainer.gradient_clip_val=null", "trainer.precision=32", "run=r")
    done = segkit_in("train", *SMALL, *keys)
    assert done.returncode == 1
    headline, again, _ = done.stderr.splitlines()
    for words in ("loss nan", "epoch 0, batch 1 (step 2)", "learning rate", "cases 0", "no checkpoint yet"):
        assert words in headline
    assert "optimizer.lr=1e+14" in again
    assert "trainer.gradient_clip_val=1" in again
    assert status(tmp_path / "outputs/small/r")["state"] == "failed"


def test_a_validation_that_is_nan_names_the_case_where_its_curves_are_drawn_as_well(segkit_in: Cli, tmp_path: Path) -> None:
    """debug=fast, with curves: one step that spoils the weights, and no further one that would find it out."""
    keys = ("optimizer.lr=1e15", "trainer.gradient_clip_val=null", "trainer.precision=32", "debug=fast")
    done = segkit_in("train", *PLAIN, *keys, "report=false", "callbacks.pictures=null", "run=r")
    assert done.returncode == 1
    assert "not finite in the validation of epoch 0" in done.stderr
    assert "Traceback" not in done.stderr
    skipped = segkit_in("train", *PLAIN, *keys, "report=false", "trainer.on_nonfinite=skip", "run=s")
    assert "Traceback" not in skipped.stderr
    assert "warning    probabilities of case" in skipped.stdout


@pytest.mark.slow
def test_one_bad_batch_names_the_last_good_checkpoint_and_both_lines_to_type_work(fourth_batch: Path, segkit_in: Cli) -> None:
    done = segkit_in("train", *OWN, "run=r")
    run = fourth_batch / "outputs/small/r"
    headline, again, skip = done.stderr.splitlines()
    assert done.returncode == 1
    assert "loss nan: not finite in epoch 1, batch 0 (step 4)" in headline
    assert "outputs/small/r/checkpoints/last.ckpt (epoch 0, step 3)" in headline
    assert status(run)["state"] == "failed"
    assert len(rows(run)) == 1
    done = segkit_in(*typed(skip))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("skipped ") == 1
    assert status(run)["state"] == "finished"
    assert len(rows(run)) == 3
    assert all(math.isfinite(float(row["val/loss"])) for row in rows(run)), "the statistics of batch norm are restored"
    (fourth_batch / "nan").unlink()
    assert segkit_in(*typed(again)).returncode == 0


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_spoilt(fourth_batch: Path, segkit_in: Cli) -> None:
    (fourth_batch / "ownnet.py").write_text(NET.replace('x * float("nan")', "x + 0 * (x + self.head.bias.sum() * 0).sqrt()"))
    done = segkit_in("train", *OWN, "report=true", "trainer.gradient_clip_val=null", "preprocess.normalize=unit", "run=r")
    assert done.returncode == 1
    assert "gradient nan: not finite in epoch 1, batch 0 (step 4)" in done.stderr
    assert (fourth_batch / "outputs/small/r/curves.png").exists()


@pytest.mark.slow
def test_time_that_is_over_before_the_first_validation_ends_with_one_and_resume_has_new_time(segkit_in: Cli, tmp_path: Path) -> None:
    keys = ("trainer.max_epochs=1000", "trainer.check_val_every_n_epoch=500", "trainer.max_minutes=0.0001", "run=r")
    done = segkit_in("train", *SMALL, *keys)
    run = tmp_path / "outputs/small/r"
    assert done.returncode == 0, done.stderr
    assert status(run)["state"] == "finished"
    assert (run / "cases.csv").exists()
    assert [row["epoch"] for row in rows(run)] == ["0"]
    assert rows(run)[0]["val/dice"]
    (line,) = [line for line in done.stdout.splitlines() if "resume=" in line]
    assert segkit_in(*typed(line)).returncode == 0
    assert [row["epoch"] for row in rows(run)] == ["0", "1"]
    assert segkit_in(*typed(line), "trainer.max_minutes=0.02").returncode == 0
    assert len(rows(run)) > 2
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_minutes"] == 0.02


def test_a_training_that_only_time_ends_can_be_trained_on(segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *SMALL, "scheduler=constant", "trainer.max_epochs=-1", "trainer.max_minutes=0.0001", "run=r")
    assert done.returncode == 0, done.stderr
    assert status(tmp_path / "outputs/small/r")["ended_by"] == "trainer.max_minutes"
    (line,) = [line for line in done.stdout.splitlines() if "resume=" in line]
    assert line.startswith("time is over after 1 epochs")


@pytest.mark.parametrize(
    "keys",
    [
        ("trainer.check_val_every_n_epoch=5",),
        pytest.param(("trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"), marks=pytest.mark.slow),
    ],
)
def test_the_last_epoch_is_validated(keys: tuple[str, ...], segkit_in: Cli, tmp_path: Path) -> None:
    assert segkit_in("train", *SMALL, *keys, "run=r").returncode == 0
    assert rows(tmp_path / "outputs/small/r")[-1]["val/dice"]


def test_a_score_without_a_value_is_never_the_best(segkit_in: Cli, tmp_path: Path) -> None:
    write_images(tmp_path / "data", range(6))
    data = ("data=folder", f"data.root={tmp_path / 'data'}", *(key for key in SMALL if not key.startswith("data")))
    done = segkit_in("train", *data, "metric=surface", "metric.monitor=hd95_mm", "metric.mode=min", "run=r")
    assert done.returncode == 1
    assert "metric.monitor=hd95_mm had no value in any validation (2)" in done.stderr
    run = tmp_path / "outputs/small/r"
    assert status(run)["state"] == "failed"
    assert not (run / "checkpoints/best.ckpt").exists()


def test_probabilities_that_are_nan_name_the_case(trained: Path, segkit_in: Cli, tmp_path: Path) -> None:
    content = checkpoint.read(trained / "checkpoints/best.ckpt")
    weights = content["state_dict"]
    for kernel in (tensor for name, tensor in weights.items() if ".network." in name and tensor.ndim == 4):
        kernel.copy_(3e38 * kernel.sign())  # finite, as NaN is refused when it is read, but their sums are infinite, and then NaN
    checkpoint.save(content, tmp_path / "nan.ckpt")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64), np.uint8))
    done = segkit_in("predict", "ckpt=nan.ckpt", "input=a.png", "output=masks")
    assert done.returncode == 1
    assert "a.png   the probabilities are not finite: the weights of the checkpoint" in done.stdout
    assert not list((tmp_path / "masks").glob("*.png"))
    done = segkit_in("evaluate", "ckpt=nan.ckpt", "output=tables")
    assert done.returncode == 2
    assert "the probabilities are not finite" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_best_epoch_is_chosen_by_the_cases_that_hold_the_structure(segkit_in: Cli, tmp_path: Path) -> None:
    write_images(tmp_path / "data", [0, 1, 3, 5])
    (tmp_path / "split.json").write_text(json.dumps({"train": ["0", "1", "2"], "val": ["3", "4", "5"], "test": []}))
    data = ("data=folder", f"data.root={tmp_path / 'data'}", *(key for key in SMALL if not key.startswith("data")))
    keys = ("data.labels={0: background, 1: box}", "split=file", "split.path=split.json", "trainer.max_epochs=3", "optimizer.lr=1e-2")
    done = segkit_in("train", *data, *keys, "callbacks.early_stopping.patience=9", "run=r")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs/small/r"
    scores = [float(row["val/dice_present"]) for row in rows(run)]
    metadata = checkpoint.read_metadata(run / "checkpoints/best.ckpt", checkpoint.read(run / "checkpoints/best.ckpt"))
    assert metadata.score == {"val/dice_present": max(scores), "epoch": scores.index(max(scores))}
    means = json.loads((run / "summary.json").read_text())["results"]["val"]["overall"]
    assert means["dice_present"]["mean"] == pytest.approx(max(scores), abs=1e-6)
    assert (means["dice_present"]["n"], means["dice_present"]["missing"]) == (2, 1)
    assert "dice_present" in done.stdout


def test_where_every_case_holds_the_structure_nothing_is_added(trained: Path) -> None:
    assert "val/dice_present" not in rows(trained)[0]
    assert "dice_present" not in (trained / "summary.json").read_text()


@pytest.mark.slow
def test_a_training_without_validation_is_finished(segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *SMALL, "trainer.limit_val_batches=0", "run=unseen")
    assert done.returncode == 0, done.stderr
    assert "the training ended without a validation" in done.stdout
    assert next(tmp_path.glob("outputs/small/unseen/cases.csv"))
