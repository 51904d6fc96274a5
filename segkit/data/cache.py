"""Decoded cases on disk, so that a data set larger than memory streams at the speed of the disk.

Content-addressed: the name of an entry says which files (path, size, time of change), which preprocessing and which labels
made it; whatever changes makes a new entry. Arrays are memory-mapped, so that a patch reads only its own part. When the
folder outgrows its limit, what was used longest ago goes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segkit.config import schema
from segkit.data import geometry
from segkit.data.intensity import Range
from segkit.data.manifest import Case
from segkit.data.preprocess import Decoded, Preprocessing
from segkit.files import CACHE, is_full
from segkit.progress import console

Array = npt.NDArray[Any]
VERSION = 1
"""Raised whenever decoding changes its result."""
FACTS, TEMPORARY = "facts.json", ".tmp"
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
    """Bytes since the folder was last looked through; it is so when they make a hundredth of the limit."""

    def get(self, case: Case, make: Callable[[], Decoded]) -> Decoded:
        """The entry of a case; made, and kept, where there is none or a damaged one."""
        entry = self.folder / self._name(case)
        found = self._load(case, entry)
        if found is None:
            found = make()
            self._store(entry, found)
        return found

    def _name(self, case: Case) -> str:
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in case.paths]
        what = repr((VERSION, self.made_by, case.image, sorted(case.masks.items()), case.spacing_mm, files))
        return hashlib.sha256(what.encode()).hexdigest()[:32]

    def _load(self, case: Case, entry: Path) -> Decoded | None:
        try:
            facts = json.loads((entry / FACTS).read_text())
            image, mask = (np.load(entry / f"{name}.npy", mmap_mode="r") for name in ("image", "mask"))
            with np.load(entry / "locations.npz") as stored:
                locations = {name: stored[str(i)] for i, name in enumerate(facts["locations"])}
            os.utime(entry)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        low, high, mean, sd = (None if a is None else np.asarray(a, np.float32) for a in facts["range"])
        assert low is not None
        assert high is not None
        box = None if facts["box"] is None else tuple((a, b) for a, b in facts["box"])
        shape = tuple(facts["shape"])
        steps = geometry.plan(self.config, shape, case.spacing_mm, box)
        return Decoded(image, mask, shape, Range(low, high, mean, sd, box), steps, locations)

    def _store(self, entry: Path, decoded: Decoded) -> None:
        """Whole or not at all; several workers may write the same. A full disk is no reason to stop: nothing is kept then."""
        temporary = entry.with_name(f".{entry.name}.{os.getpid()}{TEMPORARY}")
        found = decoded.range
        facts = {
            "shape": decoded.shape,
            "box": found.box,
            "range": [None if a is None else a.tolist() for a in (found.low, found.high, found.mean, found.sd)],
            "locations": list(decoded.locations),
        }
        try:
            shutil.rmtree(entry, ignore_errors=True)  # a damaged one
            temporary.mkdir(parents=True, exist_ok=True)
            np.save(temporary / "image.npy", decoded.image)
            np.save(temporary / "mask.npy", decoded.mask)
            stored: dict[str, Any] = {str(i): a for i, a in enumerate(decoded.locations.values())}
            np.savez(temporary / "locations.npz", **stored)
            (temporary / FACTS).write_text(json.dumps(facts))
            temporary.rename(entry)
            self.written += decoded.image.nbytes + decoded.mask.nbytes
        except OSError as error:
            if not (entry.is_dir() or is_full(error, self.folder)):
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        if self.written > self.limit_bytes / 100:
            self.written = 0.0
            keep_within(self.folder, self.limit_bytes)


def keep_within(folder: Path, limit_bytes: int) -> None:
    """Removes what was used longest ago until the rest fits; and what killed writers left behind."""
    now = time.time()
    for path in folder.glob(f".*{TEMPORARY}"):
        if now - last_used(path) > ABANDONED_S:
            shutil.rmtree(path, ignore_errors=True)
    entries = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=last_used)
    sizes = {path: size_of(path) for path in entries}
    total = sum(sizes.values())
    for path in entries:
        if total <= limit_bytes:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]


def last_used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # removed by another process
        return 0.0


def size_of(path: Path) -> int:
    """Bytes of a file, or of all below a folder."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(OSError):  # removed by another process
            total += file.stat().st_size if file.is_file() else 0
    return total


# the command

KINDS = {"arrays": "decoded images", "facts-": "what audits saw", "phantom-": "phantoms"}


def command(cfg: schema.Cache) -> int:
    """`segkit cache`: what is kept below outputs/.cache, and `clear=true` to free it. All of it is made again when needed."""
    folder = Path(cfg.output_dir).expanduser() / CACHE.name
    there = list(folder.iterdir()) if folder.is_dir() else []
    total = 0
    for prefix, what in KINDS.items():
        found = [path for path in there if path.name.startswith(prefix)]
        n = sum(1 for _ in found[0].iterdir()) if prefix == "arrays" and found else len(found)
        size = sum(map(size_of, found))
        total += size
        console.print(f"  {what:<16} {n:>7}   {size / 1e9:8.3f} GB", highlight=False)
    if not cfg.clear:
        console.print(f"in {folder};   segkit cache clear=true  frees it: all is made again when it is needed", markup=False)
        return 0
    for path in there:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    console.print(f"freed {total / 1e9:.3f} GB in {folder}", markup=False)
    return 0
