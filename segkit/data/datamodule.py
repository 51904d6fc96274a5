"""One DataModule for every source: training and validation loaders over a prepared manifest."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from segkit.config.schema import Train
from segkit.data.audit.audit import Prepared, prepare
from segkit.data.cache import ArrayCache
from segkit.data.dataset import CaseDataset, EpochSampler, Sample, TrainLoader, collate
from segkit.data.labels import Array, LabelMap
from segkit.data.statistics import CaseStatistics
from segkit.data.transforms.augment import Augmentation
from segkit.data.transforms.intensity import IntensityStatistics
from segkit.data.transforms.patches import Patches
from segkit.data.transforms.progressive import ProgressiveResizing
from segkit.system.errors import SegkitError
from segkit.system.files import CACHE
from segkit.system.hardware import SHARED_MEMORY, cache_budget, fitting_workers, loader_workers, share_of_cores, shared_memory
from segkit.system.progress import console, track


class SegmentationData(L.LightningDataModule):
    """Training and validation loaders of a prepared data set.

    Decoded images stay in memory where they fit; loader workers then share them.

    Args:
        prepared: manifest, split and statistics of the data set (`segkit.data.audit.prepare`).
        config: the config of the training.
        device: "cuda" pins batches in memory; the number of loader workers depends on it, too.
        seen: bit depth, mean and SD of the training images (`intensity_statistics`).
    """

    def __init__(self, prepared: Prepared, config: Train, device: str, seen: IntensityStatistics) -> None:
        super().__init__()
        if config.data.batch_size == "auto":
            raise SegkitError("data.batch_size=auto is found by  segkit train;   give this class a number")
        self.prepared, self.config, self.device, self.seen = prepared, config, device, seen
        manifest = prepared.manifest
        moves = Augmentation(config.augment.transforms, config.allow_targets, manifest.dims == 3, manifest.labels.overlap)
        self.train = self._dataset(prepared.split.train, moves)
        self.val = self._dataset(prepared.split.val)
        self.test = self._dataset(prepared.split.test)
        self._loader: TrainLoader | None = None
        self._position: dict[str, int] = {}

    @classmethod
    def from_config(cls, config: Train, **options: Any) -> Self:
        """Read, audit and split the data of a config, for a plain `lightning.Trainer`.

        Args:
            config: `segkit.compose("train", [...])`.
            **options: Further keywords of a class that descends from this one.

        Raises:
            ProblemsFound: Lists everything that is wrong with the data.
        """
        prepared = prepare(config.data, config.split, config.seed, config.allow_targets, cache_dir=Path(config.output_dir) / CACHE.name)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(prepared, config, device, intensity_statistics(config, prepared), **options)

    def _dataset(self, ids: Sequence[str], augmentation: Augmentation | None = None) -> CaseDataset:
        """With augmentation: the training cases, in patches where `sampling.patch` is set."""
        manifest, config = self.prepared.manifest, self.config
        cases, top = [manifest.by_id[i] for i in ids], self.seen.intensity_max
        patches, per_case = patches_of(config) if augmentation else (None, 1)
        cache, resizing = array_cache(config, manifest.labels, top), resizing_of(config) if augmentation else None
        return CaseDataset(cases, manifest.labels, config.preprocess, augmentation, config.seed, top, patches, per_case, cache, resizing)

    def setup(self, stage: str) -> None:
        budget = cache_budget(self.config.data.cache_gb) // self._processes_here
        for dataset in (self.train, self.val):
            needed = sum(decoded_bytes(self.prepared.statistics[case.id], dataset) for case in dataset.cases)
            if needed <= budget:
                dataset.keep_in_memory(share_of_cores("auto", self._processes_here))
                budget -= needed
        if self.trainer is None or self.trainer.is_global_zero:
            kept = "decoded once and kept in memory" if self.train.in_memory else "streamed from disk"
            n, wanted = self._workers(self.train)["num_workers"], self._wanted_workers(self.train)
            console.print(f"loading    training images {kept}, {n} loader workers")
            if n < wanted:
                what = f"{SHARED_MEMORY} has {shared_memory() / 1e6:.0f} MB free, too little for {wanted} loader workers: {n} are used"
                console.print(f"note       {what};   in a container:  docker run --shm-size=8g", markup=False)

    def train_dataloader(self) -> TrainLoader:
        rank, world = self._rank_and_world
        if len(self.train) < world:
            raise SegkitError(f"{len(self.train)} training cases for {world} processes;   use fewer  trainer.devices")
        data = self.config.data
        weights = self._weights() if self.config.sampling.weights == "foreground" else None
        shuffle = data.shuffle and not getattr(self.trainer, "overfit_batches", 0)  # which trains on the same images in every epoch
        sampler = EpochSampler(len(self.train), data.images_per_step, self.config.seed, rank, world, shuffle, weights)
        self._loader = TrainLoader(self.train, sampler, pin_memory=self.device == "cuda", **self._workers(self.train))
        self._loader.load_state_dict(self._position)
        return self._loader

    def val_dataloader(self) -> DataLoader[Sample]:
        """Whole images of one size come in batches as large as those of the training, which needs more memory, or larger ones of
        `inference.batch_size`; where windows are cut, it is that key alone."""
        is_whole = self.train.patches is None and self.config.inference.window in (None, "auto")
        return self._evaluated(self.val, max(self._prediction_batch, self.config.data.images_per_step if is_whole else 1))

    def test_dataloader(self) -> DataLoader[Sample]:
        if not len(self.test):
            raise SegkitError("the split has no test cases;   add  split.test_fraction=0.2")
        return self._evaluated(self.test, self._prediction_batch)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The test cases, or the validation cases where the split has no test cases."""
        return self._evaluated(self.test if len(self.test) else self.val, self._prediction_batch)

    def _evaluated(self, dataset: CaseDataset, batch_size: int) -> DataLoader[Sample]:
        rank, world = self._rank_and_world
        n = len(dataset)
        # As many on each process, since they synchronize in every step: some repeat one of the first cases, which then counts once.
        mine = [i % n for i in range(rank, n + -n % world, world)]
        has_one_size = self.config.preprocess.size is not None and self.config.preprocess.pad_to is None
        return DataLoader(dataset, batch_size=batch_size if has_one_size else 1, sampler=mine, **self._workers(dataset))

    @property
    def _prediction_batch(self) -> int:
        """Images of a step of a test or a prediction; auto: on a GPU as many as a training step has, which needs more memory."""
        wanted, of_training = self.config.inference.batch_size, self.config.data.images_per_step
        return wanted if wanted != "auto" else of_training if self.device == "cuda" else 1

    def _weights(self) -> Array:
        """How often each training sample is drawn, by its foreground s: (s + 0.1 mean s) / (1.1 sum s) (Buda et al., 2019)."""
        stats, labels = self.prepared.statistics, self.prepared.manifest.labels
        foreground = np.array([sum(stats[case.id].class_pixels(labels).values()) for case in self.train.cases], float)
        if not foreground.sum():
            raise SegkitError("sampling.weights=foreground, but no training image shows a structure;   add  sampling.weights=uniform")
        return np.tile((foreground + 0.1 * foreground.mean()) / (1.1 * foreground.sum()), self.train.per_case)

    @property
    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _processes_here(self) -> int:
        """Processes that share this machine's cores and memory."""
        return self.trainer.num_devices if self.trainer else 1

    def _workers(self, dataset: CaseDataset) -> dict[str, Any]:
        wanted, free = self._wanted_workers(dataset), shared_memory() // self._processes_here
        n, ahead = fitting_workers(wanted, self._batch_bytes(dataset), free)
        alive = {"persistent_workers": True, "prefetch_factor": ahead} if n else {}
        return {"num_workers": n, "collate_fn": collate, "worker_init_fn": leave_ctrl_c_to_the_main_process, **alive}

    def _wanted_workers(self, dataset: CaseDataset) -> int:
        return loader_workers(self.config.data.num_workers, self.device, dataset.in_memory, self._processes_here)

    def _batch_bytes(self, dataset: CaseDataset) -> int:
        """Memory of the largest batch: images in float32, and their masks."""
        config, labels = self.config, self.prepared.manifest.labels
        stats = [self.prepared.statistics[case.id] for case in dataset.cases]
        size = (dataset.patches and config.sampling.patch) or config.preprocess.size
        pixels = math.prod(size) if size else max((math.prod(one.shape) for one in stats), default=0)
        bytes_a_pixel = 4 * max((one.channels for one in stats), default=1) + (len(labels.classes) if labels.overlap else 1)
        return pixels * bytes_a_pixel * max(config.data.images_per_step, self._prediction_batch)

    def state_dict(self) -> dict[str, Any]:
        """Position in the epoch. Lightning restores a loader's own state only if the loader does not exist yet, but asking for the
        number of planned steps creates it; so the position is kept here as well."""
        return self._loader.state_dict() if self._loader else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position = dict(state)


