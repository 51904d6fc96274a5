"""A run that is killed or stopped anywhere, and resumed, equals the run that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import SMALL, Cli, run_segkit

LONG = (*SMALL, "data.phantom_n=40", "trainer.max_epochs=40", "callbacks.checkpoint.every_minutes=0.003", "model.dropout=0.2")
"""Checkpoints about every second step, so that kills meet them being written; dropout, so that random streams matter. Epochs enough for
five kills, of which each comes after a few on a fast machine."""


def start(cwd: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "segkit", "train", *args]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return weights


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.01)


def assert_same_run(one: Path, other: Path) -> None:
    a, b = final_weights(one), final_weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert (one / "cases.csv").read_bytes() == (other / "cases.csv").read_bytes()
    epochs = [(run / "metrics.csv").read_text().splitlines() for run in (one, other)]
    without_time = [[[v for i, v in enumerate(line.split(",")) if i != 2] for line in lines] for lines in epochs]
    assert without_time[0] == without_time[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("whole")
    done = run_segkit(cwd, "train", *LONG, "run=r")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / "outputs/small/r"


@pytest.mark.slow
def test_killed_five_times_at_random_moments(uninterrupted: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of epochs, validations and checkpoint writes, then `resume=auto`: bit-identical on CPU."""
    rng, run = random.Random(7), tmp_path / "outputs/small/r"
    kills = 0
    for _ in range(5):
        process = start(tmp_path, *LONG, "run=r", "resume=auto")
        wait_for(run / "status.json")
        before = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns if (run / "checkpoints" / "last.ckpt").exists() else 0
        while process.poll() is None and _written(run) <= before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 5, "the run ended before it was killed five times: make it longer"
    done = run_segkit(tmp_path, "train", *LONG, "run=r", "resume=auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming" in done.stdout
    assert_same_run(run, uninterrupted)


def _written(run: Path) -> int:
    last = run / "checkpoints" / "last.ckpt"
    return last.stat().st_mtime_ns if last.exists() else 0


@pytest.mark.parametrize(
    ("sign", "loading"),
    [(signal.SIGINT, ("data.num_workers=1", "data.cache_gb=0.0")), (signal.SIGTERM, ())],
)
@pytest.mark.slow
def test_ctrl_c_writes_a_checkpoint_names_the_command_and_resumes(
    sign: signal.Signals, loading: tuple[str, ...], uninterrupted: Path, tmp_path: Path
) -> None:
    """As a terminal does it: the signal reaches the loader workers, too."""
    run = tmp_path / "outputs/small/r"
    process = start(tmp_path, *LONG, *loading, "report=true", "run=r")
    wait_for(run / "metrics.csv")
    os.killpg(process.pid, sign)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert f"segkit train resume={Path('outputs/small/r')}" in out
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert (run / "curves.png").exists()
    assert (run / "samples.png").exists()
    done = run_segkit(tmp_path, "train", "resume=outputs/small/r")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_run(run, uninterrupted)


ODD_WAYS = {
    "gathered gradients, plateau": (
        "trainer.accumulate_grad_batches=2",
        "scheduler=plateau",
        "scheduler.patience=0",
        "callbacks.checkpoint.every_minutes=0.0001",
    ),
    "a scheduler by its class": ("scheduler=exponential", "scheduler.gamma=0.7"),
    "a plateau by its class": (
        "+scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
        "scheduler.patience=0",
        "+scheduler.monitor=val/loss",
        "+scheduler.mode=min",
        "callbacks.checkpoint.every_minutes=0.0001",
    ),
    "weighted patches from the disk cache": (
        "sampling=patches",
        "sampling.patch=[24,32]",
        "sampling.weights=foreground",
        "data.cache_gb=0",
        "data.disk_cache_gb=1",
        "preprocess.normalize=volume",
    ),
    "small images first": ("sampling.progressive_resizing={delay_fraction: 0.4, finetune_fraction: 0.3, size_increment: 8}",),
    "averaged weights": ("callbacks.weight_averaging.decay=0.9", "callbacks.checkpoint.every_minutes=0.0001"),
}


@pytest.mark.slow
@pytest.mark.parametrize("keys", ODD_WAYS.values(), ids=list(ODD_WAYS))
def test_a_killed_training_resumes_in_odd_ways_of_training_too(keys: tuple[str, ...], tmp_path: Path) -> None:
    """Checkpoints are written between optimizer steps' gatherings, never inside one, and the plateau's memory is in them;
    patches and their weights are a function of seed, epoch and index."""
    options = (*LONG, "trainer.max_epochs=8", *keys)
    done = run_segkit(tmp_path, "train", *options, "run=whole")
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "outputs/small/r"
    process = start(tmp_path, *options, "run=r")
    wait_for(run / "metrics.csv")
    time.sleep(0.2)
    process.kill()
    process.wait()
    assert not (run / "cases.csv").exists(), "too late to kill"
    assert run_segkit(tmp_path, "train", "resume=outputs/small/r").returncode == 0
    assert_same_run(run, tmp_path / "outputs/small/whole")


def test_a_queued_job_that_is_finished_has_nothing_to_do(trained: Path) -> None:
    done = run_segkit(trained.parents[2], "train", *SMALL, "run=first", "resume=auto")
    assert done.returncode == 0
    assert "finished already" in done.stdout


def test_what_cannot_be_resumed_says_why(trained: Path, segkit_in: Cli, tmp_path: Path) -> None:
    assert "is finished" in segkit_in("train", f"resume={trained}").stderr
    assert "no run folder" in segkit_in("train", f"resume={tmp_path}").stderr
    assert "leave out trainer.max_epochs=9" in segkit_in("train", f"resume={trained}", "trainer.max_epochs=9").stderr


def test_a_taken_name_is_never_overwritten(trained: Path) -> None:
    done = run_segkit(trained.parents[2], "train", *SMALL, "run=first")
    assert done.returncode == 2
    assert "choose another  run=NAME" in done.stderr


def test_a_failed_run_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "badnet.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self, in_channels: int, out_channels: int) -> None:\n"
        "        super().__init__()\n        self.w = torch.nn.Parameter(torch.zeros(1))\n\n"
        "    def forward(self, x):\n        if torch.is_grad_enabled():  # not when the network is only looked at\n"
        "            raise ZeroDivisionError('as planned')\n        return self.w * x\n"
    )
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/bad.yaml").write_text("_target_: badnet.Net\n")
    small = [o for o in SMALL if not o.startswith("model.")]
    done = run_segkit(tmp_path, "train", *small, "model=bad", "allow_targets=[badnet]", "run=r")
    status = json.loads((tmp_path / "outputs/small/r/status.json").read_text())
    assert done.returncode == 1
    assert status["state"] == "failed"
    assert "as planned" in status["traceback"]
