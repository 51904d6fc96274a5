"""Which files are there, and which image belongs to which mask: by exact key, never by position in a sorted list."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from segkit.data.readers import IMAGE_SUFFIXES

Natural = tuple[tuple[int, int, str], ...]


def natural(text: str) -> Natural:
    """Sort key that puts 1 before 10: digits compare as numbers, the rest as text."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part)


def image_files(folder: Path, below: Iterable[Path] = ()) -> Iterator[Path]:
    """Image files under `folder`, recursively, in natural order; hidden ones and those under `below` are left out."""
    skipped = {path.absolute() for path in below}
    for current, folders, files in os.walk(folder):
        here = Path(current)
        folders[:] = [f for f in sorted(folders, key=natural) if not f.startswith(".") and (here / f).absolute() not in skipped]
        for name in sorted(files, key=natural):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 (a third faster)
                yield here / name


def key_of(path: Path, folder: Path, suffix: str = "") -> str:
    """Path below `folder` without extension and `suffix`; composed accents, so that a file copied from a Mac finds its pair."""
    name = path.relative_to(folder).with_suffix("").as_posix()
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