def leave_ctrl_c_to_the_main_process(worker: int) -> None:
    """A terminal sends it to all processes; the main one still needs the batch, and ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def patches_of(config: Train) -> tuple[Patches | None, int]:
    """How patches are cut, and how many of each image in an epoch."""
    node = config.sampling
    patches = None if node.patch is None else Patches(node.patch, node.foreground, node.class_weights)
    return patches, node.patches_per_image


def resizing_of(config: Train) -> ProgressiveResizing | None:
    node = config.sampling.progressive_resizing
    return None if node is None else ProgressiveResizing(node, config.trainer.epochs, config.preprocess)


def array_cache(config: Train, labels: LabelMap, intensity_max: int) -> ArrayCache | None:
    if not config.data.disk_cache_gb:
        return None
    made_by = repr((config.preprocess, labels, intensity_max, config.data.dims, config.data.neighbours))
    folder = Path(config.output_dir).absolute() / CACHE.name / "arrays"
    return ArrayCache(folder, int(config.data.disk_cache_gb * 1e9), config.preprocess, made_by)


def decoded_bytes(stats: CaseStatistics, dataset: CaseDataset) -> int:
    """Memory of one decoded case: image, mask and the reference mask on the original grid."""
    here, there = math.prod(stats.shape), math.prod(dataset.config.size or stats.shape)
    planes = len(dataset.labels.classes) if dataset.labels.overlap else 1
    stays = stats.dtype == "uint8" and dataset.config.scale == "auto"
    return int(there * (stats.channels * (1 if stays else 4) + planes) + here * planes)


MAX_MEASURED = 64
"""Images, evenly taken from the training cases, from which mean and SD are estimated where preprocessing changes them."""


def intensity_statistics(config: Train, prepared: Prepared) -> IntensityStatistics:
    """Bit depth, mean and SD of the training images."""
    ids = prepared.split.train
    cases = [prepared.manifest.by_id[i] for i in ids[:: max(1, -(-len(ids) // MAX_MEASURED))]]

    def decoded(intensity_max: int) -> Iterator[Array]:
        dataset = CaseDataset(cases, prepared.manifest.labels, config.preprocess, intensity_max=intensity_max)
        return (dataset.decode(i).image for i in track(range(len(cases)), "measuring intensities", len(cases)))

    return IntensityStatistics.of(config.preprocess, [prepared.statistics[i] for i in ids], decoded)
