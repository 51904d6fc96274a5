"""What is measured on the arrays of a case for the audit: intensities, how structures lie, whether a mask sits on edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[Any]

PERCENTILES = (0, 0.5, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 100)
MEDIAN, NEARLY_ALL = PERCENTILES.index(50), PERCENTILES.index(99)
MOST_SAMPLED = 100_000
"""Pixels that tell the quantiles of floats; integers are counted all."""
TINY = 10
"""A component of fewer pixels is hardly drawn on purpose."""
SIDE = 256
"""Longer side, in pixels, at which edges are compared."""
THUMBNAIL = 32
LEAST_OUTLINE = 40
"""Fewer outline pixels say nothing about where a mask belongs."""


@dataclass(frozen=True)
class Structure:
    """One value (or plane) of a mask. Lengths are shares of the image; `rim`, `holes` and `filled` are of its largest slice."""

    components: int
    largest: int
    """Pixels of the largest component."""
    tiny: int
    """Components of fewer than TINY pixels."""
    box: tuple[float, ...]
    """First corner, then the one beyond the last pixel, by axis from 0 to 1."""
    rim: float
    """Share of its pixels that touch something else: 1 for a line, little for an area."""
    filled: float
    """Share that it is of its own external contour, filled: 1 without holes, little for an outline."""
    holes: int
    at_border: bool


@dataclass(frozen=True)
class Fit:
    """How well the outline of the foreground follows the edges of the image: 1 = as any line would, 2 and more = on edges.

    `best` is the change of the mask that would follow them best, and `best_score` how well; `shift` is how far it would be
    moved then, in pixels of the image reduced to SIDE.
    """

    score: float
    best: str
    best_score: float
    shift: tuple[int, int] = (0, 0)


# intensities


def counted(array: Array) -> tuple[Array, Array]:
    """Distinct integers and how often each occurs; a histogram where that is faster than sorting."""
    if array.dtype in (np.uint8, np.uint16):
        histogram = np.bincount(array.reshape(-1))
        values = np.flatnonzero(histogram)
        return values, histogram[values]
    return np.unique(array, return_counts=True)


def quantiles(image: Array) -> tuple[tuple[float, ...], ...]:
    """PERCENTILES of every channel of (..., C) in raw values; NaN and infinity do not count."""
    return tuple(_quantiles(image[..., c].reshape(-1)) for c in range(image.shape[-1]))


def _quantiles(values: Array) -> tuple[float, ...]:
    if values.dtype in (np.uint8, np.uint16) and values.size:
        distinct, counts = counted(values)
        at = np.searchsorted(np.cumsum(counts), np.array(PERCENTILES) / 100 * values.size)
        return tuple(float(v) for v in distinct[np.minimum(at, len(distinct) - 1)])
    sample = values[:: max(1, -(-values.size // MOST_SAMPLED))].astype(np.float64)
    known = sample[np.isfinite(sample)]
    return tuple(float(v) for v in np.percentile(known, PERCENTILES)) if known.size else (0.0,) * len(PERCENTILES)


# the look of an image


def grey(image: Array) -> Array:
    """One slice (H, W, C) as float32 (H, W), finite."""
    flat = image[..., 0] if image.shape[-1] == 1 else image.mean(axis=-1)
    return flat.astype(np.float32) if flat.dtype.kind == "u" else np.nan_to_num(flat.astype(np.float32), posinf=0, neginf=0)


def thumbnail(picture: Array) -> Array:
    """(32, 32) uint8 of a grey picture (H, W), its own range from black to white."""
    small = cv2.resize(picture, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    low, high = float(small.min()), float(small.max())
    return np.asarray(np.round((small - low) * (255 / max(high - low, 1e-12))), np.uint8)


def perceptual_hash(small: Array) -> int:
    """64 bits: which of the 8 x 8 lowest cosine frequencies of a thumbnail exceed their median (pHash, Zauner 2010)."""
    low = cv2.dct(small.astype(np.float32))[:8, :8].reshape(-1)
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


# how structures lie


def structure(region: Array) -> Structure | None:
    """Of a bool region (H, W) or (D, H, W); None where it is empty."""
    box = _box(region)
    if not box:
        return None
    part = np.ascontiguousarray(region[box], dtype=np.uint8)
    sizes = _component_sizes(part)
    rim, filled, holes = _outline_measures(part if part.ndim == 2 else part[part.sum(axis=(1, 2)).argmax()])
    planar = list(zip(box, region.shape, strict=True))[-2:]
    return Structure(
        components=len(sizes),
        largest=int(sizes.max()),
        tiny=int((sizes < TINY).sum()),
        box=tuple(round(b.start / n, 4) for b, n in zip(box, region.shape, strict=True))
        + tuple(round(b.stop / n, 4) for b, n in zip(box, region.shape, strict=True)),
        rim=rim,
        filled=filled,
        holes=holes,
        at_border=any(b.start == 0 or b.stop == n for b, n in planar),
    )


def _box(region: Array) -> tuple[slice, ...]:
    found = []
    for axis in range(region.ndim):
        there = np.flatnonzero(region.any(axis=tuple(a for a in range(region.ndim) if a != axis)))
        if not there.size:
            return ()
        found.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(found)


def _component_sizes(part: Array) -> Array:
    """Pixels of each component; corners connect."""
    if part.ndim == 2:
        return np.asarray(cv2.connectedComponentsWithStats(part, connectivity=8)[2][1:, cv2.CC_STAT_AREA])
    named, _ = ndimage.label(part, structure=np.ones((3, 3, 3)))
    return np.bincount(named.reshape(-1))[1:]


def _outline_measures(plane: Array) -> tuple[float, float, int]:
    """Share on the rim, share of the filled contour, number of holes of (H, W) uint8 that is not empty."""
    padded = np.pad(plane, 1)
    area = int(padded.sum())
    inner = int(cv2.erode(padded, np.ones((3, 3), np.uint8)).sum())
    contours, hierarchy = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = [contour for contour, place in zip(contours, hierarchy[0], strict=True) if place[3] < 0]
    full = int(cv2.drawContours(np.zeros_like(padded), outer, -1, 1, cv2.FILLED).sum())
    return round(1 - inner / area, 4), round(area / full, 4), len(contours) - len(outer)


# does a mask belong to its image?


def fit(picture: Array, region: Array) -> Fit | None:
    """Of a grey picture (H, W) and the foreground (H, W) of its mask; None where too little is seen to tell."""
    scale = min(1.0, SIDE / max(picture.shape))
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    edges = _edges(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    outline = _outline(cv2.resize(region.astype(np.float32), size, interpolation=cv2.INTER_AREA))
    if edges is None or len(outline[0]) < LEAST_OUTLINE or min(size) < SIDE // 4:
        return None
    scores = {name: _along(edges, *turned) for name, turned in _turned(*outline, edges.shape[1:]).items()}
    turn = max(scores, key=lambda name: scores[name])
    moved = {(dy, dx): _along(edges, outline[0] + np.array([dy, dx]), outline[1]) for dy in SHIFTS for dx in SHIFTS if dy or dx}
    shift = max(moved, key=lambda by: moved[by])
    if moved[shift] <= scores[turn]:
        return Fit(round(scores[AS_IT_IS], 3), turn, round(scores[turn], 3))
    name = f"moved by about {round(shift[0] / scale)} rows and {round(shift[1] / scale)} columns"
    return Fit(round(scores[AS_IT_IS], 3), name, round(moved[shift], 3), shift)


def _edges(small: Array) -> Array | None:
    """(2, H, W) gradient, its length 1 on average and at most 3: one bright spot must not outweigh an outline."""
    blurred = cv2.GaussianBlur(small, (0, 0), 1.5)
    gradient = np.stack([cv2.Sobel(blurred, cv2.CV_32F, 0, 1), cv2.Sobel(blurred, cv2.CV_32F, 1, 0)])
    length = np.hypot(*gradient)
    mean = float(length.mean())
    return gradient / mean * np.minimum(1, 3 * mean / np.maximum(length, 1e-12)) if mean > 0 else None


def _outline(region: Array) -> tuple[Array, Array]:
    """Pixels (N, 2) where the soft region (H, W) begins, and the directions (N, 2) of length 1 across it; not at the image's border."""
    blurred = cv2.GaussianBlur(region, (0, 0), 1.0)
    hard = (region > 0.5).astype(np.uint8)
    rim = hard - cv2.erode(hard, np.ones((3, 3), np.uint8))
    rim[[0, 1, -2, -1]] = 0
    rim[:, [0, 1, -2, -1]] = 0
    points = np.argwhere(rim)
    across = np.stack([cv2.Sobel(blurred, cv2.CV_32F, 0, 1)[rim > 0], cv2.Sobel(blurred, cv2.CV_32F, 1, 0)[rim > 0]], axis=-1)
    return points, across / np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-6)


AS_IT_IS = "as it is"
SHIFTS = (-16, -12, -8, 0, 8, 12, 16)
"""In pixels of the smaller picture, by rows and by columns."""


def _turned(points: Array, across: Array, shape: tuple[int, ...]) -> Mapping[str, tuple[Array, Array]]:
    """The outline turned over in the ways that occur by mistake."""
    last = np.array(shape) - 1
    turned = {
        AS_IT_IS: (points, across),
        "flipped left-right": (points * (1, -1) + (0, last[1]), across * (1, -1)),
        "flipped upside down": (points * (-1, 1) + (last[0], 0), across * (-1, 1)),
        "turned by 180 degrees": (last - points, -across),
    }
    if shape[0] == shape[1]:
        turned["transposed"] = (points[:, ::-1], across[:, ::-1])
    return turned


def _along(edges: Array, points: Array, across: Array) -> float:
    """Mean of the gradient across the outline; outside the image there is none, so that moving out never pays."""
    inside = ((points >= 0) & (points < edges.shape[1:])).all(axis=1)
    rows, columns = points[inside].T
    directions = across[inside]
    return float(np.abs(edges[0][rows, columns] * directions[:, 0] + edges[1][rows, columns] * directions[:, 1]).sum() / len(points))
