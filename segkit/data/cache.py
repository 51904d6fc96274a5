"""Decoded cases on disk, so that a data set larger than memory streams at the speed of the disk.

Content-addressed: the name of an entry says which files (path, size, time of change), which preprocessing and which labels
made it; whatever changes makes a new entry. An entry is one memory-mapped file, so that a patch reads only its own part.
When the folder outgrows its limit, what was used longest ago goes. Any number of processes may share the folder, and it may
be cleared while they run: what is missing or damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segkit.config import schema
from segkit.data.case import Case
from segkit.data.transforms import geometry
from segkit.data.transforms.intensity import Range
from segkit.data.transforms.preprocess import Decoded, Preprocessing
from segkit.system.errors import SegkitError
from segkit.system.files import CACHE, atomic_path
from segkit.system.progress import console

Array = npt.NDArray[Any]
VERSION = 2
"""Raised whenever decoding or the form of an entry changes."""
ROOM = 0.1
"""Share of the limit that is made free at once, so that the folder is listed seldom."""
ABANDONED_S = 3600
"""An entry that has been in the making for so long belongs to a process that was killed."""


@dataclass
class ArrayCache:
    """`made_by` describes everything but the case that decides what its arrays are: preprocessing, labels, bit depth."""

    folder: Path
    limit_bytes: int
    config: Preprocessing
    made_by: str
    written: float = math.inf
    """Bytes since the folder was last listed, which happens after a hundredth of the limit: each process that writes may
    exceed the limit by so much."""
    _volumes: dict[str, str] = field(default_factory=dict, repr=False)

    def get(self, case: Case, make: Callable[[], Decoded]) -> Decoded:
        """The entry of a case, with image and mask still on disk; made, and kept, where there is none or a damaged one."""
        entry = self.folder / self._name(case)
        found = self._load(case, entry)
        if found is None:
            found = make()
            self._store(entry, found)
        return found

    def _name(self, case: Case) -> str:
        """With the id: threads of a process then never write the same entry."""
        pixels = (case.image, sorted(case.masks.items()), stamps(case.paths))
        return digest(VERSION, self.made_by, case.id, case.spacing_mm, pixels, self._volume_of(case))

    def _volume_of(self, case: Case) -> str:
        """A slice depends on its whole volume, too, whose intensities decide on its own; looked at once, as these are."""
        if not case.volume or case.whole is None or self.config.scope == "image":
            return ""
        if case.volume not in self._volumes:
            self._volumes[case.volume] = digest(case.whole, stamps(case.whole.paths))
        return self._volumes[case.volume]

    def _load(self, case: Case, entry: Path) -> Decoded | None:
        try:
            arrays, facts = read_entry(entry)
            image, mask = arrays.pop("image"), arrays.pop("mask")
            small = {name: np.array(array) for name, array in arrays.items()}
            shape, box = tuple(facts["shape"]), facts["box"] and tuple((a, b) for a, b in facts["box"])
            found = Range(small.pop("low"), small.pop("high"), small.pop("mean", None), small.pop("sd", None), box)
            os.utime(entry)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        steps = geometry.plan(self.config, shape, case.spacing_mm, box)
        return Decoded(image, mask, shape, found, steps, {name.removeprefix("at "): array for name, array in small.items()})

    def _store(self, entry: Path, decoded: Decoded) -> None:
        """A full disk, or a folder that is being cleared, is no reason to stop: nothing is kept then."""
        found = decoded.range
        arrays = {"image": decoded.image, "mask": decoded.mask, "low": found.low, "high": found.high, "mean": found.mean, "sd": found.sd}
        arrays |= {f"at {name}": array for name, array in decoded.locations.items()}
        known = {name: array for name, array in arrays.items() if array is not None}
        with suppress(SegkitError, FileNotFoundError):
            with atomic_path(entry) as temporary:
                write_entry(temporary, known, {"shape": decoded.shape, "box": found.box})
            self.written += sum(array.nbytes for array in known.values())
        if self.written > self.limit_bytes / 100:
            self.written = 0.0
            keep_within(self.folder, self.limit_bytes)


def stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of change: as good as the content, at no reading. A missing file is the reader's to tell."""
    found = []
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return found


