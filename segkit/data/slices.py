"""Pixels made of other pixels: a slice of a volume, slices stacked, channels side by side, a region of a label map.

Whole volumes are read often and in a row (slice after slice, plane after plane), so the latest few stay decoded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segkit.data.case import Pixels, Volumetric
from segkit.data.io.base import ReadError

Array = npt.NDArray[Any]

KEPT_BYTES = 1 << 30
"""Decoded volumes that stay in memory, at most: a gigabyte (but always the latest one)."""


class Recent:
    """The arrays that were read last. Threads that want the same one wait for a single read."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[Pixels, Array] = OrderedDict()
        self._locks: dict[Pixels, threading.Lock] = {}
        self._guard = threading.Lock()

    def read(self, pixels: Pixels) -> Array:
        with self._guard:
            lock = self._locks.setdefault(pixels, threading.Lock())
        with lock:
            with self._guard:
                if pixels in self._kept:
                    self._kept.move_to_end(pixels)
                    return self._kept[pixels]
            array = pixels.read()
            with self._guard:
                self._kept[pixels] = array
                self._locks.pop(pixels, None)
                while len(self._kept) > 1 and sum(a.nbytes for a in self._kept.values()) > self.most_bytes:
                    self._kept.popitem(last=False)
            return array

    def __reduce__(self) -> tuple[Any, ...]:
        return Recent, (self.most_bytes,)


recent = Recent()


@dataclass(frozen=True)
class Slice:
    """Slice `index` of a volume: image (H, W, C) or mask (H, W)."""

    volume: Pixels
    index: int

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.volume.paths

    def read(self) -> Array:
        one: Array = recent.read(self.volume)[self.index]
        return one


@dataclass(frozen=True)
class Channels:
    """Images of one grid side by side as channels: the modalities of a scan, or a slice between its neighbours (2.5-D)."""

    parts: tuple[Pixels, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(path for part in self.parts for path in part.paths))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of volumes."""
        return shape_of(self.parts[0])

    def read(self) -> Array:
        arrays = [part.read() for part in self.parts]
        for part, array in zip(self.parts, arrays, strict=True):
            if array.shape[:-1] != arrays[0].shape[:-1]:
                size, first = (" x ".join(map(str, a.shape[:-1])) for a in (array, arrays[0]))
                raise ReadError(part.paths[0], f"is {size}, but {self.parts[0].paths[0].name} is {first}")
        return np.concatenate(arrays, axis=-1)


@dataclass(frozen=True)
class Volume:
    """Slices in order, as one volume: (D, H, W, C), or masks (D, H, W)."""

    slices: tuple[Pixels, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(path for one in self.slices for path in one.paths))

    @property
    def shape(self) -> tuple[int, int, int]:
        rows, columns = self.slices[0].read().shape[:2]
        return len(self.slices), rows, columns

    def read(self) -> Array:
        arrays = [one.read() for one in self.slices]
        for one, array in zip(self.slices, arrays, strict=True):
            if array.shape != arrays[0].shape:
                size, first = (" x ".join(map(str, a.shape[:2])) for a in (array, arrays[0]))
                raise ReadError(one.paths[0], f"is {size}, but the first slice of its volume is {first}")
        return np.stack(arrays)


@dataclass(frozen=True)
class Region:
    """Where a label map holds one of `values`: 0 and 1, uint8. Regions of one map may overlap (whole tumour, tumour core)."""

    mask: Pixels
    values: tuple[int, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.mask.paths

    def read(self) -> Array:
        return np.isin(recent.read(self.mask), self.values).astype(np.uint8)


@dataclass(frozen=True)
class Blank:
    """An empty mask on the grid of an image: a structure that is known not to be there."""

    like: Pixels

    @property
    def paths(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> Array:
        return np.zeros(recent.read(self.like).shape[:-1], np.uint8)


def shape_of(volume: Pixels) -> tuple[int, int, int]:
    """Slices, rows, columns of a volume; read whole only where it cannot say."""
    if hasattr(volume, "shape"):
        typed: Volumetric = volume  # type: ignore[assignment]
        return typed.shape
    rows = recent.read(volume).shape
    return rows[0], rows[1], rows[2]
