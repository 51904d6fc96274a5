"""Caches that any number of processes may share and that may be cleared while they run: what is missing or damaged is made again.

Decoded cases, so that a data set larger than memory streams at the speed of the disk. The name of an entry is a hash of the
files (path, size, modification time), the preprocessing and the labels, so that any change makes a new entry. An entry is one
file of which image and mask are memory-mapped, so that a patch reads only its own part. When the folder outgrows its limit, the
least recently used entries go.

Case statistics, as JSON lines: each process adds files of its own, so that a kill costs only what was measured in the last
seconds; they are merged when all statistics are read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from segkit.config.schema import Preprocess
from segkit.data.case import Case
from segkit.data.labels import Array
from segkit.data.transforms import geometry
from segkit.data.transforms.intensity import Range
from segkit.data.transforms.preprocess import Decoded
from segkit.system.errors import SegkitError
from segkit.system.files import atomic_path, write_text_atomic

VERSION = 3
"""Raised whenever decoding or the form of an entry changes."""
FREED_SHARE = 0.1
"""Share of the limit that is freed at once, so that the folder is seldom listed."""
ABANDONED_S = 3600
"""A temporary file of this age belongs to a process that was killed."""
MAX_FILES = 8
"""Files of statistics from which they are merged."""


def stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path, size and modification time: as good as the content, without reading it. The reader reports missing files."""
    found = []
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return found


