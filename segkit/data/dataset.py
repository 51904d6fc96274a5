"""One Dataset for every source: read, bring to the network's grid, cut a patch, augment."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from segkit.data.cache import ArrayCache
from segkit.data.case import Case, encoded_mask
from segkit.data.labels import IGNORE, LabelMap
from segkit.data.transforms import preprocess
from segkit.data.transforms.augment import Augmentation
from segkit.data.transforms.geometry import Step
from segkit.data.transforms.intensity import SIXTEEN_BIT, Intensity
from segkit.data.transforms.patches import Patches, locations_of
from segkit.data.transforms.preprocess import Decoded, Preprocessing
from segkit.system.progress import track

Array = npt.NDArray[Any]
MAX_WORKERS = 256


@dataclass(frozen=True)
class Sample:
    """One case on the network's grid, and the way back."""

    image: Tensor  # (C, *S) uint8, or float32
    mask: Tensor  # (*S) or (K, *S) uint8 of class indices or planes; 255 = ignore
    index: int
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Batch:
    image: Tensor  # (B, C, *S)
    mask: Tensor  # (B, *S) or (B, K, *S)
    indices: tuple[int, ...]
    steps: tuple[tuple[Step, ...], ...] = ()

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """Lightning moves batches by calling this (and says `non_blocking` only for plain tensors)."""
        non_blocking = non_blocking or device.type == "cuda"
        image, mask = (t.to(device, non_blocking=non_blocking) for t in (self.image, self.mask))
        return Batch(image, mask, self.indices, self.steps)

    def pin_memory(self) -> Batch:
        return Batch(self.image.pin_memory(), self.mask.pin_memory(), self.indices, self.steps)


class CaseDataset(Dataset[Sample]):
    """Cases as samples. Indexed by (epoch, index) where augmentation is on, so that it is a function of both and the seed.

    With `patches` the samples of a case are `per_case` patches of it: sample i belongs to case i % n.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        labels: LabelMap,
        config: Preprocessing,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        top: int = SIXTEEN_BIT,
        patches: Patches | None = None,
        per_case: int = 1,
        cache: ArrayCache | None = None,
    ) -> None:
        self.cases, self.labels, self.config = tuple(cases), labels, config
        self.augmentation, self.seed = augmentation, seed
        self.patches, self.per_case, self.cache = patches, per_case, cache
        self.intensity = Intensity(config, top)
        self._decoded: list[Decoded] = []
        self._truths: list[Array] = []
        # Which index each loader worker is reading, in shared memory: names the file if the worker is killed.
        self.reading = torch.full((MAX_WORKERS,), -1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

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
        if self.augmentation is not None:
            image, mask = self.augmentation(image, mask, (self.seed, epoch, index))
        image = self.intensity.normalize(image, decoded.range)
        pixels = np.require(np.moveaxis(image, -1, 0), requirements=("C", "W"))
        return Sample(torch.from_numpy(pixels), torch.from_numpy(np.array(mask)), number, decoded.steps)

    @property
    def in_memory(self) -> bool:
        return bool(self._decoded)

    def decode(self, index: int) -> Decoded:
        """From the disk cache where there is one, else from the files."""
        return self._read(index) if self.cache is None else self.cache.get(self.cases[index], lambda: self._read(index))

    def _read(self, index: int) -> Decoded:
        decoded = preprocess.decode(self.cases[index], self.labels, self.config, self.intensity)
        if self.patches is not None or self.cache is not None:
            decoded.locations.update(locations_of(decoded.mask, self.labels))
        return decoded

    def _decode_into_memory(self, index: int) -> Decoded:
        """Off the disk: a process may have some 65,000 mapped files, no more."""
        decoded = self.decode(index)
        return replace(decoded, image=np.array(decoded.image), mask=np.array(decoded.mask))

    def truth(self, index: int) -> Array:
        """The mask on the original grid, as `encoded_mask`."""
        return self._truths[index] if self._truths else encoded_mask(self.cases[index], self.labels)

    def keep_in_memory(self, threads: int) -> None:
        """Decode everything once, before loader workers are forked, so that they share it."""
        n = len(self.cases)
        with ThreadPoolExecutor(threads) as pool:
            self._decoded = list(track(pool.map(self._decode_into_memory, range(n)), "decoding", total=n))
            if self.augmentation is None:  # validation compares with the original grid, every epoch
                self._truths = list(pool.map(self.truth, range(n)))


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
