"""Statistics of each case, from reading every file once: sizes, intensities, mask values, content hashes.

They do not depend on the label map, so that one scan serves label inference, audit, normalization and provenance, and stays
valid when `data.labels` changes. They are cached by path, size and modification time of the files.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import combinations, islice
from pathlib import Path

import cv2
import numpy as np
from pydantic import TypeAdapter, ValidationError

from segkit.data.cache import add_lines, compact_lines, digest, read_lines, stamps
from segkit.data.case import Case, Pixels, grouped, present
from segkit.data.io.base import ReadError
from segkit.data.io.exif import orientation_of
from segkit.data.io.masks import NotWhole
from segkit.data.labels import Array, LabelMap, counted, pack_rgb, recoded
from segkit.data.mask_values import MAX_VALUES, cut_between_clusters
from segkit.data.quantiles import quantiles
from segkit.data.structures import Alignment, Structure, align, structures
from segkit.data.transforms.intensity import finite, no_numbers, unit_scale
from segkit.system.errors import DiskFull
from segkit.system.progress import track

VERSION = 5
"""Raised whenever a statistic changes its meaning; older caches are then ignored."""
SAVE_EVERY_S = 30.0
"""Interval at which statistics are saved: what a kill costs at most."""
QUEUE = 1024
THUMBNAIL = 32


@dataclass(frozen=True)
class MaskStatistics:
    """Statistics of a mask, or of one plane of it, as stored in the file."""

    shape: tuple[int, ...]
    """(rows, columns), or (slices, rows, columns)."""
    values: Mapping[str, int]
    """Raw value (or color '#rrggbb') -> number of pixels; the most frequent ones where there are more than `MAX_VALUES`."""
    n_values: int
    sha1: str
    structures: Mapping[str, Structure] = field(default_factory=dict)
    """By raw value, without 0 and black; of a volume in voxels. Empty for gray levels, and see `structures`."""
    alignment: Alignment | None = None
    """With the image; of a volume in the slice with the most foreground."""

    @property
    def pixels(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class CaseStatistics:
    """Statistics of an image and its masks. Intensities are by channel in unit scale, as the network sees them."""

    shape: tuple[int, ...] = (0, 0)
    """(rows, columns), or (slices, rows, columns)."""
    channels: int = 0
    dtype: str = ""
    sha1: str = ""
    sum: tuple[float, ...] = ()
    sum_of_squares: tuple[float, ...] = ()
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()
    masks: Mapping[str, MaskStatistics] = field(default_factory=dict)
    """By plane; '' where there is one mask."""
    quantiles: tuple[tuple[float, ...], ...] = ()
    """PERCENTILES by channel, in the raw values of the file."""
    foreground_quantiles: tuple[tuple[float, ...], ...] = ()
    """The same where a mask is not 0; empty without foreground."""
    preview: str = ""
    """`thumbnail` in base64; empty for a constant image."""
    overlaps: tuple[tuple[str, str, int], ...] = ()
    """(plane, plane, pixels in both) for planes that overlap."""
    mask_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Least and greatest number of masks that hold fractions or NaN, by file; `errors` holds the reason."""
    errors: tuple[tuple[str, str], ...] = ()
    """(file, reason) for what could not be read; the other fields are then empty for it."""
    is_gray: bool = False
    """One channel, or several that are all equal."""
    orientation: int = 1
    """EXIF orientation of the picture, 1 to 8; the largest of several."""
    n_nonfinite: int = 0
    """Values that are NaN or infinite. All other numbers here leave them out."""

    def class_pixels(self, labels: LabelMap) -> dict[str, int]:
        """Pixels of each class, without background and ignore; values without a name count nowhere."""
        counts = dict.fromkeys(labels.classes, 0)
        for plane, mask in self.masks.items():
            for value, n in mask.values.items():
                name = labels.name_of(plane, value)
                if name in counts and not (labels.overlap and (value in ("0", "#000000") or value.startswith("-"))):
                    counts[name] += n
        return counts

    @property
    def is_blank(self) -> bool:
        """Every pixel has the same value."""
        return bool(self.minimum) and self.minimum == self.maximum

    @property
    def thumbnail(self) -> Array | None:
        """(32, 32) uint8 of the image or its middle slice, its own range from black to white."""
        small = np.frombuffer(base64.b64decode(self.preview), np.uint8)
        return small.reshape(THUMBNAIL, THUMBNAIL) if small.size else None


