"""Validation cases are scored beside the loop: in a thread where the network leaves a core idle, with the same results."""

from __future__ import annotations

import threading
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

import segkit
from segkit.system.errors import SegkitError
from segkit.training import module as training_module
from segkit.training.scoring import AHEAD, Beside, leaves_cores_idle
from tests.conftest import SMALL

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.mark.parametrize("has_thread", [False, True])
def test_calls_are_done_in_their_order(has_thread: bool) -> None:
    done: list[tuple[int, bool]] = []
    beside = Beside(has_thread)
    for i in range(3 * AHEAD):
        beside.do(lambda i=i: done.append((i, threading.current_thread() is threading.main_thread())))
        assert i - AHEAD <= len(done) <= i + 1
    beside.wait()
    assert done == [(i, not has_thread) for i in range(3 * AHEAD)]


@pytest.mark.parametrize("has_thread", [False, True])
def test_a_failure_is_raised(has_thread: bool) -> None:
    def fails() -> None:
        raise SegkitError("case 7")

    def score(n: int) -> None:
        beside = Beside(has_thread)
        for _ in range(n):
            beside.do(fails)
        beside.wait()

    for n in (1, AHEAD + 1):
        with pytest.raises(SegkitError, match="case 7"):
            score(n)


def test_a_thread_where_the_network_leaves_a_core_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.training.scoring.usable_cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert leaves_cores_idle("cuda", 4)
    assert leaves_cores_idle("cpu", 1)
    assert not leaves_cores_idle("cpu", 2)


def test_scores_masks_and_curves_are_the_same_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = segkit.compose("train", [*SMALL, f"output_dir={tmp_path}", "data.phantom_n=40"])
    data = segkit.SegmentationData.from_config(config)
    module = segkit.SegmentationModule.from_config(config, data)
    trainer = L.Trainer(max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=False, **QUIET)
    trainer.fit(module, data)
    found = []
    for has_thread in (False, True):
        monkeypatch.setattr(training_module, "leaves_cores_idle", lambda *_, here=has_thread: here)
        seen: list[tuple[int, object, bytes, bool]] = []
        module.watchers.append(
            lambda i, rows, mask, seen=seen: seen.append((i, rows, mask.tobytes(), threading.current_thread() is threading.main_thread()))
        )
        module.calibration = training_module.Calibration.of(module.labels.classes)
        (means,) = trainer.validate(module, data, verbose=False)
        curves = {name: np.stack([c.n, c.positive, c.total]).tobytes() for name, c in module.calibration.counts.items()}
        assert [in_main for *_, in_main in seen] == [not has_thread] * len(data.val)
        found.append((means, [entry[:3] for entry in seen], curves))
    assert found[0] == found[1]
    assert module.watchers == []
