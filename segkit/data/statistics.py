"""What is true of each case, seen by reading every file once: sizes, intensities, mask values, content hashes.

Facts do not depend on the label map, so that one scan serves its inference, the audit, the normalisation and the
provenance, and stays valid when `data.labels` changes. They are cached by path, size and time of change of the files.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segkit.data import facts_cache
from segkit.data.case import Case, Pixels
from segkit.data.io.base import ReadError
from segkit.data.labels import LabelMap, pack_rgb
from segkit.data.measures import THUMBNAIL, Fit, Structure, counted, fit, grey, perceptual_hash, quantiles, structure, thumbnail
from segkit.data.transforms.intensity import unit_scale
from segkit.system.progress import track

Array = npt.NDArray[Any]

VERSION = 2
"""Raised whenever facts change their meaning: older caches are then ignored."""
MOST_VALUES = 64
"""Distinct mask values kept by count; more than that are no labels but grey levels."""
MOST_MEASURED = 20
"""With more distinct values than this, how they lie is not measured: they are no labels."""
SECONDS = 30.0
"""After which measured facts are on disk: what a kill costs at most."""
QUEUE = 1024


@dataclass(frozen=True)
class MaskFacts:
    """A mask, or one plane of it, as it is in the file."""

    shape: tuple[int, ...]
    """(rows, columns), or (slices, rows, columns)."""
    values: Mapping[str, int]
    """Raw value (or colour '#rrggbb') -> number of pixels, the most frequent ones."""
    n_values: int
    sha1: str
    structures: Mapping[str, Structure] = field(default_factory=dict)
    """By raw value, 0 and black left out; of a volume in voxels."""
    fit: Fit | None = None
    """How its outline follows the image; of a volume in the slice that holds most of it."""

    @property
    def pixels(self) -> int:
        return math.prod(self.shape)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MaskFacts:
        structures = {value: Structure(**{**s, "box": tuple(s["box"])}) for value, s in data["structures"].items()}
        fitted = Fit(**{**data["fit"], "shift": tuple(data["fit"]["shift"])}) if data["fit"] else None
        return cls(**{**data, "shape": tuple(data["shape"]), "structures": structures, "fit": fitted})


@dataclass(frozen=True)
class CaseFacts:
    """An image and its masks. Intensities are by channel in unit scale, as the network sees them."""

    shape: tuple[int, ...] = (0, 0)
    """(rows, columns), or (slices, rows, columns)."""
    channels: int = 0
    dtype: str = ""
    sha1: str = ""
    sum: tuple[float, ...] = ()
    sum_of_squares: tuple[float, ...] = ()
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()
    masks: Mapping[str, MaskFacts] = field(default_factory=dict)
    """By plane; '' where there is one mask."""
    quantiles: tuple[tuple[float, ...], ...] = ()
    """`measures.PERCENTILES` by channel, in the raw values of the file."""
    foreground_quantiles: tuple[tuple[float, ...], ...] = ()
    """The same where a mask is not 0; empty without foreground."""
    look: str = ""
    """A thumbnail (32, 32) uint8 of the image or its middle slice, in base64; empty where it is all one value."""
    overlaps: tuple[tuple[str, str, int], ...] = ()
    """(plane, plane, pixels in both) for planes that overlap."""
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
        return tuple(total / max(1, math.prod(self.shape)) for total in self.sum)

    @property
    def is_blank(self) -> bool:
        """Every pixel has the same value."""
        return bool(self.minimum) and self.minimum == self.maximum

    @property
    def thumbnail(self) -> Array | None:
        small = np.frombuffer(base64.b64decode(self.look), np.uint8)
        return small.reshape(THUMBNAIL, THUMBNAIL) if small.size else None

    @property
    def perceptual_hash(self) -> int | None:
        """64 bits that differ little between images that look alike."""
        small = self.thumbnail
        return None if small is None else perceptual_hash(small)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CaseFacts:
        flat = {name: tuple(data[name]) for name in ("shape", "sum", "sum_of_squares", "minimum", "maximum")}
        nested = {name: tuple(map(tuple, data[name])) for name in ("quantiles", "foreground_quantiles", "overlaps", "errors")}
        masks = {plane: MaskFacts.from_dict(mask) for plane, mask in data["masks"].items()}
        return cls(**{**data, **flat, **nested, "masks": masks})


def scan(cases: Sequence[Case], cache: Path | None = None) -> dict[str, CaseFacts]:
    """Facts by case id. Never fails on a file: what cannot be read is among the facts. `cache` is a folder (`facts_cache`)."""
    facts, signatures = measure(cases, cache)
    if cache is not None:
        facts_cache.tidy(cache, set(signatures.values()))
    return facts


def measure(cases: Sequence[Case], cache: Path | None) -> tuple[dict[str, CaseFacts], dict[str, str]]:
    """Facts, and the signatures by which the cache knows them, by case id. Others may be filling the cache as well."""
    signatures = {case.id: _signature(case) for case in cases}
    known = _known(cache, set(signatures.values()))
    fresh = [case for case in cases if signatures[case.id] not in known]
    seen: dict[str, CaseFacts] = {}
    kept, due = 0, time.monotonic() + SECONDS
    try:
        for case, fact in track(_measured(fresh), "reading files", len(fresh)):
            seen[case.id] = fact
            if time.monotonic() > due:
                kept, due = _keep(cache, seen, signatures, kept), time.monotonic() + SECONDS
    finally:  # also of a scan that is stopped
        _keep(cache, seen, signatures, kept)
    return {case.id: seen[case.id] if case.id in seen else known[signatures[case.id]] for case in cases}, signatures


def _measured(cases: Sequence[Case]) -> Iterator[tuple[Case, CaseFacts]]:
    """In threads, as decoding releases the interpreter's lock; some at a time, since a million in a queue take a gigabyte."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for first in range(0, len(cases), QUEUE):
            some = cases[first : first + QUEUE]
            yield from zip(some, pool.map(facts_of, some), strict=True)