Statistics = Mapping[str, CaseStatistics]
"""By case id."""
_STORED = TypeAdapter(CaseStatistics)


def scan(cases: Sequence[Case], cache: Path | None = None, compact: bool = True) -> dict[str, CaseStatistics]:
    """Read all cases, and return their statistics by case id. What cannot be read is noted in `errors`.

    `cache` is a folder that other processes may be filling as well; `compact` merges its files at the end.
    """
    signatures = {case.id: _signature(case) for case in cases}
    known = _cached(cache, set(signatures.values()))
    fresh = [case for case in cases if signatures[case.id] not in known]
    seen: dict[str, CaseStatistics] = {}
    saved, due = 0, time.monotonic() + SAVE_EVERY_S
    try:
        for case, stats in track(_measured(fresh), "reading files", len(fresh)):
            seen[case.id] = stats
            if time.monotonic() > due:
                saved, due = _save(cache, seen, signatures, saved), time.monotonic() + SAVE_EVERY_S
    finally:  # also when the scan is interrupted
        _save(cache, seen, signatures, saved)
    if cache is not None and compact:
        with suppress(OSError, DiskFull):
            compact_lines(cache, set(signatures.values()))
    return {case.id: seen[case.id] if case.id in seen else known[signatures[case.id]] for case in cases}


