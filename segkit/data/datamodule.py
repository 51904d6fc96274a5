"""One DataModule for every source: training and validation loaders over a prepared manifest."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from segkit.config.schema import Train
from segkit.data.audit import CaseFacts, Prepared
from segkit.data.augment import Augmentation
from segkit.data.dataset import CaseDataset, Sample, collate
from segkit.data.intensity import SIXTEEN_BIT
from segkit.data.loader import EpochSampler, TrainLoader
from segkit.errors import SegkitError
from segkit.hardware import cache_budget, loader_workers, usable_cores
from segkit.progress import console


class SegmentationData(L.LightningDataModule):
    """Decoded images stay in memory where they fit; then loader workers share them."""

    def __init__(self, prepared: Prepared, config: Train, device: str, top: int) -> None:
        super().__init__()
        self.prepared, self.config, self.device, self.top = prepared, config, device, top
        self.train = self._dataset(prepared.split.train, Augmentation(config.augment.transforms, config.allow_targets))
        self.val = self._dataset(prepared.split.val, None)
        self._loader: TrainLoader | None = None
        self._position: dict[str, int] = {}

    def _dataset(self, ids: Sequence[str], augmentation: Augmentation | None) -> CaseDataset:
        manifest = self.prepared.manifest
        cases = [manifest.by_id[i] for i in ids]
        return CaseDataset(cases, manifest.labels, self.config.preprocess, augmentation, self.config.seed, self.top)

    def setup(self, stage: str) -> None:
        budget = cache_budget(self.config.data.cache_gb) // (self.trainer.world_size if self.trainer else 1)
        for dataset in (self.train, self.val):
            needed = sum(decoded_bytes(self.prepared.facts[case.id], dataset) for case in dataset.cases)
            if needed <= budget:
                dataset.keep_in_memory(usable_cores())
                budget -= needed
        if self.trainer is None or self.trainer.is_global_zero:
            kept = "decoded once and kept in memory" if self.train.in_memory else "streamed from disk"
            console.print(f"loading    training images {kept}, {self._workers(self.train)['num_workers']} loader workers")

    def train_dataloader(self) -> TrainLoader:
        rank, world = self._place
        if len(self.train) < world:
            raise SegkitError(f"{len(self.train)} training cases for {world} processes;   use fewer  trainer.devices")
        data = self.config.data
        sampler = EpochSampler(len(self.train), data.batch_size, self.config.seed, rank, world, data.shuffle)
        self._loader = TrainLoader(self.train, sampler, pin_memory=self.device == "cuda", **self._workers(self.train))
        self._loader.load_state_dict(self._position)
        return self._loader

    def val_dataloader(self) -> DataLoader[Sample]:
        rank, world = self._place
        if len(self.val) < world:
            raise SegkitError(f"{len(self.val)} validation cases for {world} processes;   use fewer  trainer.devices")
        mine = range(rank, len(self.val), world)  # no padding to equal shares: every case counts once
        size = self.config.inference.batch_size if self.config.preprocess.size is not None else 1
        return DataLoader(self.val, batch_size=size, sampler=mine, **self._workers(self.val))

    @property
    def _place(self) -> tuple[int, int]:
        """Number of this process, and of how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _workers(self, dataset: CaseDataset) -> dict[str, Any]:
        n = loader_workers(self.config.data.num_workers, self.device, dataset.in_memory)
        alive = {"persistent_workers": True, "prefetch_factor": 4} if n else {}
        return {"num_workers": n, "collate_fn": collate, "worker_init_fn": leave_ctrl_c_to_the_main_process, **alive}

    def state_dict(self) -> dict[str, Any]:
        """Where in the epoch the training is. Lightning restores a loader's own state only if the loader was not made
        yet, but asking for the number of planned steps has made it; so the position is kept here as well."""
        return self._loader.state_dict() if self._loader else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position = dict(state)


def leave_ctrl_c_to_the_main_process(worker: int) -> None:
    """A terminal sends it to all; the main process still wants the batch, and ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def decoded_bytes(facts: CaseFacts, dataset: CaseDataset) -> int:
    """Memory of one decoded case: image, mask and, on the original grid, the truth."""
    rows, cols = dataset.grid.size or facts.shape[:2]
    planes = len(dataset.labels.classes) if dataset.labels.overlap else 1
    image = facts.channels * (1 if facts.dtype == "uint8" else 4)
    return int(rows * cols * (image + planes) + facts.shape[0] * facts.shape[1] * planes)


@dataclass(frozen=True)
class Intensity:
    """Of the training images: largest value of their bit depth, mean and SD by channel in the scale that it sets."""

    top: int
    mean: list[float]
    sd: list[float]


def intensity(facts: Mapping[str, CaseFacts], ids: Sequence[str]) -> Intensity:
    chosen = [facts[i] for i in ids]
    n = sum(f.shape[0] * f.shape[1] for f in chosen)
    mean = np.sum([f.sum for f in chosen], axis=0) / n
    square = np.sum([f.sum_of_squares for f in chosen], axis=0) / n
    sd = np.sqrt(np.maximum(square - mean**2, 0))
    largest = max(round(SIXTEEN_BIT * max(f.maximum)) for f in chosen)
    top = max(255, 2 ** largest.bit_length() - 1) if chosen[0].dtype == "uint16" else SIXTEEN_BIT
    return Intensity(top, [float(m) * SIXTEEN_BIT / top for m in mean], [float(s) * SIXTEEN_BIT / top for s in sd])
