"""kill -9 at random moments: nothing is lost, and what is resumed equals what was not interrupted.

SEGKIT_KILLS=120 runs the whole campaign, SEGKIT_KILLS_SEED another one; `python -m tests.fuzz.test_kills` prints its figures.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from tests.fuzz.warm import Warm

TRAIN = (
    *("train", "data=phantom", "data.batch_size=4", "preprocess.size=[32,48]", "model.widths=[4,8]", "model.dropout=0.2"),
    *("trainer.max_epochs=12", "trainer.compile=false", "trainer.accelerator=cpu", "trainer.threads=1", "inference.tta=none"),
    *("callbacks.checkpoint.every_minutes=0.0005", "callbacks.pictures.every_n_epochs=100", "name=k", "logger.tensorboard=false"),
)
STREAMED = ("data.cache_gb=0", "data.num_workers=2")
TRAININGS = {
    "plain": (),
    "workers": STREAMED,
    "averaging": ("callbacks.weight_averaging.decay=0.9",),
    "plateau": ("scheduler=plateau", "scheduler.patience=0"),
    "accumulation": ("trainer.accumulate_grad_batches=2", *STREAMED),
    "disk cache": ("sampling=patches", "sampling.patch=[24,32]", "data.disk_cache_gb=1", *STREAMED),
}
SWEEPS = {"sweep": (), "sweep of two at a time": ("hydra.sweeper.n_jobs=2",)}
PREDICTIONS = {"predict": ()}
MODES = (*TRAININGS, *SWEEPS, *PREDICTIONS)
BEFORE = 2
"""Of so many runs, one is killed before its first checkpoint."""
AT_ONCE = 3
"""Kills of one run, before it may end."""
PATIENCE_S = 300
TOO_LATE = "too late"


@dataclass
class Campaign:
    """Kills commands in `root`. `seconds`: of an uninterrupted command until its first checkpoint (trial, mask), and from there on;
    what it leaves lies in `root`/MODE/whole."""

    root: Path
    warm: Warm
    random: random.Random
    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def args(self, mode: str) -> tuple[str, ...]:
        data = f"data.root={self.root / 'heads'}"
        if mode in TRAININGS:
            return (*TRAIN, data, *TRAININGS[mode], "run=r", "resume=auto")
        if mode in SWEEPS:
            return ("train", "-m", *TRAIN[1:], data, *SWEEPS[mode], "trainer.max_epochs=3", "optimizer.lr=0.1,0.01,0.001", "sweep.name=s")
        return (
            "predict",
            f"ckpt={self.root / 'plain/whole/outputs/k/r'}",
            f"input={self.root / 'heads/images'}",
            "output=masks",
            "overlays=true",
        )

    def whole(self, mode: str) -> Path:
        """The folder of the uninterrupted command."""
        cwd = self.root / mode.replace(" ", "_") / "whole"
        if mode not in self.seconds:
            if mode in PREDICTIONS:
                self.whole("plain")
            cwd.mkdir(parents=True)
            began = time.monotonic()
            pid = self.warm.start(cwd, *self.args(mode))
            self.wait_for_result(mode, cwd, pid)
            first = time.monotonic() - began
            assert self.warm.wait(pid) == 0, (cwd / "log").read_text()[-3000:]
            self.seconds[mode] = first, time.monotonic() - began - first
        return cwd

    def attack(self, mode: str, number: int, kills: int) -> None:
        """Kill one command several times, let it end, and compare."""
        whole, cwd = self.whole(mode), self.root / mode.replace(" ", "_") / str(number)
        cwd.mkdir(parents=True)
        for _ in range(kills):
            self.kill(mode, cwd)
        self.warm.run(cwd, *self.args(mode))
        assert left(cwd) == left(whole), f"{mode} {number}"
        assert not list(cwd.rglob("outputs/k/r/**/.*.tmp"))

    def kill(self, mode: str, cwd: Path) -> None:
        """At a random moment: of all, or after the first checkpoint (trial, mask)."""
        pid = self.warm.start(cwd, *self.args(mode))
        early = not any(self.results(mode, cwd)) and self.random.randrange(BEFORE) == 0
        before, after = self.seconds[mode]
        if early:
            time.sleep(self.random.uniform(0, before))
        else:
            self.wait_for_result(mode, cwd, pid)
            time.sleep(self.random.uniform(0, after / AT_ONCE))
        os.kill(pid, signal.SIGKILL)
        killed = self.warm.wait(pid) == -signal.SIGKILL
        when = "after" if any(self.results(mode, cwd)) else "before"
        self.counts[f"{mode}, {when} the first result" if killed else TOO_LATE] += 1

    def wait_for_result(self, mode: str, cwd: Path, pid: int) -> None:
        """A new one, while the process lives."""
        seen, until = newest(self.results(mode, cwd)), time.monotonic() + PATIENCE_S
        while newest(self.results(mode, cwd)) == seen and is_alive(pid):
            assert time.monotonic() < until, f"{mode} hangs"
            time.sleep(0.002)

    def results(self, mode: str, cwd: Path) -> Iterator[Path]:
        return cwd.glob("masks/*.png" if mode in PREDICTIONS else "outputs/k/**/last.ckpt")


def newest(paths: Iterator[Path]) -> int:
    """Time of the latest one; 0 without any."""
    times = [0]
    for path in paths:
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime_ns)
    return max(times)


def is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def left(cwd: Path) -> dict[str, object]:
    """All that a command leaves and that no clock decides about."""
    found: dict[str, object] = {}
    for path in sorted(path for pattern in ("masks/*", "outputs/k/**/*") for path in cwd.glob(pattern)):
        name = str(path.relative_to(cwd))
        if path.name == "last.ckpt":
            weights = torch.load(path, weights_only=True)["state_dict"]
            found[name] = {key: value.numpy().tobytes() for key, value in weights.items()}
        elif path.name == "metrics.csv":
            with path.open(newline="") as file:
                found[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
        elif path.name in ("cases.csv", "sizes.csv") or path.parent.name == "masks":
            found[name] = path.read_bytes()
    return found


def campaign(root: Path, n: int, seed: int) -> Counter[str]:
    """Kill `n` times, the modes in turn."""
    made = Campaign(root, Warm(), random.Random(seed))
    try:
        made.warm.run(root, "phantom", "output=heads", "n=16")
        for number, start in enumerate(range(0, n, AT_ONCE)):
            made.attack(MODES[number % len(MODES)], number, min(AT_ONCE, n - start))
            print(f"{made.counts.total()} kills, nothing lost, all equal", flush=True)
    finally:
        made.warm.close()
    return made.counts


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_is_killed_and_resumed_equals_what_was_not(tmp_path: Path) -> None:
    n = int(os.environ.get("SEGKIT_KILLS", "12"))
    counts = campaign(tmp_path, n, int(os.environ.get("SEGKIT_KILLS_SEED", "0")))
    assert counts.total() == n
    assert counts[TOO_LATE] <= n / 3


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        counts = campaign(Path(folder), int(os.environ.get("SEGKIT_KILLS", "120")), int(os.environ.get("SEGKIT_KILLS_SEED", "0")))
    print(*(f"{n:4} {what}" for what, n in sorted(counts.items())), sep="\n")


if __name__ == "__main__":
    main()