def digest(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


# decoded cases


@dataclass
class ArrayCache:
    """Decoded cases in `folder`; `made_by` describes all that decides about their arrays: preprocessing, labels, bit depth."""

    folder: Path
    limit_bytes: int
    config: Preprocess
    made_by: str
    written: float = math.inf
    """Bytes since the folder was last listed, which happens after a hundredth of the limit: by so much may each process exceed it."""
    _volumes: dict[str, str] = field(default_factory=dict, repr=False)

    def get(self, case: Case, make: Callable[[], Decoded]) -> Decoded:
        """The entry of a case, with image and mask still on disk. A missing or damaged one is made and stored."""
        entry = self.folder / self._name(case)
        found = self._load(case, entry)
        if found is None:
            found = make()
            self._store(entry, found)
        return found

    def _name(self, case: Case) -> str:
        """With the id, so that threads of one process never write the same entry."""
        pixels = (case.image, sorted(case.masks.items()), stamps(case.paths))
        return digest(VERSION, self.made_by, case.id, case.spacing_mm, pixels, self._volume_of(case))

    def _volume_of(self, case: Case) -> str:
        """A slice also depends on its whole volume, whose intensities set its scale; its files are looked at once."""
        if not case.volume or case.whole is None or self.config.scope == "image":
            return ""
        if case.volume not in self._volumes:
            self._volumes[case.volume] = digest(case.whole, stamps(case.whole.paths))
        return self._volumes[case.volume]

    def _load(self, case: Case, entry: Path) -> Decoded | None:
        try:
            arrays = read_entry(entry)
            image, mask, shape = arrays.pop("image"), arrays.pop("mask"), tuple(arrays.pop("shape").tolist())
            box = tuple((int(a), int(b)) for a, b in arrays.pop("box", ())) or None
            found = Range(arrays.pop("low"), arrays.pop("high"), arrays.pop("mean", None), arrays.pop("sd", None), box)
            os.utime(entry)
        except (OSError, ValueError, KeyError, EOFError):
            return None
        steps = geometry.plan(self.config, shape, case.spacing_mm, box)
        return Decoded(image, mask, shape, found, steps, {name.removeprefix("at "): array for name, array in arrays.items()})

    def _store(self, entry: Path, decoded: Decoded) -> None:
        """Store nothing where the disk is full or the folder is being cleared: neither is a reason to stop."""
        found = decoded.range
        optional = {"box": found.box, "mean": found.mean, "sd": found.sd}
        arrays = {"image": decoded.image, "mask": decoded.mask, "shape": np.array(decoded.shape), "low": found.low, "high": found.high}
        arrays |= {name: np.asarray(value) for name, value in optional.items() if value is not None}
        arrays |= {f"at {name}": array for name, array in decoded.locations.items()}
        with suppress(SegkitError, OSError):
            with atomic_path(entry) as temporary:
                write_entry(temporary, arrays)
            self.written += sum(array.nbytes for array in arrays.values())
        if self.written > self.limit_bytes / 100:
            self.written = 0.0
            keep_within(self.folder, self.limit_bytes)


def write_entry(path: Path, arrays: Mapping[str, Array]) -> None:
    """One file of arrays in numpy's format, one after the other; their names come first."""
    with path.open("wb") as file:
        for array in (np.array(list(arrays)), *arrays.values()):
            np.save(file, array, allow_pickle=False)


def read_entry(path: Path) -> dict[str, Array]:
    """Arrays by name; image and mask stay on disk until they are used. Raises ValueError, EOFError where the file is damaged."""
    with path.open("rb") as file:
        names = [str(name) for name in np.load(file, allow_pickle=False)]
        return {name: _mapped(file) if name in ("image", "mask") else np.load(file, allow_pickle=False) for name in names}


def _mapped(file: IO[bytes]) -> Array:
    """The array that begins here, memory-mapped."""
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    array = np.memmap(file, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")
    file.seek(array.offset + array.nbytes)
    return array


def keep_within(folder: Path, limit_bytes: int) -> None:
    """Remove the least recently used entries beyond the limit, and what killed writers left behind."""
    entries = []
    with suppress(FileNotFoundError), os.scandir(folder) as found:  # it may be cleared by another process
        for file in found:
            with suppress(FileNotFoundError):
                status = file.stat(follow_symlinks=False)
                if not file.name.startswith("."):
                    entries.append((status.st_mtime, status.st_size, Path(file.path)))
                elif time.time() - status.st_mtime > ABANDONED_S:
                    Path(file.path).unlink(missing_ok=True)
    total = sum(size for _, size, _ in entries)
    wanted = limit_bytes if total <= limit_bytes else (1 - FREED_SHARE) * limit_bytes
    for _, size, path in sorted(entries):
        if total <= wanted:
            return
        path.unlink(missing_ok=True)
        total -= size


# case statistics


def read_lines(folder: Path, wanted: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The cached values of `wanted` signatures; lines that cannot be parsed are skipped."""
    for path in line_files(folder):
        for signature, text in _lines(path):
            if signature in wanted:
                with suppress(ValueError):
                    yield signature, json.loads(text)


def add_lines(folder: Path, values: Mapping[str, Any]) -> None:
    """Add values by signature, in a file of their own."""
    _write_lines(folder, {signature: json.dumps(value) for signature, value in values.items()})


def compact_lines(folder: Path, wanted: Collection[str]) -> None:
    """Merge many files into one. Where most signatures are not `wanted` (their files changed or are gone), they are dropped."""
    before = line_files(folder)
    known = dict(line for path in before for line in _lines(path))
    mostly_stale = len(known.keys() - set(wanted)) > len(wanted)
    if len(before) > MAX_FILES or mostly_stale:
        _write_lines(folder, {signature: text for signature, text in known.items() if signature in wanted or not mostly_stale})
        for path in before:  # not what others have added meanwhile
            path.unlink(missing_ok=True)


def line_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jsonl") if not path.name.startswith("."))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    with suppress(FileNotFoundError, UnicodeDecodeError), path.open(encoding="utf-8") as file:  # merged by another process
        for line in file:
            signature, _, text = line.partition("\t")
            yield signature, text


def _write_lines(folder: Path, lines: Mapping[str, str]) -> None:
    text = "".join(f"{signature}\t{value.strip()}\n" for signature, value in lines.items())
    write_text_atomic(folder / f"{secrets.token_hex(8)}.jsonl", text)
