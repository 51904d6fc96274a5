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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml

from segkit.cli import tune_verdicts
from segkit.cli.tune import next_words, read
from segkit.training.run_folder import RunFolder
from tests.conftest import SMALL, run_segkit
from tests.runner import as_new_process, call_main

TINY = (*(word for word in SMALL if "max_epochs" not in word), "data.phantom_n=10", "logger.tensorboard=false")
SHORT = ("overfit.trainer.max_epochs=3", "lr.optimizer.lr=1e-3,2e-2,1e30", "lr.trainer.max_epochs=2", "lr_wd.optimizer.lr=2e-2",
         "lr_wd.optimizer.weight_decay=0,0.1", "lr_wd.trainer.max_epochs=2", "final.trainer.max_epochs=2")  # fmt: skip
"""Eight trials. The third rate of `lr` makes the loss infinite."""


Tune = Callable[..., tuple[int, str]]
"""Words -> exit code, and what was printed."""


def trials(cwd: Path, name: str = "small") -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((cwd / "outputs" / name / "tuning" / "tuning.json").read_text())["trials"]
    return content


def leave(run: RunFolder, losses: list[tuple[float, float]], ckpt: Path | None = None) -> None:
    """What the search and the verdicts read of a training."""
    rows = "".join(f"{i},1,{train},{train / 2},{val},0.5\n" for i, (train, val) in enumerate(losses))
    (run.path / "metrics.csv").write_text(f"epoch,seconds,train/loss,train/loss_ce,val/loss,val/dice\n{rows}")
    (run.path / "checkpoints").mkdir(exist_ok=True)
    if ckpt:
        shutil.copy(ckpt, run.best)
    run.write_status("finished")


