"""One Dataset for every source (read, bring to the network's grid, cut a patch, augment), and the order in which it is trained.

Augmentation and order depend on (seed, epoch, index) alone, so that a training can be resumed in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from segkit.config.schema import Preprocess
from segkit.data.cache import ArrayCache
from segkit.data.case import Case, encoded_mask
from segkit.data.labels import IGNORE, Array, LabelMap
from segkit.data.transforms import preprocess
from segkit.data.transforms.augment import Augmentation
from segkit.data.transforms.geometry import Step
from segkit.data.transforms.intensity import SIXTEEN_BIT, Intensity
from segkit.data.transforms.patches import Patches, locations_of
from segkit.data.transforms.preprocess import Decoded
from segkit.data.transforms.progressive import ProgressiveResizing
from segkit.system.errors import SegkitError, first_line
from segkit.system.progress import track

MAX_WORKERS = 256


@dataclass(frozen=True)
class Sample:
    """One case on the network's grid, and the steps that lead back to the original grid."""

    image: Tensor  # (C, *S) uint8, or float32
    mask: Tensor  # (*S) or (K, *S) uint8 of class indices or planes; 255 = ignore
    index: int
    steps: tuple[Step, ...] = ()


class Batch:
    """A batch of samples; also `batch["image"]`, and `image, mask = batch`.

    No dataclass: Lightning would look into one, and change the type of numbers of whatever it finds.

    Args:
        image: (B, C, *S) uint8 or float32
        mask: (B, *S) class indices, or (B, K, *S) planes, uint8; 255 = ignore
        indices: of the cases in their data set.
        steps: for each, what leads back to its original grid.
    """

    def __init__(self, image: Tensor, mask: Tensor, indices: tuple[int, ...], steps: tuple[tuple[Step, ...], ...] = ()) -> None:
        self.image, self.mask, self.indices, self.steps = image, mask, indices, steps

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.image, self.mask))

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """Lightning moves batches by calling this (and sets `non_blocking` only for plain tensors)."""
        non_blocking = non_blocking or device.type == "cuda"
        image, mask = (t.to(device, non_blocking=non_blocking) for t in (self.image, self.mask))
        return Batch(image, mask, self.indices, self.steps)

    def pin_memory(self) -> Batch:
        return Batch(self.image.pin_memory(), self.mask.pin_memory(), self.indices, self.steps)


def as_batch(batch: Any) -> Batch:
    """A batch as segkit has it: its own; {"image", "mask" or "label"}, as MONAI's; or (image, mask).

    Images are (B, C, *S), masks of class indices (B, *S) or (B, 1, *S), or of planes (B, K, *S); 255 = ignore.
    """
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, Mapping):
        image, mask = batch.get("image"), batch.get("mask", batch.get("label"))
    else:
        image, mask = (*batch, None, None)[:2] if isinstance(batch, list | tuple) else (None, None)
    if not isinstance(image, Tensor) or not isinstance(mask, Tensor):
        shown = f"keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise SegkitError(f'a batch is (image, mask) or {{"image": …, "mask": …}} of tensors, not {shown}')
    mask = mask[:, 0] if mask.ndim == image.ndim and mask.shape[1] == 1 else mask
    return Batch(image, mask.to(torch.uint8), tuple(range(len(image))))


