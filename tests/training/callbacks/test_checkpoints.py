"""When a training writes last.ckpt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest

from segkit.models import checkpoint
from segkit.training.callbacks import checkpoints
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
