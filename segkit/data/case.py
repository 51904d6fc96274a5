"""The manifest: what a source found on disk, one `Case` an image, before anything is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from segkit.data.labels import BACKGROUND, LabelMap

Array = npt.NDArray[Any]
Subset = Literal["train", "val", "test"]


class Pixels(Protocol):
    """A recipe that yields an array: a file, an outline to fill, a run-length code, a stack of neighbouring slices.

    Implementations are frozen dataclasses: small, comparable, and they travel to loader workers by pickle.
    """

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that `read` opens."""

    def read(self) -> Array:
        """Image: (H, W, C) in its own dtype; a volume (D, H, W, C). Mask: integers (H, W) or (D, H, W), or colours
        (H, W, 3). Raises `ReadError`."""


class Volumetric(Pixels, Protocol):
    """The `Pixels` of a volume, which can say its size without being read whole."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns, from the header. Raises `ReadError`."""


@dataclass(frozen=True)
class Case:
    """One image with what is known about it. `mask` is None for unlabelled images, a dict of planes where classes overlap.

    A source yields slices (`dims` 2) or whole volumes (`dims` 3), as the files come; `views.py` makes the one from the other.
    """

    id: str
    image: Pixels
    mask: Pixels | Mapping[str, Pixels] | None = None
    group: str = ""
    """Patient, exam or volume: cases of one group never stand on both sides of a split. Empty: the case is its own group."""
    split: str = ""
    """The side that the data set itself prescribes (train, val, test), or empty."""
    spacing_mm: tuple[float, ...] = ()
    """Pixel size by axis, in millimetres: (rows, columns), or (slices, rows, columns) where that is known; empty where unknown."""
    facts: Mapping[str, float | str] = field(default_factory=dict)
    """Reference values that a metric may use, such as the head circumference in mm."""
    volume: str = ""
    """Of a slice: the volume it belongs to. Empty: an image by itself."""
    position: int = 0
    """Of a slice: its number within the volume. Numbers may be missing where slices are."""
    dims: Literal[2, 3] = 2
    """3: image and masks are whole volumes; the image is then `Volumetric`."""
    whole: Pixels | None = None
    """Of a slice: its whole volume, over which intensities are looked at. `views.py` fills it in."""

    @property
    def masks(self) -> dict[str, Pixels]:
        if self.mask is None:
            return {}
        return dict(self.mask) if isinstance(self.mask, Mapping) else {"": self.mask}

    @property
    def paths(self) -> tuple[Path, ...]:
        return (*self.image.paths, *(path for mask in self.masks.values() for path in mask.paths))

    @property
    def pixel_mm(self) -> tuple[float, ...]:
        """Pixel size by axis of this image or volume; empty where unknown."""
        return self.spacing_mm[-self.dims :] if len(self.spacing_mm) >= self.dims else ()

    @property
    def group_or_id(self) -> str:
        return self.group or self.id


@dataclass(frozen=True)
class Manifest:
    """All cases of a data set, in natural order of their ids, with the meaning of their labels."""

    name: str
    root: Path
    cases: tuple[Case, ...]
    labels: LabelMap
    is_phantom: bool = False

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    @cached_property
    def by_id(self) -> dict[str, Case]:
        return {case.id: case for case in self.cases}

    @cached_property
    def hash(self) -> str:
        """Identity of the manifest: ids, groups, relative file names and sizes. Equal on every platform and at every root."""
        digest = hashlib.sha256()
        for case in self.cases:
            files = [f"{relative(path, self.root)}:{size_of(path)}" for path in case.paths]
            digest.update("\t".join([case.id, case.group, case.split, *files]).encode() + b"\n")
        return digest.hexdigest()[:16]

    @property
    def dims(self) -> int:
        """2 for images and slices, 3 for volumes."""
        return self.cases[0].dims if self.cases else 2

    def labelled(self) -> Manifest:
        return Manifest(self.name, self.root, tuple(c for c in self.cases if c.masks), self.labels, self.is_phantom)


def relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def encoded_mask(case: Case, labels: LabelMap) -> Array:
    """The truth of a case: class indices (*S) uint8, or planes (K, *S) uint8 of 0, 1 (255 = ignore) where classes overlap.

    Values that the label map does not name become `ignore`: the audit has refused them before this is called.
    """
    if labels.overlap:
        return stack_planes(case, labels)
    (mask,) = case.masks.values()
    return labels.encode(mask.read())[0]


def stack_planes(case: Case, labels: LabelMap) -> Array:
    """Planes of one class name are joined; a class without a plane in this case is empty, which is an answer, not a gap."""
    read = {raw: mask.read() for raw, mask in case.masks.items()}
    shape = next(iter(read.values())).shape
    planes = np.zeros((len(labels.classes), *shape), np.uint8)
    for raw, name in labels.values:
        if name == BACKGROUND:  # a structure that is not wanted
            continue
        if name == "ignore" and raw in read:
            planes[:, read[raw] > 0] = 255
        elif raw in read:
            plane = planes[labels.classes.index(name)]
            plane[(read[raw] > 0) & (plane != 255)] = 1
    return planes