def _measured(cases: Sequence[Case]) -> Iterator[tuple[Case, CaseStatistics]]:
    """In threads, as decoding releases the interpreter's lock; in blocks, since a queue of a million takes a gigabyte."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for first in range(0, len(cases), QUEUE):
            block = cases[first : first + QUEUE]
            yield from zip(block, pool.map(statistics_of, block), strict=True)


def _save(cache: Path | None, seen: Mapping[str, CaseStatistics], signatures: Mapping[str, str], saved: int) -> int:
    """Save what was seen after the first `saved` cases, and return the new count. Unreadable cases are tried again next time."""
    new = {signatures[id_]: asdict(stats) for id_, stats in islice(seen.items(), saved, None) if not stats.errors}
    if cache is not None and new:
        with suppress(OSError, DiskFull):  # a cache that cannot be written is no reason to stop
            add_lines(cache, new)
    return len(seen)


def _cached(cache: Path | None, wanted: Collection[str]) -> dict[str, CaseStatistics]:
    """Cached statistics by signature; entries that cannot be parsed are ignored."""
    known: dict[str, CaseStatistics] = {}
    for signature, data in read_lines(cache, wanted) if cache else ():
        with suppress(ValidationError):
            known[signature] = _STORED.validate_python(data)
    return known


def _signature(case: Case) -> str:
    """Changes when a file of the case does, or how it is read."""
    return digest(VERSION, case.image, sorted(case.masks.items()), stamps(case.paths))


def statistics_of(case: Case) -> CaseStatistics:
    """Read the files of one case, and measure it as far as the memory allows."""
    try:
        return _statistics_of(case)
    except MemoryError:
        where = str(case.paths[0]) if case.paths else case.id
        return CaseStatistics(errors=((where, "does not fit into memory"),))


def _statistics_of(case: Case) -> CaseStatistics:
    errors: list[tuple[str, str]] = []
    ranges: dict[str, tuple[float, float]] = {}
    image = _read(case.image, errors, ranges, (case.dims + 1,))
    masks = {plane: _read(pixels, errors, ranges, (2, 3) if case.dims == 2 else (3,)) for plane, pixels in case.masks.items()}
    readable = {plane: mask for plane, mask in masks.items() if mask is not None}
    mask_stats = {plane: _mask_statistics(mask, case.dims, image) for plane, mask in readable.items()}
    if image is None:
        return CaseStatistics(masks=mask_stats, mask_ranges=ranges, errors=tuple(errors))
    known = finite(image)
    scaled = image if image.dtype.kind == "u" else unit_scale(known)
    low, high, total, squares = zip(*(_intensities(scaled[..., c]) for c in range(image.shape[-1])), strict=True)
    return CaseStatistics(
        shape=image.shape[:-1],
        channels=image.shape[-1],
        dtype=str(image.dtype),
        sha1=_sha1(image),
        sum=total,
        sum_of_squares=squares,
        minimum=low,
        maximum=high,
        masks=mask_stats,
        quantiles=quantiles(image),
        foreground_quantiles=_inside(image, readable.values(), case.dims),
        preview="" if low == high else _preview(known),
        overlaps=_overlaps(readable, case.dims),
        mask_ranges=ranges,
        errors=tuple(errors),
        is_gray=all(np.array_equal(image[..., 0], image[..., c]) for c in range(1, image.shape[-1])),
        orientation=max(map(orientation_of, case.image.paths), default=1),
        n_nonfinite=0 if known is image else int(no_numbers(image).sum()),
    )


def data_fingerprint(statistics: Statistics) -> str:
    """sha256 over ids and pixel contents: independent of where files lie and how they are compressed."""
    content = hashlib.sha256()
    for id_ in sorted(statistics):
        masks = [f"{plane}:{mask.sha1}" for plane, mask in sorted(statistics[id_].masks.items())]
        content.update("\t".join([id_, statistics[id_].sha1, *masks]).encode(errors="surrogateescape") + b"\n")
    return content.hexdigest()


def values_seen(statistics: Iterable[CaseStatistics]) -> dict[str, int]:
    """Raw mask values of all cases with their pixel counts, numbers in order, then colors."""
    counts: Counter[str] = Counter()
    for stats in statistics:
        for mask in stats.masks.values():
            counts.update(mask.values)
    return dict(sorted(counts.items(), key=lambda item: value_order(item[0])))


def value_order(value: str) -> tuple[bool, int]:
    return (True, int(value[1:], 16)) if value.startswith("#") else (False, int(value))


def _read(
    pixels: Pixels, errors: list[tuple[str, str]], ranges: dict[str, tuple[float, float]], dimensions: tuple[int, ...]
) -> Array | None:
    """None, and a word in `errors`, where it cannot be read; `ranges` as `CaseStatistics.mask_ranges`."""
    file = str(pixels.paths[0]) if pixels.paths else repr(pixels)
    try:
        array = pixels.read()
    except ReadError as error:
        errors.append((str(error.path), error.reason))
        if isinstance(error, NotWhole):
            ranges[str(error.path)] = error.extremes
    except Exception as error:  # one bad file among a thousand is reported with all others, whatever its reader raises
        errors.append((file, f"cannot be read ({type(error).__name__}: {error})"))
    else:
        if array.ndim in dimensions and array.size:
            return array
        errors.append((file, f"gives an array of shape {array.shape}"))
    return None


def _intensities(channel: Array) -> tuple[float, float, float, float]:
    """Minimum, maximum, sum and sum of squares in unit scale; from the histogram where pixels are integers."""
    if channel.dtype.kind == "u":
        values, counts = counted(channel)
        unit = values / np.iinfo(channel.dtype).max
        return float(unit[0]), float(unit[-1]), float(unit @ counts), float(unit**2 @ counts)
    unit = channel.astype(np.float64)
    return float(unit.min()), float(unit.max()), float(unit.sum()), float((unit**2).sum())


def _inside(image: Array, masks: Iterable[Array], dims: int) -> tuple[tuple[float, ...], ...]:
    """Quantiles where a mask of the image's size is above 0."""
    regions = [present(mask, dims) for mask in masks]
    fitting = [region for region in regions if region.shape == image.shape[:-1]]
    anywhere = np.logical_or.reduce(fitting) if fitting else np.zeros(image.shape[:-1], bool)
    return quantiles(image[anywhere]) if anywhere.any() else ()


