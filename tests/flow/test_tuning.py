"""`segkit tune`: five stages from one command, each with what the ones before have found."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml

from segkit.cli.tune_command import read
from tests.conftest import SMALL, Cli, run_segkit

TINY = (*(word for word in SMALL if "max_epochs" not in word), "data.phantom_n=10", "logger.tensorboard=false")
SHORT = ("overfit.trainer.max_epochs=3", "lr.optimizer.lr=1e-3,2e-2,1e30", "lr.trainer.max_epochs=2", "lr_wd.optimizer.lr=2e-2",
         "lr_wd.optimizer.weight_decay=0,0.1", "lr_wd.trainer.max_epochs=2", "final.trainer.max_epochs=2")  # fmt: skip
"""Eight trials. The third rate of `lr` makes the loss infinite."""


def trials(cwd: Path, name: str = "small") -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((cwd / "outputs" / name / "tuning" / "tuning.json").read_text())["trials"]
    return content


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where a whole tuning was run, and what it printed."""
    cwd = tmp_path_factory.mktemp("tuned")
    done = run_segkit(cwd, "tune", *TINY, *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd, done.stdout


def test_five_stages_are_run_in_turn(tuned: tuple[Path, str]) -> None:
    stages = [trial["stage"] for trial in trials(tuned[0])]
    assert stages == ["sanity", "overfit", "lr", "lr", "lr", "lr_wd", "lr_wd", "final"]


def test_the_best_values_are_handed_on(tuned: tuple[Path, str]) -> None:
    cwd, _ = tuned
    of_lr = [trial for trial in trials(cwd) if trial["stage"] == "lr" and trial["score"] is not None]
    best_lr = min(of_lr, key=lambda trial: trial["score"])["tried"]
    of_grid = [trial for trial in trials(cwd) if trial["stage"] == "lr_wd"]
    assert all(trial["tried"][:1] == best_lr for trial in of_grid)
    final = trials(cwd)[-1]
    assert final["tried"] == min(of_grid, key=lambda trial: trial["score"])["tried"]
    trained = yaml.safe_load((cwd / final["folder"] / "config.yaml").read_text())
    assert [f"optimizer.{key}={trained['optimizer'][key]}" for key in ("lr", "weight_decay")] == final["tried"]
    assert trained["trainer"]["max_epochs"] == 2
    assert (cwd / final["folder"] / "checkpoints" / "best.ckpt").is_file()


def test_the_stages_are_judged(tuned: tuple[Path, str]) -> None:
    cwd, printed = tuned
    verdicts = json.loads((cwd / "outputs/small/tuning/tuning.json").read_text())["verdicts"]
    assert "of a guess ln 2 = 0.693" in verdicts["sanity"]["text"]
    assert not verdicts["sanity"]["warning"]
    assert verdicts["overfit"]["warning"], "three steps are too few"
    assert "Dice on these images" in verdicts["overfit"]["text"]
    assert "WARNING: the training loss fell" in printed


def test_a_trial_that_diverges_is_listed_and_never_the_best(tuned: tuple[Path, str]) -> None:
    cwd, printed = tuned
    wild = trials(cwd)[4]
    assert wild["tried"] == ["optimizer.lr=1e+30"]
    assert (wild["state"], wild["score"]) == ("failed", None)
    assert "diverged" in wild["problem"]
    assert "1 of 3 trials failed" in printed


def test_the_picture_shows_all_stages(tuned: tuple[Path, str]) -> None:
    picture = cv2.imread(str(tuned[0] / "outputs/small/tuning/tuning.png"))
    assert picture is not None
    height, width, _ = picture.shape
    assert min(height, width) > 800
    for panel in range(5):
        part = picture[panel * height // 5 : (panel + 1) * height // 5]
        assert (part.max(axis=2) - part.min(axis=2) > 60).any(), "no coloured curve"


def test_again_trains_nothing_twice(tuned: tuple[Path, str]) -> None:
    cwd, _ = tuned
    written = {path: path.stat().st_mtime_ns for path in (cwd / "outputs").rglob("*.ckpt")}
    before = trials(cwd)
    done = run_segkit(cwd, "tune", *TINY, *SHORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is finished already") == 8
    assert {path: path.stat().st_mtime_ns for path in (cwd / "outputs").rglob("*.ckpt")} == written
    assert trials(cwd) == before


def test_another_config_is_another_trial_and_stages_can_be_chosen(tuned: tuple[Path, str], tmp_path: Path) -> None:
    """Without cross-entropy there is no value that a sane network begins with."""
    shutil.copytree(tuned[0] / "outputs", tmp_path / "outputs")
    done = run_segkit(tmp_path, "tune", *TINY, "stages=sanity", "loss=dice")
    assert done.returncode == 0, done.stderr
    assert [trial["stage"] for trial in trials(tmp_path)] == ["sanity"]
    assert "is finished already" not in done.stdout
    assert "it has no part ce" in done.stdout
    assert len(list((tmp_path / "outputs/small/tuning/sanity").iterdir())) == 2


def test_rates_typed_for_all_stages_are_where_the_tuning_begins() -> None:
    from segkit.cli.tune import next_words

    request = read(["experiment=gi_tract_sgd", "optimizer.lr=0.02", "stages=[final,sanity,lr]", "lr.seed=7"])
    assert request.stages == ("sanity", "lr", "final")
    assert request.jobs("sanity", request.start) == [["experiment=gi_tract_sgd", "stage=sanity"]]
    of_lr = request.jobs("lr", request.start)
    assert {text for job in of_lr for text in job if "lr=" in text} == {f"optimizer.lr={rate}" for rate in (0.006, 0.02, 0.06, 0.2)}
    assert all("seed=7" in job for job in of_lr)
    assert request.jobs("final", {"optimizer.lr": "0.06"}) == [["experiment=gi_tract_sgd", "optimizer.lr=0.06", "stage=final"]]
    assert next_words(request, {"optimizer.lr": "0.06"}) == ["experiment=gi_tract_sgd", "stage=final", "optimizer.lr=0.06"]


def test_a_trial_that_breaks_off_is_listed_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The higher the rate the lower the loss, but the highest one breaks off."""
    from segkit.cli import tune as stages

    def train(config: Any, overrides: tuple[str, ...]) -> None:
        if config.optimizer["lr"] == 10:
            raise RuntimeError("out of memory\nand more")
        folder = tmp_path / "outputs" / "small" / config.run
        folder.mkdir(parents=True)
        loss = 1 - math.log2(1 + config.optimizer["lr"]) / 10
        (folder / "metrics.csv").write_text(f"epoch,seconds,train/loss,val/loss\n0,1,1.0,{loss}\n1,1,0.9,{loss + 0.1}\n")
        (folder / "status.json").write_text('{"state": "finished"}')

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segkit.cli.tune_trials.run.train", train)
    assert stages.tune(read(["name=small", "stages=[lr,final]", "lr.optimizer.lr=0.1,1,10"])) == 0
    assert [trial["problem"] for trial in trials(tmp_path)] == ["", "", "out of memory", ""]
    assert [trial["state"] for trial in trials(tmp_path)] == ["finished", "finished", "failed", "finished"]
    assert trials(tmp_path)[-1]["tried"] == ["optimizer.lr=1"]
    assert trials(tmp_path)[-1]["score"] == pytest.approx(0.9)
    assert stages.tune(read(["name=small", "stages=[lr]", "lr.optimizer.lr=10"])) == 1


def test_an_interrupted_tuning_goes_on_where_it_was(tmp_path: Path) -> None:
    words = (*TINY, "stages=[sanity,overfit]", "overfit.trainer.max_epochs=40", "overfit.data.phantom_n=12")
    process = subprocess.Popen([sys.executable, "-m", "segkit", "tune", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/small/tuning/overfit/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "go on with   segkit tune " in said
    assert [trial["state"] for trial in trials(tmp_path)] == ["finished", "interrupted"]
    done = run_segkit(tmp_path, "tune", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is finished already") == 1
    assert "resuming outputs/small/tuning/overfit/" in done.stdout
    assert trials(tmp_path)[1]["epochs"] == 40


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("stages=[lrr]",), "there is no stage lrr; did you mean lr?"),
        (("stages=[]",), "names no stage"),
        (("-m", "optimizer.lr=0.1,0.2"), "leave out -m"),
        (("stage=lr",), "is what segkit tune sets"),
        (("run=x", "resume=auto"), "2 problems to fix"),
        (("optimizer.lr=0.1,0.2",), "write  lr.optimizer.lr=0.1,0.2"),
        (("experiment=nerve,quickstart",), "tune one at a time"),
        (("stages=[lr]", "final.trainer.max_epochs=9"), "stage final is not run"),
        (("lr.name=x",), "is the same in all stages"),
        (("final.trainer.max_epoch=9",), "did you mean trainer.max_epochs?"),
        (("lr.optimizer.lr=0.1,fast",), "needs a number, got 'fast'"),
        (("data=folder", "data.root=nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_told_before_anything_starts(words: tuple[str, ...], told: str, segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("tune", *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.ckpt"))
