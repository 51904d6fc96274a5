"""The order of training, its resumption, and what is said when a worker is killed."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.data.case import Case
from segkit.data.dataset import CaseDataset, EpochSampler, TrainLoader, collate, naming_killed_workers
from segkit.data.labels import LabelMap
from segkit.system.errors import SegkitError
from tests.data.transforms.test_geometry import Grid


@dataclass(frozen=True)
class Grey:
    """A `Pixels` without a file; `deadly` kills the process that reads it."""

    path: Path
    deadly: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> np.ndarray[Any, Any]:
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((8, 8, 1), np.uint8)


def data(n: int, deadly: int = -1) -> CaseDataset:
    cases = [Case(str(i), Grey(Path(f"{i}.png"), i == deadly)) for i in range(n)]
    return CaseDataset(cases, LabelMap.of({0: "background", 1: "a"}), Grid(None))


def order(sampler: EpochSampler) -> list[int]:
    return [index for batch in sampler for _, index in batch]


def test_each_epoch_is_another_permutation_of_all_cases() -> None:
    sampler = EpochSampler(12, 4, seed=0)
    first = order(sampler)
    sampler.set_epoch(1)
    assert sorted(first) == sorted(order(sampler)) == list(range(12))
    assert first != order(sampler)


def test_overfitting_sees_the_same_batches_again_and_again() -> None:
    sampler = EpochSampler(12, 4, seed=0, shuffle=False)
    first = order(sampler)
    sampler.set_epoch(3)
    assert order(sampler) == first


def test_a_small_last_batch_is_dropped_but_not_the_only_one() -> None:
    assert [len(b) for b in EpochSampler(10, 4, 0)] == [4, 4]
    assert [len(b) for b in EpochSampler(3, 4, 0)] == [3]


def test_processes_share_an_epoch_without_repeats() -> None:
    parts = [order(EpochSampler(16, 2, 0, rank, 4)) for rank in range(4)]
    assert sorted(i for part in parts for i in part) == list(range(16))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_continues_after_the_last_batch(workers: int) -> None:
    def batches(loader: TrainLoader) -> list[tuple[int, ...]]:
        return [batch.indices for batch in loader]

    def loader() -> TrainLoader:
        return TrainLoader(data(12), EpochSampler(12, 2, 0), num_workers=workers, collate_fn=collate)

    whole, stopped, resumed = loader(), loader(), loader()
    for each in (whole, stopped, resumed):
        each.position.set_epoch(5)
    iterator = iter(stopped)
    start = [next(iterator).indices for _ in range(2)]
    resumed.load_state_dict(stopped.state_dict())
    assert start + batches(resumed) == batches(whole)
    resumed.position.set_epoch(6)
    whole.position.set_epoch(6)
    assert batches(resumed) == batches(whole)


def test_a_killed_worker_names_the_file() -> None:
    dataset = data(4, deadly=2)
    loader = TrainLoader(dataset, EpochSampler(4, 1, 0), num_workers=1, collate_fn=collate)
    with pytest.raises(SegkitError, match=r"2\.png[\s\S]*data\.num_workers=0"), naming_killed_workers(dataset):
        list(loader)


def test_weights_rule_how_often_an_image_comes() -> None:
    sampler = EpochSampler(1000, 10, seed=0, weights=np.array([0.0] * 500 + [1.0] * 400 + [4.0] * 100))
    drawn = np.array([index for batch in sampler for _, index in batch])
    assert (drawn >= 500).all()
    assert 0.42 < (drawn >= 900).mean() < 0.58
    assert [index for batch in sampler for _, index in batch] == drawn.tolist()
    sampler.set_epoch(1)
    assert [index for batch in sampler for _, index in batch] != drawn.tolist()