def digest(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


# an entry: length of the header (8 bytes), header (JSON), arrays one after the other

ALIGNED = 64


def write_entry(path: Path, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
    places, end = {}, 0
    for name, array in arrays.items():
        places[name] = (array.dtype.str, array.shape, end)
        end += array.nbytes + -array.nbytes % ALIGNED
    header = json.dumps({**facts, "arrays": places, "bytes": end}).encode()
    header += b" " * (-(8 + len(header)) % ALIGNED)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
            file.write(bytes(-array.nbytes % ALIGNED))


def read_entry(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays, which stay on disk until they are looked at, and facts. OSError, ValueError, KeyError or TypeError: it is damaged."""
    everything = np.memmap(path, np.uint8, mode="r")
    start = 8 + int.from_bytes(everything[:8].tobytes(), "little")
    facts = json.loads(everything[8:start].tobytes())
    if len(everything) != start + facts["bytes"]:
        raise ValueError(f"{path} is cut off")
    arrays = {}
    for name, (dtype, shape, offset) in facts["arrays"].items():
        size = math.prod(shape) * np.dtype(dtype).itemsize
        arrays[name] = everything[start + offset :][:size].view(dtype).reshape(shape)
    return arrays, facts


# the folder


class File(NamedTuple):
    last_used: float
    size: int
    path: Path


def files_in(folder: Path) -> list[File]:
    """What was used longest ago comes first."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as there:  # cleared by another process
        for one in there:
            with suppress(FileNotFoundError):
                status = one.stat(follow_symlinks=False)
                found.append(File(status.st_mtime, status.st_size, Path(one.path)))
    return sorted(found)


def keep_within(folder: Path, limit_bytes: int) -> None:
    """Where there is more than the limit, removes what was used longest ago; and always what killed writers left behind."""
    files = files_in(folder)
    entries = [file for file in files if not file.path.name.startswith(".")]
    for file in files:
        if file.path.name.startswith(".") and time.time() - file.last_used > ABANDONED_S:
            file.path.unlink(missing_ok=True)
    total = sum(entry.size for entry in entries)
    wanted = limit_bytes if total <= limit_bytes else (1 - ROOM) * limit_bytes
    for entry in entries:
        if total <= wanted:
            return
        entry.path.unlink(missing_ok=True)
        total -= entry.size


# the command

KINDS = {"arrays": "decoded images", "facts-": "what audits saw", "phantom-": "phantoms"}
"""By the beginnings of their names; nothing else in the folder is ours to remove."""


def command(cfg: schema.Cache) -> int:
    """`segkit cache`: what is kept below output_dir/.cache, and `clear=true` to free it."""
    folder = Path(cfg.output_dir) / CACHE.name
    kept = {what: kept_in(folder, prefix) for prefix, what in KINDS.items()}
    for what, paths in kept.items():
        n = sum(len(list(path.iterdir())) if path.name == "arrays" else 1 for path in paths)
        console.print(f"  {what:<16} {n:>7}   {size_of(paths) / 1e9:8.3f} GB", highlight=False)
    everything = [path for paths in kept.values() for path in paths]
    if not cfg.clear:
        console.print(f"in {folder};   segkit cache clear=true  frees it: all is made again when it is needed", markup=False)
        return 0
    before = size_of(everything)
    for path in everything:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    console.print(f"freed {(before - size_of(everything)) / 1e9:.3f} GB in {folder}", markup=False)
    return 0


def kept_in(folder: Path, prefix: str) -> list[Path]:
    """Also what is half written."""
    return [path for path in folder.glob("*") if path.name.lstrip(".").startswith(prefix)]


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of files, and of all below folders; links lead elsewhere and count for nothing."""
    total = 0
    for path in paths:
        if path.is_symlink():
            continue
        total += size_of(path.iterdir()) if path.is_dir() else path.stat().st_size if path.is_file() else 0
    return total
