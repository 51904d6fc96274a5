"""One DataModule for every source: training and validation loaders over a prepared manifest."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from segkit.config.schema import Train
from segkit.data.audit.audit import CaseFacts, Prepared
from segkit.data.cache import ArrayCache
from segkit.data.dataset import CaseDataset, Sample, collate
from segkit.data.labels import LabelMap
from segkit.data.loader import EpochSampler, TrainLoader
from segkit.data.transforms.augment import Augmentation
from segkit.data.transforms.intensity import SIXTEEN_BIT
from segkit.data.transforms.patches import Patches
from segkit.system.errors import SegkitError
from segkit.system.files import CACHE
from segkit.system.hardware import cache_budget, loader_workers, share_of_cores
from segkit.system.progress import console, track

Array = npt.NDArray[Any]


class SegmentationData(L.LightningDataModule):
    """Decoded images stay in memory where they fit; then loader workers share them."""

    def __init__(self, prepared: Prepared, config: Train, device: str, top: int) -> None:
        super().__init__()
        self.prepared, self.config, self.device, self.top = prepared, config, device, top
        self.train = self._dataset(prepared.split.train, Augmentation(config.augment.transforms, config.allow_targets))
        self.val = self._dataset(prepared.split.val)
        self._loader: TrainLoader | None = None
        self._position: dict[str, int] = {}

    def _dataset(self, ids: Sequence[str], augmentation: Augmentation | None = None) -> CaseDataset:
        """With augmentation: of the training, so in patches where these are wanted."""
        manifest, config = self.prepared.manifest, self.config
        cases = [manifest.by_id[i] for i in ids]
        patches, per_case = patches_of(config) if augmentation else (None, 1)
        cache = array_cache(config, manifest.labels, self.top)
        return CaseDataset(cases, manifest.labels, config.preprocess, augmentation, config.seed, self.top, patches, per_case, cache)

    def setup(self, stage: str) -> None:
        budget = cache_budget(self.config.data.cache_gb) // self._beside
        for dataset in (self.train, self.val):
            needed = sum(decoded_bytes(self.prepared.facts[case.id], dataset) for case in dataset.cases)
            if needed <= budget:
                dataset.keep_in_memory(share_of_cores("auto", self._beside))
                budget -= needed
        if self.trainer is None or self.trainer.is_global_zero:
            kept = "decoded once and kept in memory" if self.train.in_memory else "streamed from disk"
            console.print(f"loading    training images {kept}, {self._workers(self.train)['num_workers']} loader workers")

    def train_dataloader(self) -> TrainLoader:
        rank, world = self._place
        if len(self.train) < world:
            raise SegkitError(f"{len(self.train)} training cases for {world} processes;   use fewer  trainer.devices")
        data = self.config.data
        weights = self._weights() if self.config.sampling.weights == "foreground" else None
        sampler = EpochSampler(len(self.train), data.batch_size, self.config.seed, rank, world, data.shuffle, weights)
        self._loader = TrainLoader(self.train, sampler, pin_memory=self.device == "cuda", **self._workers(self.train))
        self._loader.load_state_dict(self._position)
        return self._loader

    def val_dataloader(self) -> DataLoader[Sample]:
        rank, world = self._place
        n = len(self.val)
        # As many on each process, since they meet in every step: some repeat one of the first cases, which then counts once.
        mine = [i % n for i in range(rank, n + -n % world, world)]
        size = self.config.inference.batch_size if same_size(self.config) else 1
        return DataLoader(self.val, batch_size=size, sampler=mine, **self._workers(self.val))

    def _weights(self) -> Array:
        """How often each training sample is drawn, by its foreground s: (s + 0.1 mean s) / (1.1 sum s) (Buda et al., 2019)."""
        facts, labels = self.prepared.facts, self.prepared.manifest.labels
        foreground = np.array([sum(facts[case.id].class_pixels(labels).values()) for case in self.train.cases], float)
        if not foreground.sum():
            raise SegkitError("sampling.weights=foreground, but no training image shows a structure;   add  sampling.weights=uniform")
        return np.tile((foreground + 0.1 * foreground.mean()) / (1.1 * foreground.sum()), self.train.per_case)

    @property
    def _place(self) -> tuple[int, int]:
        """Number of this process, and of how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _beside(self) -> int:
        """Processes that share this machine's cores and memory."""
        return self.trainer.num_devices if self.trainer else 1

    def _workers(self, dataset: CaseDataset) -> dict[str, Any]:
        n = loader_workers(self.config.data.num_workers, self.device, dataset.in_memory, self._beside)
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


