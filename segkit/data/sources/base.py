"""Which files are there, and which image belongs to which mask: by exact key, never by position in a sorted list.

Of volumes the headers are read as well, because image and mask must lie on one grid in the patient.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from segkit.data.case import Pixels
from segkit.data.io.base import IMAGE_SUFFIXES, VOLUME_SUFFIXES, ReadError, stem, suffix_of
from segkit.data.io.images import ImageFile, MaskFile
from segkit.data.io.volumes import PlaneFile, PlaneMask, VolumeFile, VolumeMask, header, is_volume_file, same_grid
from segkit.system.errors import Problem

SUFFIXES = IMAGE_SUFFIXES | VOLUME_SUFFIXES
Natural = tuple[tuple[int, int, str], ...]


def natural(text: str) -> Natural:
    """Sort key that puts 1 before 10: digits compare as numbers, the rest as text."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part)


def image_files(folder: Path, below: Iterable[Path] = ()) -> Iterator[Path]:
    """Image and volume files under `folder`, recursively, in natural order; hidden ones and those under `below` are left out."""
    skipped = {path.absolute() for path in below}
    for current, folders, files in os.walk(folder):
        here = Path(current)
        folders[:] = [f for f in sorted(folders, key=natural) if not f.startswith(".") and (here / f).absolute() not in skipped]
        for name in sorted(files, key=natural):
            if not name.startswith(".") and suffix_of(name).lower() in SUFFIXES:
                yield here / name


def key_of(path: Path, folder: Path, suffix: str = "") -> str:
    """Path below `folder` without extension and `suffix`; composed accents, so that a file copied from a Mac finds its pair."""
    name = path.relative_to(folder).with_name(stem(path)).as_posix()
    return unicodedata.normalize("NFC", name.removesuffix(suffix))


@dataclass(frozen=True)
class Keyed:
    """Files by key, and the keys that several files claim."""

    one: Mapping[str, Path]
    several: Mapping[str, tuple[Path, ...]]

    @classmethod
    def of(cls, files: Iterable[Path], folder: Path, suffix: str = "") -> Keyed:
        by_key: dict[str, list[Path]] = {}
        for path in files:
            by_key.setdefault(key_of(path, folder, suffix), []).append(path)
        several = {key: tuple(paths) for key, paths in by_key.items() if len(paths) > 1}
        return cls({key: paths[0] for key, paths in by_key.items() if len(paths) == 1}, several)

    def __contains__(self, key: str) -> bool:
        return key in self.one or key in self.several

    @property
    def keys(self) -> list[str]:
        return sorted({*self.one, *self.several}, key=natural)


@dataclass(frozen=True)
class Pair:
    """An image and its masks by name ("" where there is one), as pixels."""

    image: Pixels
    masks: Mapping[str, Pixels]
    spacing_mm: tuple[float, ...] = ()
    dims: Literal[2, 3] = 2


class OtherGrid(ReadError):
    """A mask that does not lie where its image lies."""


def pair(image: Path, masks: Mapping[str, Path], orient: str | None) -> Pair:
    """Files as pixels. A file of several slices is a volume; of volumes and of single slices in such formats the grids are
    compared. `orient=None` trusts the arrays alone, whatever the affines say. Raises `ReadError`."""
    headers = {path: header(path, orient) for path in (image, *masks.values()) if is_volume_file(path)}
    grid = headers.get(image)
    volumetric = grid is not None and grid.shape[0] > 1
    for mask in masks.values():
        one = headers.get(mask)
        if one is not None and grid is not None:
            other = same_grid(one, grid if orient else replace(grid, orientation=""))
            if other:
                raise OtherGrid(mask, other)
        elif volumetric or (one is not None and one.shape[0] > 1):
            raise OtherGrid(mask, f"is {'one image' if volumetric else 'a volume'}, its image {image.name} is not")
    if volumetric:
        assert grid is not None
        volumes = {name: VolumeMask(mask, orient) for name, mask in masks.items()}
        return Pair(VolumeFile(image, orient), volumes, grid.spacing_mm, 3)
    planes = {name: PlaneMask(mask, orient) if mask in headers else MaskFile(mask) for name, mask in masks.items()}
    if grid is None:
        return Pair(ImageFile(image), planes)
    return Pair(PlaneFile(image, orient), planes, grid.spacing_mm[1:])


def unreadable(error: ReadError, where: str) -> Problem:
    """What to say of a pair that cannot be."""
    if isinstance(error, OtherGrid) and ("affine" in error.reason or "spacing" in error.reason):
        fix = "save the mask with its image's affine; if only the affines are wrong, data.source.orient=null trusts the arrays"
    elif isinstance(error, OtherGrid):
        fix = "replace it by the mask of this image, or move both away"
    else:
        fix = "replace the file, or move it and its partner away"
    return Problem(where, error.reason, fix)