def _gray(image: Array) -> Array:
    """One slice (H, W, C) as float32 (H, W), finite."""
    flat = image[..., 0] if image.shape[-1] == 1 else image.mean(axis=-1)
    return flat.astype(np.float32) if flat.dtype.kind == "u" else finite(flat.astype(np.float32)[..., None])[..., 0]


def _preview(image: Array) -> str:
    """Base64 of the image or its middle slice, (32, 32) uint8 from its own darkest to brightest value; empty for a constant one."""
    gray = _gray(image if image.ndim == 3 else image[len(image) // 2])
    if np.ptp(gray) == 0:
        return ""
    small = cv2.resize(gray, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    low, high = float(small.min()), float(small.max())
    pixels = np.asarray(np.round((small - low) * (255 / max(high - low, 1e-12))), np.uint8)
    return base64.b64encode(pixels.tobytes()).decode()


def _sha1(array: Array) -> str:
    digest = hashlib.sha1(f"{array.shape} {array.dtype}".encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _mask_statistics(mask: Array, dims: int, image: Array | None) -> MaskStatistics:
    is_rgb = mask.ndim > dims
    flat = pack_rgb(mask) if is_rgb else mask
    values, counts = counted(flat)
    names = [f"#{value:06x}" if is_rgb else str(value) for value in values.tolist()]
    most = np.sort(np.argsort(counts, kind="stable")[::-1][:MAX_VALUES]).tolist()
    kept = {names[i]: int(counts[i]) for i in most}
    shapes = _structures(flat, values, counts, names) if len(values) == len(most) else {}
    fits = image is not None and image.shape[:-1] == flat.shape
    alignment = _alignment(image, flat) if image is not None and fits and shapes else None
    return MaskStatistics(flat.shape, kept, len(values), _sha1(mask), shapes, alignment)


def _structures(flat: Array, values: Array, counts: Array, names: Sequence[str]) -> dict[str, Structure]:
    """Of each value but 0. Of gray levels none: their shapes mean nothing, and there may be hundreds."""
    if cut_between_clusters(dict(zip(values.tolist(), counts.tolist(), strict=True))) is not None:
        return {}
    kind = np.min_scalar_type(len(values))
    numbered = recoded(flat, values, np.where(values == 0, 0, np.arange(1, len(values) + 1)).astype(kind))
    return {names[k - 1]: shape for k, shape in (structures(numbered) or {}).items()}


def _alignment(image: Array, flat: Array) -> Alignment | None:
    z = () if flat.ndim == 2 else int((flat > 0).sum(axis=(1, 2)).argmax())
    return align(_gray(image[z]), flat[z] > 0)


def _overlaps(masks: Mapping[str, Array], dims: int) -> tuple[tuple[str, str, int], ...]:
    """Pairs of planes with the pixels in both, counted where there is more than one plane at all."""
    planes = grouped((plane.shape, (name, plane)) for name, plane in ((name, present(mask, dims)) for name, mask in masks.items()))
    return tuple(pair for members in planes.values() for pair in _common_pixels(dict(members)))


def _common_pixels(planes: Mapping[str, Array]) -> list[tuple[str, str, int]]:
    crowded = np.add.reduce([plane.astype(np.int32) for plane in planes.values()]) > 1
    inside = np.stack([plane[crowded] for plane in planes.values()]).astype(np.float64)
    both = (inside @ inside.T).astype(np.int64)
    names = list(planes)
    return [(names[i], names[j], int(both[i, j])) for i, j in combinations(range(len(names)), 2) if both[i, j]]
