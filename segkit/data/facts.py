"""What is true of each case, seen by reading every file once: sizes, intensities, mask values, content hashes.

Facts do not depend on the label map, so that one scan serves its inference, the audit, the normalisation and the
provenance, and stays valid when `data.labels` changes. They are cached by path, size and time of change of the files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segkit.data.intensity import unit_scale
from segkit.data.labels import LabelMap, pack_rgb
from segkit.data.manifest import Case, Pixels
from segkit.data.readers import ReadError
from segkit.files import write_text_atomic
from segkit.progress import track

Array = npt.NDArray[Any]

VERSION = 1
"""Raised whenever facts change their meaning: older caches are then ignored."""
MOST_VALUES = 64
"""Distinct mask values kept by count; more than that are no labels but grey levels."""


@dataclass(frozen=True)
class MaskFacts:
    """A mask, or one plane of it, as it is in the file."""

    shape: tuple[int, int]
    values: Mapping[str, int]
    """Raw value (or colour '#rrggbb') -> number of pixels, the most frequent ones."""
    n_values: int
    sha1: str


@dataclass(frozen=True)
class CaseFacts:
    """An image and its masks. Intensities are by channel in unit scale, as the network sees them."""

    shape: tuple[int, int] = (0, 0)
    channels: int = 0
    dtype: str = ""
    sha1: str = ""
    sum: tuple[float, ...] = ()
    sum_of_squares: tuple[float, ...] = ()
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()
    masks: Mapping[str, MaskFacts] = field(default_factory=dict)
    """By plane; '' where there is one mask."""
    errors: tuple[tuple[str, str], ...] = ()
    """(file, reason) for what could not be read; the other fields are then empty for it."""

    def class_pixels(self, labels: LabelMap) -> dict[str, int]:
        """Pixels of each class (background and ignore not among them); values without a name count nowhere."""
        counts = dict.fromkeys(labels.classes, 0)
        for raw, name in labels.values:
            if name in counts:
                counts[name] += self._pixels(raw, labels)
        return counts

    def _pixels(self, raw: str, labels: LabelMap) -> int:
        if not labels.overlap:
            return sum(n for mask in self.masks.values() for value, n in mask.values.items() if labels.as_key(value) == labels.as_key(raw))
        return sum(n for value, n in self.masks[raw].values.items() if value != "0") if raw in self.masks else 0

    @property
    def mean(self) -> tuple[float, ...]:
        return tuple(total / max(1, self.shape[0] * self.shape[1]) for total in self.sum)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CaseFacts:
        lists = ("shape", "sum", "sum_of_squares", "minimum", "maximum")
        masks = {k: MaskFacts(**{**m, "shape": tuple(m["shape"])}) for k, m in data["masks"].items()}
        errors = tuple((file, reason) for file, reason in data["errors"])
        return cls(**{**data, **{name: tuple(data[name]) for name in lists}, "masks": masks, "errors": errors})


def scan(cases: Sequence[Case], cache: Path | None = None) -> dict[str, CaseFacts]:
    """Facts by case id. Never fails on a file: what cannot be read is among the facts. `cache` is a JSON file."""
    known = _load(cache)
    signatures = {case.id: _signature(case) for case in cases}
    fresh = [case for case in cases if signatures[case.id] not in known]
    threads = min(16, os.cpu_count() or 1)  # decoding releases the interpreter's lock
    with ThreadPoolExecutor(threads) as pool:
        seen = dict(zip([c.id for c in fresh], track(pool.map(facts_of, fresh), "reading files", len(fresh)), strict=True))
    facts = {case.id: seen[case.id] if case.id in seen else known[signatures[case.id]] for case in cases}
    if cache is not None and seen:
        _save(cache, {signatures[id_]: fact for id_, fact in facts.items() if not fact.errors})
    return facts


def facts_of(case: Case) -> CaseFacts:
    """Reads the files of one case."""
    errors: list[tuple[str, str]] = []
    image = _read(case.image, errors, (3,))
    masks = {plane: _read(pixels, errors, (2, 3)) for plane, pixels in case.masks.items()}
    masks_facts = {plane: _mask_facts(mask) for plane, mask in masks.items() if mask is not None}
    if image is None:
        return CaseFacts(masks=masks_facts, errors=tuple(errors))
    scaled = image if image.dtype.kind == "u" else unit_scale(image)
    low, high, total, squares = zip(*(_intensities(scaled[..., c]) for c in range(image.shape[2])), strict=True)
    return CaseFacts(
        shape=(image.shape[0], image.shape[1]),
        channels=image.shape[2],
        dtype=str(image.dtype),
        sha1=_sha1(image),
        sum=total,
        sum_of_squares=squares,
        minimum=low,
        maximum=high,
        masks=masks_facts,
        errors=tuple(errors),
    )


def data_fingerprint(facts: Mapping[str, CaseFacts]) -> str:
    """sha256 over ids and pixel contents: equal if and only if images and masks are, wherever they lie and however compressed."""
    digest = hashlib.sha256()
    for id_ in sorted(facts):
        masks = [f"{plane}:{mask.sha1}" for plane, mask in sorted(facts[id_].masks.items())]
        digest.update("\t".join([id_, facts[id_].sha1, *masks]).encode() + b"\n")
    return digest.hexdigest()


def values_seen(facts: Iterable[CaseFacts]) -> dict[str, int]:
    """Raw mask values of all cases with their pixel counts, numbers in order, then colours."""
    counts: dict[str, int] = {}
    for fact in facts:
        for mask in fact.masks.values():
            for value, n in mask.values.items():
                counts[value] = counts.get(value, 0) + n
    return dict(sorted(counts.items(), key=lambda item: value_order(item[0])))


def value_order(value: str) -> tuple[bool, int]:
    return (True, int(value[1:], 16)) if value.startswith("#") else (False, int(value))


def _read(pixels: Pixels, errors: list[tuple[str, str]], dimensions: tuple[int, ...]) -> Array | None:
    file = str(pixels.paths[0]) if pixels.paths else repr(pixels)
    try:
        array = pixels.read()
    except ReadError as error:
        errors.append((str(error.path), error.reason))
    except Exception as error:  # one bad file among a thousand is told with all others, whatever its reader raises
        errors.append((file, f"cannot be read ({type(error).__name__}: {error})"))
    else:
        if array.ndim in dimensions and array.size:
            return array
        errors.append((file, f"gives an array of shape {array.shape}"))
    return None


def _mask_facts(mask: Array) -> MaskFacts:
    colours = mask.ndim == 3
    values, counts = _counted(pack_rgb(mask) if colours else mask)
    most = np.sort(np.argsort(counts, kind="stable")[::-1][:MOST_VALUES])
    kept = {f"#{values[i]:06x}" if colours else str(values[i]): int(counts[i]) for i in most}
    return MaskFacts((mask.shape[0], mask.shape[1]), kept, len(values), _sha1(mask))


def _counted(array: Array) -> tuple[Array, Array]:
    """Distinct integers and how often each occurs; a histogram where that is faster than sorting."""
    if array.dtype in (np.uint8, np.uint16):
        histogram = np.bincount(array.reshape(-1))
        values = np.flatnonzero(histogram)
        return values, histogram[values]
    return np.unique(array, return_counts=True)


def _intensities(channel: Array) -> tuple[float, float, float, float]:
    """Minimum, maximum, sum and sum of squares in unit scale; from the histogram where pixels are integers."""
    if channel.dtype.kind == "u":
        values, counts = _counted(channel)
        unit = values / np.iinfo(channel.dtype).max
        return float(unit[0]), float(unit[-1]), float(unit @ counts), float(unit**2 @ counts)
    unit = channel.astype(np.float64)
    return float(unit.min()), float(unit.max()), float(unit.sum()), float((unit**2).sum())


def _sha1(array: Array) -> str:
    digest = hashlib.sha1(f"{array.shape} {array.dtype}".encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _signature(case: Case) -> str:
    """Changes when a file of the case does, or how it is read."""
    parts = [f"v{VERSION}", repr(case.image), repr(sorted(case.masks.items()))]
    for path in case.paths:
        status = path.stat() if path.exists() else None
        parts.append(f"{path}:{status.st_size}:{status.st_mtime_ns}" if status else f"{path}:missing")
    return hashlib.sha1("\n".join(parts).encode(), usedforsecurity=False).hexdigest()


def _load(cache: Path | None) -> dict[str, CaseFacts]:
    """A cache that cannot be understood is as good as none."""
    if cache is None or not cache.is_file():
        return {}
    try:
        return {key: CaseFacts.from_dict(data) for key, data in json.loads(cache.read_text()).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _save(cache: Path, facts: Mapping[str, CaseFacts]) -> None:
    write_text_atomic(cache, json.dumps({key: asdict(fact) for key, fact in facts.items()}))
