"""One Dataset for every source: read, bring to the network's grid, augment."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from segkit.data import geometry
from segkit.data.augment import Augmentation
from segkit.data.geometry import Grid
from segkit.data.intensity import SIXTEEN_BIT, unit_scale
from segkit.data.labels import IGNORE, LabelMap
from segkit.data.manifest import Case, encoded_mask
from segkit.progress import track

Array = npt.NDArray[Any]
MAX_WORKERS = 256


@dataclass(frozen=True)
class Sample:
    """One case on the network's grid."""

    image: Tensor  # (C, H, W) uint8, or float32 in unit scale
    mask: Tensor  # (H, W) or (K, H, W) uint8 of class indices or planes; 255 = ignore
    index: int


@dataclass(frozen=True)
class Batch:
    image: Tensor  # (B, C, H, W)
    mask: Tensor  # (B, H, W) or (B, K, H, W)
    indices: tuple[int, ...]

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """Lightning moves batches by calling this (and says `non_blocking` only for plain tensors)."""
        non_blocking = non_blocking or device.type == "cuda"
        image, mask = (t.to(device, non_blocking=non_blocking) for t in (self.image, self.mask))
        return Batch(image, mask, self.indices)

    def pin_memory(self) -> Batch:
        return Batch(self.image.pin_memory(), self.mask.pin_memory(), self.indices)


class CaseDataset(Dataset[Sample]):
    """Cases as samples. Indexed by (epoch, index) where augmentation is on, so that it is a function of both and the seed."""

    def __init__(
        self,
        cases: Sequence[Case],
        labels: LabelMap,
        grid: Grid,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        top: int = SIXTEEN_BIT,
    ) -> None:
        self.cases, self.labels, self.grid = tuple(cases), labels, grid
        self.augmentation, self.seed, self.top = augmentation, seed, top
        self._decoded: list[tuple[Array, Array]] = []
        self._truths: list[Array] = []
        # Which index each loader worker is reading, in shared memory: names the file if the worker is killed.
        self.reading = torch.full((MAX_WORKERS,), -1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if (worker := get_worker_info()) is not None:
            cv2.setNumThreads(0)  # one thread a worker: more would fight for the same cores
            self.reading[worker.id % MAX_WORKERS] = index
        image, mask = self._decoded[index] if self._decoded else self.decode(index)
        if self.augmentation is not None:
            image, mask = self.augmentation(image, mask, (self.seed, epoch, index))
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
        return Sample(torch.from_numpy(pixels), torch.from_numpy(np.ascontiguousarray(mask)), index)

    @property
    def in_memory(self) -> bool:
        return bool(self._decoded)

    def decode(self, index: int) -> tuple[Array, Array]:
        """Image (h, w, C) in unit scale and mask on the network's grid, before augmentation."""
        case = self.cases[index]
        image = case.image.read()
        steps = geometry.plan(self.grid, (image.shape[0], image.shape[1]))
        image = unit_scale(geometry.apply(steps, image), self.top)
        if not case.masks:
            return image, np.full(image.shape[:2], IGNORE, np.uint8)
        return image, geometry.apply_mask(steps, encoded_mask(case, self.labels))

    def truth(self, index: int) -> Array:
        """The mask on the original grid, as `encoded_mask`."""
        return self._truths[index] if self._truths else encoded_mask(self.cases[index], self.labels)

    def keep_in_memory(self, threads: int) -> None:
        """Decode everything once, before loader workers are forked, so that they share it."""
        with ThreadPoolExecutor(threads) as pool:
            decoded = pool.map(self.decode, range(len(self)))
            self._decoded = list(track(decoded, "decoding", total=len(self)))
            if self.augmentation is None:  # validation compares with the original grid, every epoch
                self._truths = list(pool.map(self.truth, range(len(self))))


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; unequal sizes are padded to the largest, at the bottom and right, with zeros that the mask ignores."""
    height = max(s.image.shape[-2] for s in samples)
    width = max(s.image.shape[-1] for s in samples)
    images = torch.stack([_pad(s.image, height, width, 0) for s in samples])
    masks = torch.stack([_pad(s.mask, height, width, IGNORE) for s in samples])
    return Batch(images, masks, tuple(s.index for s in samples))


def _pad(tensor: Tensor, height: int, width: int, value: int) -> Tensor:
    below, right = height - tensor.shape[-2], width - tensor.shape[-1]
    return torch.nn.functional.pad(tensor, (0, right, 0, below), value=value) if below or right else tensor
