"""Decoded cases on disk, so that a data set larger than memory streams at the speed of the disk.

Content-addressed: the name of an entry says which files (path, size, time of change), which preprocessing and which labels
made it; whatever changes makes a new entry. Arrays are memory-mapped, so that a patch reads only its own part. When the
folder outgrows its limit, what was used longest ago goes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segkit.data import geometry
from segkit.data.intensity import Range
from segkit.data.manifest import Case
from segkit.data.preprocess import Decoded, Preprocessing
from segkit.files import is_full

Array = npt.NDArray[Any]
VERSION = 1
"""Raised whenever decoding changes its result."""


@dataclass(frozen=True)
class ArrayCache:
    """`made_by` describes everything but the case that decides what its arrays are: preprocessing, labels, bit depth."""

    folder: Path
    limit_bytes: int
    config: Preprocessing
    made_by: str

    def get(self, case: Case, make: Callable[[], Decoded]) -> Decoded:
        entry = self.folder / self._name(case)
        found = self._load(case, entry)
        if found is not None:
            return found
        decoded = make()
        self._store(entry, decoded)
        return decoded

    def _name(self, case: Case) -> str:
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in case.paths]
        what = repr((VERSION, self.made_by, case.image, sorted(case.masks.items()), case.spacing_mm, files))
        return hashlib.sha256(what.encode()).hexdigest()[:32]

    def _load(self, case: Case, entry: Path) -> Decoded | None:
        try:
            facts = json.loads((entry / "facts.json").read_text())
            image, mask = (np.load(entry / f"{name}.npy", mmap_mode="r") for name in ("image", "mask"))
            os.utime(entry)
        except (OSError, ValueError):
            return None
        low, high, mean, sd = (None if a is None else np.asarray(a, np.float32) for a in facts["range"])
        box = None if facts["box"] is None else tuple((a, b) for a, b in facts["box"])
        shape = tuple(facts["shape"])
        return Decoded(image, mask, shape, Range(low, high, mean, sd, box), geometry.plan(self.config, shape, case.spacing_mm, box))  # type: ignore[arg-type]

    def _store(self, entry: Path, decoded: Decoded) -> None:
        """Whole or not at all; several workers may write the same. A full disk is no reason to stop: nothing is kept then."""
        temporary = entry.with_name(f".{entry.name}.{os.getpid()}.tmp")
        found = decoded.range
        facts = {
            "shape": decoded.shape,
            "box": found.box,
            "range": [None if a is None else a.tolist() for a in (found.low, found.high, found.mean, found.sd)],
        }
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            np.save(temporary / "image.npy", decoded.image)
            np.save(temporary / "mask.npy", decoded.mask)
            (temporary / "facts.json").write_text(json.dumps(facts))
            temporary.rename(entry)
        except OSError as error:
            if not (entry.is_dir() or is_full(error, self.folder)):
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._keep_within_limit()

    def _keep_within_limit(self) -> None:
        """Checked only where the last entry made the folder grow past a whole per cent of its limit."""
        entries = sorted((path for path in self.folder.iterdir() if not path.name.startswith(".")), key=last_used)
        sizes = {path: size_of(path) for path in entries}
        total = sum(sizes.values())
        for path in entries[:-1]:
            if total <= self.limit_bytes:
                return
            shutil.rmtree(path, ignore_errors=True)
            total -= sizes[path]


def last_used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # removed by another process
        return 0.0


def size_of(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total
