"""Files of a data set: which ones a folder holds, and the key under which each is known."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import filterfalse
from pathlib import Path

from segkit.data.case import grouped
from segkit.data.io.base import IMAGE_SUFFIXES, VOLUME_SUFFIXES, stem, suffix_of
from segkit.system.files import natural
from segkit.system.text import readable

SUFFIXES = IMAGE_SUFFIXES | VOLUME_SUFFIXES
UNREAD = frozenset({
    *(".jp2", ".j2k", ".jxl", ".heic", ".heif", ".avif", ".psd", ".svs", ".ndpi", ".mrxs", ".scn", ".czi", ".lif", ".nd2", ".oib", ".oif"),
    *(".mgz", ".mgh", ".hdr", ".img", ".mnc", ".vtk", ".vti", ".dcm", ".dicom", ".ima"),
})  # fmt: skip
"""Suffixes of images that no reader of files takes; DICOM belongs to a source of its own."""
JUNK = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "$RECYCLE.BIN"})


def all_files(folder: Path, below: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield the files under `folder`, recursively, in natural order; hidden ones and those under `below` are left out."""
    skipped = {path.absolute() for path in below}
    for here, folders, files in walk(folder):
        folders[:] = [name for name in folders if (here / name).absolute() not in skipped]
        yield from (here / name for name in files)


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` in natural order, without hidden names and junk. Links to folders are followed, but not back into a folder above them."""
    above: dict[Path, frozenset[str]] = {}
    for current, folders, files in os.walk(folder, followlinks=True):
        here = Path(current)
        seen = above.get(here.parent, frozenset())
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        above[here] = seen | {real}
        folders[:] = sorted(filterfalse(is_junk, folders), key=natural)
        yield here, folders, sorted(filterfalse(is_junk, files), key=natural)


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by an operating system or a network drive."""
    return name.startswith(".") or name in JUNK


def image_files(folder: Path, below: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield the image and volume files among `all_files`."""
    return (path for path in all_files(folder, below) if suffix_of(path.name).lower() in SUFFIXES)


def unread_files(folder: Path, below: Iterable[Path] = ()) -> list[Path]:
    """Return the images among `all_files` of a kind that is not read, so that it can be said."""
    return [path for path in all_files(folder, below) if suffix_of(path.name).lower() in UNREAD]


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """Files that lie in `folder` itself, in natural order; hidden ones are left out, and those of other suffixes."""
    found = [path for path in folder.iterdir() if not is_junk(path.name)] if folder.is_dir() else []
    return sorted((path for path in found if suffix_of(path.name).lower() in suffixes), key=lambda path: natural(path.name))


@dataclass
class Exclude:
    """Ids of cases to leave out, or glob patterns of them. Called with an id; `used` are those that fitted one."""

    names: tuple[str, ...] = ()
    used: set[str] = field(default_factory=set)

    def __call__(self, *ids: str) -> bool:
        """Whether one of the ids of a case is left out."""
        fitting = {name for name in self.names for id_ in ids if id_ == name or (id_ and fnmatchcase(id_, name))}
        self.used |= fitting
        return bool(fitting)


def key_of(path: Path, folder: Path, suffix: str = "") -> str:
    """Path below `folder` without extension and `suffix`; composed accents, so that a file copied from a Mac finds its pair.

    Where a folder is the case (`case_0/imaging.nii.gz`, suffix `imaging`), its path is the key.
    """
    name = path.relative_to(folder).with_name(stem(path)).as_posix()
    return unicodedata.normalize("NFC", readable(name.removesuffix(suffix).rstrip("/")))


@dataclass(frozen=True)
class Keyed:
    """Files by key, the keys that several files have, and where a missing one is expected: `folder`, key and `ending`."""

    one: Mapping[str, Path]
    several: Mapping[str, tuple[Path, ...]]
    folder: Path
    ending: str

    @classmethod
    def of(
        cls, files: Iterable[Path], folder: Path, suffix: str = "", ending: str = ".*", key: Callable[[Path], str] | None = None
    ) -> Keyed:
        """Files by `key`, or else by their path below `folder` without `suffix`, see `key_of`."""
        by_key = grouped((key(path) if key else key_of(path, folder, suffix), path) for path in files)
        several = {key: tuple(paths) for key, paths in by_key.items() if len(paths) > 1}
        return cls({key: paths[0] for key, paths in by_key.items() if len(paths) == 1}, several, folder, f"{suffix}{ending}")

    def __contains__(self, key: str) -> bool:
        return key in self.one or key in self.several

    @property
    def keys(self) -> list[str]:
        return sorted({*self.one, *self.several}, key=natural)