class CaseDataset(Dataset[Sample]):
    """Cases as samples; indexed by (epoch, index), of which augmentation and patches are a function.

    Args:
        cases: images and masks, read on access.
        labels: turns raw mask values into class indices.
        config: the keys of `preprocess`.
        augmentation: random changes of the training images.
        seed: of augmentation and patches.
        intensity_max: largest value of 16-bit images, see `Intensity`.
        patches: cuts each sample; sample i is then a patch of case i % n.
        per_case: samples of each case.
        cache: decoded cases on disk.
        resizing: makes the samples of early epochs smaller.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        labels: LabelMap,
        config: Preprocess,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        intensity_max: int = SIXTEEN_BIT,
        patches: Patches | None = None,
        per_case: int = 1,
        cache: ArrayCache | None = None,
        resizing: ProgressiveResizing | None = None,
    ) -> None:
        self.cases, self.labels, self.config = tuple(cases), labels, config
        self.augmentation, self.seed = augmentation, seed
        self.patches, self.per_case, self.cache, self.resizing = patches, per_case, cache, resizing
        self.intensity = Intensity(config, intensity_max)
        self._decoded: list[Decoded] = []
        self._references: list[Array] = []
        # Which index each loader worker is reading, in shared memory: names the file if the worker is killed.
        self.reading = torch.full((MAX_WORKERS,), -1, dtype=torch.int64)
        with suppress(RuntimeError):  # there is none, nor are there workers then
            self.reading.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.cases) * self.per_case

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        number = index % len(self.cases)
        if (worker := get_worker_info()) is not None:
            cv2.setNumThreads(0)  # one thread a worker: more would fight for the same cores
            self.reading[worker.id % MAX_WORKERS] = number
        decoded = self._decoded[number] if self._decoded else self.decode(number)
        image, mask = decoded.image, decoded.mask
        if self.patches is not None:
            image, mask = self.patches.cut(image, mask, decoded.locations, (self.seed, epoch, index))
        image, mask = np.asarray(image), np.asarray(mask)  # of a memory map only what the patch needs
        if self.resizing is not None:
            image, mask = self.resizing(image, mask, epoch)
        if self.augmentation is not None:
            image, mask = self.augmentation(image, mask, (self.seed, epoch, index))
        image = self.intensity.normalize(image, decoded.range)
        pixels = np.require(np.moveaxis(image, -1, 0), requirements=("C", "W"))
        return Sample(torch.from_numpy(pixels), torch.from_numpy(np.array(mask)), number, decoded.steps)

    @property
    def in_memory(self) -> bool:
        return bool(self._decoded)

    def decode(self, index: int) -> Decoded:
        """A case on the network's grid, from the disk cache where there is one, else from its files."""
        return self._read(index) if self.cache is None else self.cache.get(self.cases[index], lambda: self._read(index))

    def _read(self, index: int) -> Decoded:
        decoded = preprocess.decode(self.cases[index], self.labels, self.config, self.intensity)
        if self.patches is not None or self.cache is not None:
            decoded.locations.update(locations_of(decoded.mask, self.labels))
        return decoded

    def reference(self, index: int) -> Array:
        """The mask on the original grid, as `encoded_mask`."""
        return self._references[index] if self._references else encoded_mask(self.cases[index], self.labels)

    def keep_in_memory(self, threads: int) -> None:
        """Decode everything once, before loader workers are forked, so that they share it.

        Files are read again although the audit has just read them: it keeps statistics of a data set of any size, no pixels.
        """
        n = len(self.cases)

        def decode(index: int) -> Decoded:
            decoded = self.decode(index)  # copied off the disk: a process may have some 65,000 mapped files, no more
            return replace(decoded, image=np.array(decoded.image), mask=np.array(decoded.mask))

        def reference(index: int) -> Array:
            return self.reference(index) if self._decoded[index].steps else self._decoded[index].mask

        with ThreadPoolExecutor(threads) as pool:
            self._decoded = list(track(pool.map(decode, range(n)), "decoding", total=n))
            if self.augmentation is None:  # validation compares with the original grid, every epoch
                self._references = list(pool.map(reference, range(n)))


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; unequal sizes are padded to the largest, at the end of each axis, with zeros that the mask ignores."""
    shape = [max(sizes) for sizes in zip(*(s.image.shape[1:] for s in samples), strict=True)]
    images = torch.stack([_pad(s.image, shape, 0) for s in samples])
    masks = torch.stack([_pad(s.mask, shape, IGNORE) for s in samples])
    return Batch(images, masks, tuple(s.index for s in samples), tuple(s.steps for s in samples))


def _pad(tensor: Tensor, shape: Sequence[int], value: int) -> Tensor:
    missing = [wanted - n for wanted, n in zip(shape, tensor.shape[-len(shape) :], strict=True)]
    widths = [width for more in reversed(missing) for width in (0, more)]
    return torch.nn.functional.pad(tensor, widths, value=value) if any(missing) else tensor


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): a permutation that depends on (seed, epoch) alone, distributed over `world_size` processes.

    A last, smaller batch is dropped unless it is the only one: batch norm cannot learn from a single image.

    Args:
        n: samples of an epoch.
        batch_size: of each process.
        seed: of the order.
        rank: number of this process.
        world_size: number of processes.
        shuffle: False keeps the first epoch's order.
        weights: (n,); indices are then drawn with replacement, in proportion to them.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, shuffle: bool = True, weights: Array | None = None
    ) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.rank, self.world_size, self.shuffle = rank, world_size, shuffle
        self.weights = weights
        self.epoch = 0
        self.skip = 0
        """Batches at the start of the epoch that were trained before the run was interrupted."""

    def __len__(self) -> int:
        return max(1, self.n // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order(np.random.Generator(np.random.PCG64([self.seed, self.epoch if self.shuffle else 0])))
        mine = [int(i) for i in order[self.rank :: self.world_size]]
        for batch in range(self.skip, len(self)):
            indices = mine[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(self.epoch, index) for index in indices]

    def _order(self, random: np.random.Generator) -> Array:
        if self.weights is None:
            return random.permutation(self.n)
        steps = np.cumsum(self.weights) / np.sum(self.weights)
        return np.minimum(np.searchsorted(steps, random.random(self.n), side="right"), self.n - 1)

    @property
    def sampler(self) -> EpochSampler:
        """Where Lightning looks for `set_epoch` of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class TrainLoader(DataLoader[Sample]):
    """A DataLoader whose position is part of the checkpoint (Lightning saves and restores `state_dict`)."""

    def __init__(self, dataset: CaseDataset, sampler: EpochSampler, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=sampler, **options)
        self.position = sampler
        self._done = 0
        self._resume: dict[str, int] = {}

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Lazy on purpose: Lightning creates the iterator before it has set the epoch."""
        resumes_here = self._resume.get("epoch") == self.position.epoch
        self.position.skip = self._done = self._resume["batches"] if resumes_here else 0
        self._resume = {}
        for batch in super().__iter__():
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.position.epoch, "batches": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume = dict(state)


@contextmanager
def naming_killed_workers(*datasets: CaseDataset) -> Iterator[None]:
    """Turn torch's "worker (pid 7) exited unexpectedly" into an error that names what was being read."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "Caught" in first_line(error):
            raise
        files = [str(d.cases[i].image.paths[0]) for d in datasets for i in sorted(set(d.reading.tolist())) if i >= 0]
        raise SegkitError(
            f"a loader worker was killed ({first_line(error)})\n"
            f"  last files being read: {', '.join(files) or 'unknown'}\n"
            "  most often the machine ran out of memory;   try  data.num_workers=0  or a smaller data.batch_size"
        ) from error