def _keep(cache: Path | None, seen: Mapping[str, CaseFacts], signatures: Mapping[str, str], kept: int) -> int:
    """Writes what has been seen after the first `kept`; how many it is now. What could not be read is tried again next time."""
    new = {signatures[id_]: asdict(fact) for id_, fact in islice(seen.items(), kept, None) if not fact.errors}
    if cache is not None and new:
        facts_cache.add(cache, new)
    return len(seen)


def facts_of(case: Case) -> CaseFacts:
    """Reads the files of one case."""
    errors: list[tuple[str, str]] = []
    image = _read(case.image, errors, (case.dims + 1,))
    masks = {plane: _read(pixels, errors, (2, 3) if case.dims == 2 else (3,)) for plane, pixels in case.masks.items()}
    read = {plane: mask for plane, mask in masks.items() if mask is not None}
    if image is None:
        return CaseFacts(masks={plane: _mask_facts(mask, case.dims, None) for plane, mask in read.items()}, errors=tuple(errors))
    scaled = image if image.dtype.kind == "u" else unit_scale(image)
    low, high, total, squares = zip(*(_intensities(scaled[..., c]) for c in range(image.shape[-1])), strict=True)
    return CaseFacts(
        shape=image.shape[:-1],
        channels=image.shape[-1],
        dtype=str(image.dtype),
        sha1=_sha1(image),
        sum=total,
        sum_of_squares=squares,
        minimum=low,
        maximum=high,
        masks={plane: _mask_facts(mask, case.dims, image) for plane, mask in read.items()},
        quantiles=quantiles(image),
        foreground_quantiles=_inside(image, read.values(), case.dims),
        look="" if low == high else _look(image),
        overlaps=_overlaps(read),
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


def _mask_facts(mask: Array, dims: int, image: Array | None) -> MaskFacts:
    colours = mask.ndim > dims
    flat = pack_rgb(mask) if colours else mask
    values, counts = counted(flat)
    most = np.sort(np.argsort(counts, kind="stable")[::-1][:MOST_VALUES])
    names = {int(values[i]): f"#{values[i]:06x}" if colours else str(values[i]) for i in most}
    kept = {names[int(values[i])]: int(counts[i]) for i in most}
    structures, fitted = {}, None
    if len(values) <= MOST_MEASURED:
        found = {name: structure(flat == value) for value, name in names.items() if value}
        structures = {name: measured for name, measured in found.items() if measured is not None}
        fitted = _fit(image, flat) if image is not None and image.shape[:-1] == flat.shape and structures else None
    return MaskFacts(flat.shape, kept, len(values), _sha1(mask), structures, fitted)


def _fit(image: Array, flat: Array) -> Fit | None:
    """In the slice that holds most of the mask."""
    foreground = flat != 0
    if flat.ndim == 2:
        return fit(grey(image), foreground)
    z = int(foreground.sum(axis=(1, 2)).argmax())
    return fit(grey(image[z]), foreground[z])


def _inside(image: Array, masks: Iterable[Array], dims: int) -> tuple[tuple[float, ...], ...]:
    """Quantiles where a mask of the image's size is not 0."""
    regions = [mask.any(axis=-1) if mask.ndim > dims else mask != 0 for mask in masks]
    fitting = [region for region in regions if region.shape == image.shape[:-1]]
    anywhere = np.logical_or.reduce(fitting) if fitting else np.zeros(image.shape[:-1], bool)
    return quantiles(image[anywhere]) if anywhere.any() else ()


def _look(image: Array) -> str:
    picture = grey(image if image.ndim == 3 else image[len(image) // 2])
    return base64.b64encode(thumbnail(picture).tobytes()).decode() if np.ptp(picture) > 0 else ""


def _overlaps(masks: Mapping[str, Array]) -> tuple[tuple[str, str, int], ...]:
    pairs = combinations(masks, 2) if len(masks) <= MOST_MEASURED else ()
    both = [(a, b, int(((masks[a] > 0) & (masks[b] > 0)).sum())) for a, b in pairs if masks[a].shape == masks[b].shape]
    return tuple(pair for pair in both if pair[2])


def _intensities(channel: Array) -> tuple[float, float, float, float]:
    """Minimum, maximum, sum and sum of squares in unit scale; from the histogram where pixels are integers."""
    if channel.dtype.kind == "u":
        values, counts = counted(channel)
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


def _known(cache: Path | None, wanted: Collection[str]) -> dict[str, CaseFacts]:
    """What cannot be understood is as good as none."""
    known: dict[str, CaseFacts] = {}
    for signature, data in facts_cache.read(cache, wanted) if cache else ():
        with suppress(TypeError, KeyError, AttributeError):
            known[signature] = CaseFacts.from_dict(data)
    return known
