"""Cases and manifest: what a source found on disk, before any pixel is read."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np

from segkit.data.labels import BACKGROUND, IGNORE, IGNORE_NAME, Array, LabelMap
from segkit.system.shell import argument, quoted
from segkit.system.text import readable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Pixels(Protocol):
    """A recipe that yields an array: a file, an outline to fill, a run-length code, a stack of neighboring slices.

    Implementations are frozen dataclasses: small, comparable, and they travel to loader workers by pickle. Those of a volume have
    a `shape` as well (slices, rows, columns), where it is known without reading the volume whole.
    """

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that `read` opens."""

    def read(self) -> Array:
        """Read the array.

        Returns:
            An image (H, W, C) in its own dtype, or a volume (D, H, W, C); a mask of integers (H, W) or (D, H, W), or of RGB colors
            (H, W, 3).

        Raises:
            ReadError: A file is missing, damaged or of another kind.
        """


@dataclass(frozen=True)
class Case:
    """One image with its mask and what is known about it.

    A source yields slices (`dims` 2) or whole volumes (`dims` 3), as the files come; `slices.py` makes the one from the other.

    Args:
        id: Unique name; cases are kept in natural order of their ids.
        image: Recipe of the image.
        mask: Recipe of the mask; a dict of planes where classes overlap; None for unlabelled images.
        group: Patient, exam or volume: cases of one group are never in two subsets of a split. Empty: the case is its own group.
        split: The subset that the data set itself prescribes (train, val, test), or empty.
        spacing_mm: Pixel size by axis, in millimeters: (rows, columns), or (slices, rows, columns); empty where unknown.
        facts: Reference values that a metric may use, such as the head circumference in mm.
        volume: The volume that a slice belongs to. Empty: an image by itself.
        position: Number of a slice within its volume. Numbers may be missing where slices are.
        dims: 3: image and masks are whole volumes.
        whole: The whole volume of a slice, over which intensities are measured. `slices.py` fills it in.
    """

    id: str
    image: Pixels
    mask: Pixels | Mapping[str, Pixels] | None = None
    group: str = ""
    split: str = ""
    spacing_mm: tuple[float, ...] = ()
    facts: Mapping[str, float | str] = field(default_factory=dict)
    volume: str = ""
    position: int = 0
    dims: Literal[2, 3] = 2
    whole: Pixels | None = None

    @property
    def masks(self) -> dict[str, Pixels]:
        """Masks by plane; '' where there is one mask, empty for unlabelled images."""
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
    """All cases of a data set, in natural order of their ids, with the meaning of their labels.

    Args:
        name: Name of the source.
        root: Folder of the data set.
        cases: The cases, unread.
        labels: Meaning of the mask values.
        is_phantom: Whether the data set is synthetic.
        source_keys: Keys of `data.source` that the source takes, which advice may name.
    """

    name: str
    root: Path
    cases: tuple[Case, ...]
    labels: LabelMap
    is_phantom: bool = False
    source_keys: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    @cached_property
    def by_id(self) -> dict[str, Case]:
        return {case.id: case for case in self.cases}

    @cached_property
    def hash(self) -> str:
        """Hash of ids, groups, relative file names and sizes: equal on every platform and at every root."""
        digest = hashlib.sha256()
        for case in self.cases:
            files = [f"{relative(path, self.root)}:{size_of(path)}" for path in case.paths]
            digest.update("\t".join([case.id, case.group, case.split, *files]).encode(errors="surrogateescape") + b"\n")
        return digest.hexdigest()[:16]

    @property
    def dims(self) -> int:
        """2 for images and slices, 3 for volumes."""
        return self.cases[0].dims if self.cases else 2

    def labelled(self) -> Manifest:
        """The manifest of the cases that have a mask."""
        return replace(self, cases=tuple(case for case in self.cases if case.masks))


def grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """Values by key, in the order in which they come."""
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def relative(path: Path, root: Path) -> str:
    """A path as tables and messages name it: relative to root where it lies below."""
    return readable((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())


def exclude_line(ids: Sequence[str]) -> str:
    """The override that leaves cases out; quoted, since 012 would lose its zero."""
    names = ",".join(quoted(id_, '"') for id_ in ids)
    return argument("data.exclude", f"[{names}]")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def encoded_mask(case: Case, labels: LabelMap) -> Array:
    """The reference mask of a case: class indices (*S) uint8, or planes (K, *S) uint8 of 0, 1 (255 = ignore) where classes overlap.

    Values that the label map does not name become `ignore`: the audit has refused them before this is called.
    """
    if labels.overlap:
        return stack_planes(case, labels)
    (mask,) = case.masks.values()
    return labels.encode(mask.read())[0]


def stack_planes(case: Case, labels: LabelMap) -> Array:
    """Planes of one class name are joined; a class without a plane in this case is known to be absent."""
    read = {raw: present(mask.read(), case.dims) for raw, mask in case.masks.items()}
    shape = next(iter(read.values())).shape
    planes = np.zeros((len(labels.classes), *shape), np.uint8)
    for raw, name in labels.values:
        if name == BACKGROUND:  # a structure that is not wanted
            continue
        if name == IGNORE_NAME and raw in read:
            planes[:, read[raw]] = IGNORE
        elif raw in read:
            plane = planes[labels.classes.index(name)]
            plane[read[raw] & (plane != IGNORE)] = 1
    return planes


def present(mask: Array, dims: int) -> Array:
    """Where a plane shows its structure: (*S) bool, above 0; of colors (*S, 3) where one channel is."""
    return np.asarray((mask > 0).any(axis=-1) if mask.ndim > dims else mask > 0)
