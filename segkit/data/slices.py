"""Slices, 2.5-D stacks and volumes: one manifest seen as `data.dims` and `data.neighbours` say, from what the source yields.

Here are the `Pixels` made of other pixels (a slice of a volume, slices stacked, channels side by side, a region of a label map)
and the cases made of other cases. Whole volumes are read many times in a row (slice after slice, plane after plane), so the
latest few stay decoded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.case import Case, Pixels, exclude_line, grouped
from segkit.data.io.base import ReadError
from segkit.data.labels import Array
from segkit.system.errors import Problem
from segkit.system.files import natural
from segkit.system.shell import override

KEPT_BYTES = 1 << 30
"""Memory for decoded volumes: a gigabyte (but always the latest one)."""


class Recent:
    """The arrays that were read last. Threads that need the same one wait for a single read."""

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
    """Images of one grid side by side as channels: the modalities of a scan, or a slice between its neighbors (2.5-D)."""

    parts: tuple[Pixels, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return _all_paths(self.parts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the volume."""
        return shape_of(self.parts[0])

    def read(self) -> Array:
        first = self.parts[0].paths[0].name
        return np.concatenate(_read_alike(self.parts, slice(-1), first), axis=-1)


@dataclass(frozen=True)
class Volume:
    """Slices in order, as one volume: (D, H, W, C), or masks (D, H, W)."""

    slices: tuple[Pixels, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return _all_paths(self.slices)

    @property
    def shape(self) -> tuple[int, int, int]:
        rows, columns = self.slices[0].read().shape[:2]
        return len(self.slices), rows, columns

    def read(self) -> Array:
        return np.stack(_read_alike(self.slices, slice(None), "the first slice of its volume"))


def _all_paths(parts: Sequence[Pixels]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(path for part in parts for path in part.paths))


def _read_alike(parts: Sequence[Pixels], axes: slice, first: str) -> list[Array]:
    """Arrays whose shapes agree along `axes`. Raises `ReadError`, in which `first` names the first part."""
    arrays = [part.read() for part in parts]
    for part, array in zip(parts, arrays, strict=True):
        if array.shape[axes] != arrays[0].shape[axes]:
            size, wanted = (" x ".join(map(str, a.shape[axes][: 2 if a.ndim < 4 else 3])) for a in (array, arrays[0]))
            raise ReadError(part.paths[0], f"is {size}, but {first} is {wanted}")
    return arrays


@dataclass(frozen=True)
class Region:
    """Where a label map holds one of `values`: 0 and 1, uint8. Regions of one map may overlap (whole tumor, tumor core)."""

    mask: Pixels
    values: tuple[int, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.mask.paths

    def read(self) -> Array:
        return np.isin(recent.read(self.mask), self.values).astype(np.uint8)


@dataclass(frozen=True)
class Blank:
    """An empty mask on the grid of an image: a structure that is known to be absent."""

    like: Pixels

    @property
    def paths(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> Array:
        return np.zeros(recent.read(self.like).shape[:-1], np.uint8)


def shape_of(volume: Pixels) -> tuple[int, int, int]:
    """Slices, rows, columns of a volume; it is read only where it has no `shape`."""
    slices, rows, columns, *_ = volume.shape if hasattr(volume, "shape") else recent.read(volume).shape
    return slices, rows, columns


def view(cases: Sequence[Case], dims: int, neighbours: Sequence[int], problems: list[Problem]) -> list[Case]:
    """`cases` as 2-D or 3-D ones; what prevents that is added to `problems`."""
    if dims == 3:
        if list(neighbours) != [0]:
            problems.append(
                Problem("data.neighbours", "is for slices; a volume contains its neighbors", f"add  {override('data.neighbours', [0])}")
            )
        return volumes(cases, problems)
    return with_neighbours(slices(cases, problems), neighbours, problems)


def slices(cases: Sequence[Case], problems: list[Problem]) -> list[Case]:
    """Volumes cut into their slices; each slice knows its whole volume."""
    flat: list[Case] = []
    for case in cases:
        if case.dims == 2:
            flat.append(case)
            continue
        try:
            n = shape_of(case.image)[0]
        except ReadError as error:
            problems.append(Problem(str(error.path), error.reason, f"fix the file, or  {exclude_line([case.id])}"))
            continue
        flat += [slice_of(case, z) for z in range(n)]
    separate = by_volume([case for case in flat if case.whole is None])  # slices that came as files of their own
    whole = {name: Volume(tuple(case.image for case in members)) for name, members in separate.items()}
    return [replace(case, whole=whole[case.volume]) if case.whole is None and case.volume else case for case in flat]


def slice_of(case: Case, z: int) -> Case:
    """Slice `z` of the case of a volume."""
    mask = {plane: Slice(pixels, z) for plane, pixels in case.masks.items()}
    return replace(
        case,
        id=f"{case.id}_{z:03d}",
        image=Slice(case.image, z),
        mask=mask.get("", mask or None),
        group=case.group_or_id,
        volume=case.id,
        position=z,
        dims=2,
        whole=case.image,
    )


def by_volume(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """The slices of each volume, in order of their positions."""
    members = grouped((case.volume, case) for case in cases if case.volume)
    return {name: sorted(members[name], key=lambda case: case.position) for name in sorted(members, key=natural)}


def with_neighbours(cases: Sequence[Case], offsets: Sequence[int], problems: list[Problem]) -> list[Case]:
    """Each image between its neighbors, as channels: the slice at position + offset, or the nearest one there is."""
    if list(offsets) == [0]:
        return list(cases)
    alone = [case for case in cases if not case.volume]
    if alone:
        what = f"needs neighboring slices, but {len(alone)} images belong to no volume, e.g. {alone[0].id}"
        problems.append(Problem("data.neighbours", what, f"add  {override('data.neighbours', [0])}"))
        return list(cases)
    stacked: dict[str, Case] = {}
    for members in by_volume(cases).values():
        positions = np.array([case.position for case in members])
        for case in members:  # argmin: of two as near, the first
            parts = tuple(members[int(np.abs(positions - case.position - offset).argmin())].image for offset in offsets)
            stacked[case.id] = replace(case, image=Channels(parts))
    return [stacked[case.id] for case in cases]


def volumes(cases: Sequence[Case], problems: list[Problem]) -> list[Case]:
    """Slices combined to their volumes."""
    alone = [case for case in cases if case.dims == 2 and not case.volume]
    if alone:
        what = f"is 3, but {len(alone)} images belong to no volume, e.g. {alone[0].id}"
        problems.append(Problem("data.dims", what, "add  data.dims=2"))
    whole = [replace(case, whole=case.image) for case in cases if case.dims == 3]
    separate = by_volume([case for case in cases if case.dims == 2])
    return [*whole, *(_volume_of(name, members, problems) for name, members in separate.items())]


def _volume_of(name: str, members: Sequence[Case], problems: list[Problem]) -> Case:
    """One case of all slices of a volume. Where some have a mask and others none, the volume counts as unlabelled."""
    first = members[0]
    image = Volume(tuple(case.image for case in members))
    without = [case for case in members if case.mask is None]
    if without and len(without) < len(members):
        what = f"{len(without)} of {len(members)} slices have no mask, so the volume is left out"
        problems.append(Problem(f"volume {name}", what, "add their masks, or use  data.dims=2", "warning"))
    if len({case.split for case in members}) > 1:
        problems.append(Problem(f"volume {name}", "its slices are in different subsets of the data set's own split", "fix the split"))
    return replace(
        first,
        id=name,
        image=image,
        mask=None if without else _stacked_masks(members),
        group=first.group or name,
        spacing_mm=first.spacing_mm if len(first.spacing_mm) == 3 else (),
        volume="",
        position=0,
        dims=3,
        whole=image,
    )


def _stacked_masks(slices: Sequence[Case]) -> Pixels | Mapping[str, Pixels]:
    """Plane by plane; a slice without a plane has none of that structure."""
    planes = dict.fromkeys(plane for case in slices for plane in case.masks)
    stacked = {plane: Volume(tuple(case.masks.get(plane) or Blank(case.image) for case in slices)) for plane in planes}
    return stacked.get("", stacked)