@pytest.fixture
def tune(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Tune:
    """`segkit tune` with fakes in place of trainings, in forks of this process.

    The loss is smallest at a rate of 0.02 with the least weight decay, and infinite at 1e30.
    """

    def train(config: Any, overrides: list[str], run_dir: Path) -> None:
        rate, decay = config.optimizer["lr"], config.optimizer["weight_decay"]
        with Path("log").open("a") as log:
            log.write(f"{run_dir.name}\n")
        if rate == 10:
            raise RuntimeError("out of memory\nand more")
        loss = math.nan if rate > 1e20 else abs(math.log10(rate or 1e-5) - math.log10(0.02)) + decay + 0.1
        leave(RunFolder(run_dir), [(2 * math.log(2), loss + 0.1), (0.9 * loss, loss)], trained / "checkpoints/best.ckpt")

    monkeypatch.setattr("segkit.training.train.train", train)
    monkeypatch.setattr(tune_verdicts, "dice_of_the_first_batch", half)

    def run(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        with as_new_process(tmp_path, ["segkit", "tune", *words], {}):
            code = call_main(("tune", *words))
        return code, "".join(capfd.readouterr())

    return run


def half(cfg: Any, path: Path) -> float:
    return 0.5


@pytest.mark.slow
def test_five_stages_hand_their_best_values_on(tune: Tune, tmp_path: Path) -> None:
    code, printed = tune(*TINY, *SHORT)
    assert code == 0, printed
    tuned = trials(tmp_path)
    assert [trial["stage"] for trial in tuned] == ["sanity", "overfit", "lr", "lr", "lr", "lr_wd", "lr_wd", "final"]
    assert [trial["tried"] for trial in tuned[5:]] == [
        ["optimizer.lr=0.02", "optimizer.weight_decay=0"],
        ["optimizer.lr=0.02", "optimizer.weight_decay=0.1"],
        ["optimizer.lr=0.02", "optimizer.weight_decay=0"],
    ]
    wild = tuned[4]
    assert (wild["tried"], wild["state"], wild["score"]) == (["optimizer.lr=1e+30"], "failed", None)
    assert "diverged" in wild["problem"]
    assert "1 of 3 trials failed" in printed
    verdicts = json.loads((tmp_path / "outputs/small/tuning/tuning.json").read_text())["verdicts"]
    assert "cross-entropy of the untrained network 0.693, of a guess ln 2 = 0.693" in verdicts["sanity"]["text"]
    assert [name for name, verdict in verdicts.items() if verdict["warning"]] == ["overfit"]
    assert "Dice on these images is 0.500: did not overfit two images" in verdicts["overfit"]["text"]
    assert "WARNING: the training loss fell" in printed
    assert f"next     segkit evaluate ckpt={tuned[-1]['folder']}" in printed
    figure = cv2.imread(str(tmp_path / "outputs/small/tuning/tuning.png"))
    assert figure is not None
    height, width, _ = figure.shape
    assert min(height, width) > 800
    for panel in range(5):
        part = figure[panel * height // 5 : (panel + 1) * height // 5]
        assert (part.max(axis=2) - part.min(axis=2) > 60).any(), "no colored curve"
    assert tune(*TINY, *SHORT)[0] == 0
    assert trials(tmp_path) == tuned
    assert len((tmp_path / "log").read_text().split()) == 8, "nothing is trained twice"


@pytest.mark.slow
def test_another_config_is_another_sweep_and_stages_can_be_chosen(tune: Tune, tmp_path: Path) -> None:
    for words in ((), ("loss=dice",)):
        assert tune(*TINY, "stages=sanity", *words)[0] == 0
    assert [trial["stage"] for trial in trials(tmp_path)] == ["sanity"]
    assert len(list((tmp_path / "outputs/small/sweeps").iterdir())) == 2
    assert len((tmp_path / "log").read_text().split()) == 2


def test_without_cross_entropy_no_value_is_known_to_begin_with(tmp_path: Path) -> None:
    from segkit.training.sweeps.results import Trial

    (tmp_path / "metrics.csv").write_text("epoch,seconds,train/loss,val/loss\n0,1,0.9,0.9\n")
    trial: Any = Trial(0, "finished", {}, tmp_path, folder=".", values=(0.9,))
    stage: Any = None
    assert tune_verdicts.sanity(stage, trial) == ("the untrained network's loss is 0.900; it has no part ce (cross-entropy), whose value "
                                                  "would be known", False)  # fmt: skip


@pytest.mark.slow
def test_real_stages_leave_a_network(tmp_path: Path) -> None:
    """Dice of the images of `overfit` is measured beside the forks of the next stage."""
    words = ("stages=[overfit,lr_wd,final]", "overfit.trainer.max_epochs=3", "final.trainer.max_epochs=1")
    done = run_segkit(tmp_path, "tune", *TINY, *words, *SHORT[3:6])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Dice on these images is 0." in done.stdout
    final = trials(tmp_path)[-1]
    trained = yaml.safe_load((tmp_path / final["folder"] / "config.yaml").read_text())
    assert [f"{float(trained['optimizer'][key])}" for key in ("lr", "weight_decay")] == [
        str(float(text.partition("=")[2])) for text in final["tried"]
    ]
    assert (tmp_path / final["folder"] / "checkpoints" / "best.ckpt").is_file()


def test_rates_typed_for_all_stages_are_where_the_tuning_begins() -> None:
    tuning = read(["experiment=gi_tract_sgd", "optimizer.lr=0.02", "stages=[final,sanity,lr]", "lr.seed=7"])
    assert tuning.names == ("sanity", "lr", "final")
    assert tuning.words("sanity") == ["experiment=gi_tract_sgd", "stage=sanity", "seed=choice(0)"]
    assert tuning.words("lr") == ["experiment=gi_tract_sgd", "optimizer.lr=0.006,0.02,0.06,0.2", "stage=lr", "seed=7"]
    tuning.chosen["optimizer.lr"] = "0.06"
    assert tuning.words("final") == ["experiment=gi_tract_sgd", "optimizer.lr=choice(0.06)", "stage=final"]
    assert next_words(tuning) == ["experiment=gi_tract_sgd", "stage=final", "optimizer.lr=0.06"]


@pytest.mark.slow
def test_a_trial_that_fails_is_listed_and_the_others_continue(tune: Tune, tmp_path: Path) -> None:
    assert tune(*TINY, "stages=[lr,final]", "lr.optimizer.lr=0.001,0.02,10")[0] == 0
    assert [trial["problem"] for trial in trials(tmp_path)] == ["", "", "RuntimeError: out of memory", ""]
    assert [trial["state"] for trial in trials(tmp_path)] == ["finished", "finished", "failed", "finished"]
    assert trials(tmp_path)[-1]["tried"] == ["optimizer.lr=0.02"]
    assert trials(tmp_path)[1]["score"] == pytest.approx(0.1 + 1e-4, abs=0.01)
    assert tune(*TINY, "stages=[lr,final]", "lr.optimizer.lr=10")[0] == 1
    assert [trial["stage"] for trial in trials(tmp_path)] == ["lr"], "what fails before the first epoch fails in all stages"


@pytest.mark.slow
def test_an_interrupted_tuning_resumes(tmp_path: Path) -> None:
    words = (*TINY, "stages=[overfit]", "overfit.trainer.max_epochs=40", "overfit.data.phantom_n=12")
    process = subprocess.Popen([sys.executable, "-m", "segkit", "tune", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("outputs/small/sweeps/tune-overfit-*/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "resume with   segkit tune " in said
    assert [trial["state"] for trial in trials(tmp_path)] == ["interrupted"]
    done = run_segkit(tmp_path, "tune", *words)
    assert done.returncode == 0, done.stderr
    assert "1 to run once more" in done.stdout
    (console,) = tmp_path.glob("outputs/small/sweeps/tune-overfit-*/*/console.txt")
    assert "resuming outputs/small/sweeps/tune-overfit-" in console.read_text()
    assert trials(tmp_path)[0]["epochs"] == 40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("stages=[lrr]",), "there is no stage lrr; did you mean lr?"),
        (("stages=[]",), "names no stage"),
        (("-m", "optimizer.lr=0.1,0.2"), "leave out -m"),
        (("stage=lr",), "is set by segkit tune"),
        (("run=x", "resume=auto"), "2 problems to fix"),
        (("optimizer.lr=0.1,0.2",), "write  lr.optimizer.lr=0.1,0.2"),
        (("experiment=nerve,quickstart",), "tune one at a time"),
        (("stages=[lr]", "final.trainer.max_epochs=9"), "stage final is not run"),
        (("lr.name=x",), "is the same in all stages"),
        pytest.param(("final.trainer.max_epoch=9",), "did you mean trainer.max_epochs?", marks=pytest.mark.slow),
        (("lr.optimizer.lr=0.1,fast",), "needs a number, got 'fast'"),
        pytest.param(("data=folder", "data.root=nowhere"), "nowhere", marks=pytest.mark.slow),
    ],
)
def test_mistakes_are_reported_before_anything_starts(words: tuple[str, ...], message: str, tune: Tune, tmp_path: Path) -> None:
    code, printed = tune(*words)
    assert code == 2, printed
    assert message in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("*.ckpt"))