def patches_of(config: Train) -> tuple[Patches | None, int]:
    """How patches are cut, and how many of each image in an epoch."""
    wanted = config.sampling
    if wanted.patch is None:
        return None, wanted.patches_per_image
    return Patches(wanted.patch, wanted.foreground, wanted.class_weights), wanted.patches_per_image


def same_size(config: Train) -> bool:
    """Whether all images have one size on the network's grid."""
    return config.preprocess.size is not None and config.preprocess.pad_to is None


def array_cache(config: Train, labels: LabelMap, top: int) -> ArrayCache | None:
    if not config.data.disk_cache_gb:
        return None
    made_by = repr((config.preprocess, labels, top, config.data.dims, config.data.neighbours))
    folder = Path(config.output_dir).absolute() / CACHE.name / "arrays"
    return ArrayCache(folder, int(config.data.disk_cache_gb * 1e9), config.preprocess, made_by)


def decoded_bytes(facts: CaseFacts, dataset: CaseDataset) -> int:
    """Memory of one decoded case: image, mask and, on the original grid, the truth."""
    here, there = math.prod(facts.shape), math.prod(dataset.config.size or facts.shape)
    planes = len(dataset.labels.classes) if dataset.labels.overlap else 1
    stays = facts.dtype == "uint8" and dataset.config.scale == "auto"
    return int(there * (facts.channels * (1 if stays else 4) + planes) + here * planes)


@dataclass(frozen=True)
class Intensity:
    """Of the training images: largest value of their bit depth, mean and SD by channel in unit scale."""

    top: int
    mean: list[float]
    sd: list[float]


MEASURED = 64
"""Images that tell mean and SD where these depend on the preprocessing; evenly taken from the training cases."""


def intensity(config: Train, prepared: Prepared) -> Intensity:
    """From the audit's sums where images keep their bit depth; else from images brought to the network's grid."""
    facts = [prepared.facts[i] for i in prepared.split.train]
    top = top_of(facts)
    if config.preprocess.scale == "auto" and facts[0].dtype in ("uint8", "uint16"):
        n = sum(math.prod(f.shape) for f in facts)
        mean = np.sum([f.sum for f in facts], axis=0) / n * SIXTEEN_BIT / top
        square = np.sum([f.sum_of_squares for f in facts], axis=0) / n * (SIXTEEN_BIT / top) ** 2
    elif config.preprocess.normalize == "dataset":
        mean, square = measured(config, prepared, top)
    else:
        mean, square = np.zeros(facts[0].channels), np.ones(facts[0].channels)
    return Intensity(top, mean.tolist(), np.sqrt(np.maximum(square - mean**2, 0)).tolist())


def top_of(facts: Sequence[CaseFacts]) -> int:
    if facts[0].dtype != "uint16":
        return SIXTEEN_BIT
    largest = max(round(SIXTEEN_BIT * max(f.maximum)) for f in facts)
    return max(255, int(2 ** largest.bit_length()) - 1)


def measured(config: Train, prepared: Prepared, top: int) -> tuple[Array, Array]:
    """Mean and mean square by channel over up to MEASURED training images on the network's grid."""
    ids = prepared.split.train
    chosen = [prepared.manifest.by_id[i] for i in ids[:: max(1, -(-len(ids) // MEASURED))]]
    dataset = CaseDataset(chosen, prepared.manifest.labels, config.preprocess, top=top)
    sums, squares, n = 0.0, 0.0, 0
    for i in track(range(len(chosen)), "measuring intensities", len(chosen)):
        image = dataset.decode(i).image
        flat = image.reshape(-1, image.shape[-1]).astype(np.float64)
        sums, squares, n = sums + flat.sum(axis=0), squares + (flat**2).sum(axis=0), n + len(flat)
    return np.asarray(sums / n), np.asarray(squares / n)
