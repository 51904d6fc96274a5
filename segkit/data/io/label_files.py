"""Files beside masks that name their values: label descriptions of ITK-SNAP, and tables of BIDS derivatives (`*_dseg.tsv`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from segkit.data.io.base import ReadError, read_start, read_table

MAX_BYTES = 1 << 20
_SNAP = re.compile(r"^\s*(\d+)(?:\s+[\d.]+){6}\s+\"(.*)\"\s*$", re.MULTILINE)
"""Index, red, green, blue, opacity, visibility in slices and in 3-D, name."""


def names_beside(folders: Iterable[Path]) -> dict[int, str]:
    """Names by value, from the label files that lie in `folders` themselves; the first file that names a value counts."""
    named: dict[int, str] = {}
    for path in (path for folder in folders for path in _label_files(folder)):
        named = {**names_in(path), **named}
    return named


def names_in(path: Path) -> dict[int, str]:
    """Names by value, without the background; none where the file is no label file, or cannot be read."""
    try:
        found = _of_bids(path) if path.suffix.lower() == ".tsv" else _SNAP.findall(read_start(path, MAX_BYTES).decode("utf-8", "replace"))
    except ReadError:
        return {}
    return {int(value): name.strip().replace('"', "'") for value, name in found if value.isdecimal() and int(value) and name.strip()}


def _label_files(folder: Path) -> Iterator[Path]:
    """Label descriptions, and tables of labels; those of more folders of one data set agree, so the first few are enough."""
    if folder.is_dir():
        found = (path for pattern in ("*.txt", "*.label", "*dseg.tsv") for path in sorted(folder.glob(pattern))[:20])
        yield from (path for path in found if path.is_file())


def _of_bids(path: Path) -> list[tuple[str, str]]:
    return [(row["index"], row["name"]) for _, row in read_table(path, ("index", "name"))[1]]
