"""A network of one convolution for searches in a second, and searches without any network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra

from segkit.config import compose
from segkit.training.run_folder import RunFolder
from segkit.training.sweeps.samplers import build_pruner
from segkit.training.sweeps.space import Settings, Space, read_settings, read_space
from segkit.training.sweeps.storage import open_folder, open_storage, open_study
from segkit.training.sweeps.study import Attempt, SweepStudy
from tests.conftest import QUICK

NET = '''
import os, time
from pathlib import Path
import torch


class Net(torch.nn.Module):
    """`quality` 0 sees nothing; 3 breaks down where there is a file `broken`."""

    def __init__(self, in_channels: int, out_channels: int, quality: int = 1) -> None:
        super().__init__()
        self.conv, self.quality = torch.nn.Conv2d(in_channels, out_channels, 3, padding=1), quality

    def forward(self, x):
        if torch.is_grad_enabled():
            time.sleep(float(os.environ.get("SLOW", "0")))
            if self.quality == 3 and Path("broken").exists():
                raise ZeroDivisionError("as planned")
        return self.conv(x) if self.quality else 0 * self.conv(x) - 10
'''
SEARCH = (
    *("train", "-m", "data=phantom", "data.phantom_n=12", "data.batch_size=4", "preprocess.size=[32,48]", "model=toy", "name=small"),
    *("allow_targets=[toynet]", "optimizer.lr=0.05", "trainer.max_epochs=3", "trainer.compile=false", "trainer.accelerator=cpu"),
    *QUICK,
    *("callbacks.checkpoint.every_minutes=0.001", "inference.tta=none"),
    "sweep.name=s",
)
SWEEP = Path("outputs/small/sweeps/s")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A working directory that knows model=toy."""
    (tmp_path / "toynet.py").write_text(NET)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/toy.yaml").write_text("_target_: toynet.Net\nquality: 1\n")
    return tmp_path


def start(cwd: Path, *args: str, slow: float = 0) -> subprocess.Popen[str]:
    env = {**os.environ, "SLOW": str(slow), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "segkit", *SEARCH, *args]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def search(cwd: Path, *args: str) -> tuple[int, str]:
    """Exit code and what it printed."""
    process = start(cwd, *args)
    out, _ = process.communicate(timeout=600)
    return process.returncode, out


@pytest.fixture(scope="session")
def loader() -> ConfigLoader:
    with compose._hydra([]):
        return GlobalHydra.instance().config_loader()


def settings(**keys: object) -> Settings:
    own = {"params": None, "when": None, "objectives": None, "sampler": "random", "n_trials": 6, "n_jobs": 1, "startup_trials": 2}
    return read_settings({**own, "pruner": "none", "warmup_epochs": 1, "storage": None, "seed": 0, **keys})


@pytest.fixture
def make_space(loader: ConfigLoader) -> Callable[..., Space]:
    return lambda *overrides, **when: read_space(overrides, {key.replace("__", "."): text for key, text in when.items()}, loader)


def make_study(folder: Path, space: Space, **keys: object) -> SweepStudy:
    asked, objectives = settings(**keys), {"dice": "max"}
    storage = open_storage(asked.storage, folder)
    place = open_folder(folder, space, objectives)
    return SweepStudy(
        open_study(storage, "small/s", space, objectives, build_pruner("none", 0, 1, 1)), folder, place, space, asked, objectives
    )


def leave_run(attempt: Attempt, dice: float | str = 0.5, state: str = "finished") -> None:
    """What a training would leave."""
    (attempt.folder / "metrics.csv").write_text(f"epoch,seconds,val/dice\n0,1.0,{dice}\n")
    RunFolder(attempt.folder).write_status(state)


def states(folder: Path) -> dict[str, str]:
    """Run folder -> state."""
    return {path.parent.name: json.loads(path.read_text())["state"] for path in folder.glob("*/status.json")}


def wait_until(there: Callable[[], object], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
