"""When a training writes last.ckpt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch

from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.models import checkpoint
from segkit.training.callbacks import checkpoints
from segkit.training.checkpoint_io import AtomicCheckpointIO
from segkit.training.run_folder import RunFolder
from segkit.training.status import Interrupted
from segkit.training.train import train
from tests.conftest import SMALL, Cli


@pytest.fixture
def saved(segkit_in: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, int]]]:
    """Train five epochs, of which the last validates; returns file and epoch of each checkpoint."""
    written: list[tuple[str, int]] = []
    save = L.Trainer.save_checkpoint

    def recorded(trainer: L.Trainer, path: Path, *args: object) -> None:
        written.append((Path(path).name, trainer.current_epoch))
        save(trainer, path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(L.Trainer, "save_checkpoint", recorded)

    def train(share: float) -> list[tuple[str, int]]:
        monkeypatch.setattr(checkpoints, "SHARE", share)
        done = segkit_in("train", *SMALL, "run=one", "trainer.max_epochs=5", "trainer.check_val_every_n_epoch=5")
        assert done.returncode == 0, done.stdout + done.stderr
        return written

    return train


def test_a_short_epoch_waits_until_a_checkpoint_is_worth_its_time(saved: Callable[..., list[tuple[str, int]]], tmp_path: Path) -> None:
    assert saved(share=1e-9) == [("last.ckpt", 0), ("best.ckpt", 4)], "the first epoch, and the last, which is the best"
    last = checkpoint.read(next(tmp_path.rglob("last.ckpt")))
    assert last["epoch"] == 4, "last.ckpt is of the last epoch all the same"


def test_an_epoch_that_takes_longer_is_always_saved(saved: Callable[..., list[tuple[str, int]]]) -> None:
    assert saved(share=1e9) == [*(("last.ckpt", epoch) for epoch in range(4)), ("best.ckpt", 4)]


@pytest.fixture
def io(tmp_path: Path) -> AtomicCheckpointIO:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.yaml").touch()
    return AtomicCheckpointIO(RunFolder(tmp_path / "run"))


def test_a_checkpoint_in_memory_is_that_of_its_moment(io: AtomicCheckpointIO, tmp_path: Path) -> None:
    path, weight, rows = tmp_path / "run/checkpoints/best.ckpt", torch.zeros(3), [1]
    io.is_holding = True
    io.save_checkpoint({"state_dict": {"a": weight, "tied": weight}, "rows": rows}, path)
    io.is_holding = False
    assert not path.exists()
    weight += 1
    rows.append(2)
    io.write_held()
    found = checkpoint.read(path)
    assert found["rows"] == [1]
    assert found["state_dict"]["a"].tolist() == found["state_dict"]["tied"].tolist() == [0, 0, 0]
    assert not io.held


def test_a_checkpoint_that_is_written_replaces_the_one_in_memory(io: AtomicCheckpointIO, tmp_path: Path) -> None:
    path = tmp_path / "run/checkpoints/best.ckpt"
    io.is_holding = True
    io.save_checkpoint({"epoch": 1}, path)
    io.is_holding = False
    io.save_checkpoint({"epoch": 2}, path)
    io.write_held()
    assert checkpoint.read(path)["epoch"] == 2


BETTER = (*SMALL, "trainer.max_epochs=6", "metric.monitor=loss", "metric.mode=min", "optimizer.lr=1e-4", "report=false")
"""The loss falls in every epoch."""


def test_a_better_epoch_waits_in_memory_and_is_on_disk_at_the_end(segkit_in: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are those of a training that writes every epoch."""
    written: list[str] = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda content, path: (written.append(f"{path.name} {content['epoch']}"), save(content, path)))
    found = {}
    for name, share in (("all", 1e9), ("few", 1e-9)):
        monkeypatch.setattr(checkpoints, "SHARE", share)
        assert segkit_in("train", *BETTER, f"run={name}").returncode == 0
        found[name] = checkpoint.read(tmp_path / f"outputs/small/{name}/checkpoints/best.ckpt")
    assert written == [*(f"best.ckpt {epoch}" for epoch in range(6)), "best.ckpt 0", "best.ckpt 5"]
    assert found["all"]["epoch"] == found["few"]["epoch"] == 5
    assert all(torch.equal(found["all"]["state_dict"][name], found["few"]["state_dict"][name]) for name in found["all"]["state_dict"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_does_not_lose_the_best_epoch(error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After four epochs, the third of which is the last that is better and none of which but the first is on disk."""
    monkeypatch.setattr(checkpoints, "SHARE", 1e-9)
    ends = checkpoints.Checkpoints.on_train_epoch_end

    def fails(self: checkpoints.Checkpoints, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        ends(self, trainer, pl_module)
        if trainer.current_epoch == 3:
            raise error

    monkeypatch.setattr(checkpoints.Checkpoints, "on_train_epoch_end", fails)
    cfg = compose("train", [*BETTER, f"output_dir={tmp_path}", "run=one"])
    assert isinstance(cfg, Train)
    with pytest.raises((error, Interrupted)):
        train(cfg)
    assert checkpoint.read(tmp_path / "small/one/checkpoints/best.ckpt")["epoch"] == 3
    assert checkpoint.read(tmp_path / "small/one/checkpoints/last.ckpt")["epoch"] == 0
