"""The structures of a mask: their components, holes and outlines, and whether these follow the edges of the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from segkit.data.labels import Array

TINY = 10
"""A component of fewer pixels is hardly drawn on purpose."""
MAX_MEASURED = 20
"""Areas of the mask that the boxes of its structures may add up to, for these to be measured."""
LONGER_SIDE = 256
"""Pixels of the longer side at which edges are compared."""
MIN_OUTLINE = 40
"""With fewer outline pixels nothing can be said about where a mask belongs."""
UNCHANGED = "as it is"
SHIFTS = (-16, -12, -8, 0, 8, 12, 16)
"""Shifts tried along rows and columns, in pixels of the reduced image."""


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
    """Its area divided by that of its filled external contour: 1 without holes, little for an outline."""
    holes: int
    at_border: bool


@dataclass(frozen=True)
class Alignment:
    """How well the foreground's outline follows the edges of the image: 1 = like any line, 2 and more = on edges.

    `best` names the change of the mask that would follow them best, `best_score` its score; `shift` is the shift of that change,
    in pixels of the image reduced to LONGER_SIDE.
    """

    score: float
    best: str
    best_score: float
    shift: tuple[int, int] = (0, 0)


def structures(numbered: Array) -> dict[int, Structure] | None:
    """Measure the regions 1, 2, … of (H, W) or (D, H, W), each within its own box.

    None where that would take too long: the boxes together are more than `MAX_MEASURED` times as large as the mask.
    """
    boxes = {k: box for k, box in enumerate(ndimage.find_objects(numbered), 1) if box is not None}
    total = sum(math.prod(side.stop - side.start for side in box) for box in boxes.values())
    if total > MAX_MEASURED * numbered.size:
        return None
    return {k: structure(numbered[box] == k, box, numbered.shape) for k, box in boxes.items()}


def structure(region: Array, box: Sequence[slice], shape: Sequence[int]) -> Structure:
    """Measure a bool region that fills `box` of a mask of this shape."""
    part = np.ascontiguousarray(region, dtype=np.uint8)
    sizes = _component_sizes(part)
    rim, filled, holes = _outline_measures(part if part.ndim == 2 else part[part.sum(axis=(1, 2)).argmax()])
    sides = list(zip(box, shape, strict=True))
    return Structure(
        components=len(sizes),
        largest=int(sizes.max()),
        tiny=int((sizes < TINY).sum()),
        box=(*(round(b.start / n, 4) for b, n in sides), *(round(b.stop / n, 4) for b, n in sides)),
        rim=rim,
        filled=filled,
        holes=holes,
        at_border=any(b.start == 0 or b.stop == n for b, n in sides[-2:]),
    )


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


def align(image: Array, region: Array) -> Alignment | None:
    """Compare a gray image (H, W) with the foreground (H, W) of its mask; None where too little is visible."""
    scale = min(1.0, LONGER_SIDE / max(image.shape))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    edges = _edges(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    points, normals = _outline(cv2.resize(region.astype(np.float32), size, interpolation=cv2.INTER_AREA))
    if edges is None or len(points) < MIN_OUTLINE or min(size) < LONGER_SIDE // 4:
        return None
    scores = {name: _along(edges, *turned) for name, turned in _turned(points, normals, edges.shape[1:]).items()}
    turn = max(scores, key=lambda name: scores[name])
    shifts = {(dy, dx): _along(edges, points + np.array([dy, dx]), normals) for dy in SHIFTS for dx in SHIFTS if dy or dx}
    shift = max(shifts, key=lambda by: shifts[by])
    if shifts[shift] <= scores[turn]:
        return Alignment(round(scores[UNCHANGED], 3), turn, round(scores[turn], 3))
    name = f"moved by about {round(shift[0] / scale)} rows and {round(shift[1] / scale)} columns"
    return Alignment(round(scores[UNCHANGED], 3), name, round(shifts[shift], 3), shift)


def _edges(small: Array) -> Array | None:
    """(2, H, W) gradient, its length 1 on average and at most 3: one bright spot must not outweigh an outline."""
    blurred = cv2.GaussianBlur(small, (0, 0), 1.5)
    gradient = np.stack([cv2.Sobel(blurred, cv2.CV_32F, 0, 1), cv2.Sobel(blurred, cv2.CV_32F, 1, 0)])
    length = np.hypot(*gradient)
    mean = float(length.mean())
    return gradient / mean * np.minimum(1, 3 * mean / np.maximum(length, 1e-12)) if mean > 0 else None


def _outline(region: Array) -> tuple[Array, Array]:
    """Border pixels (N, 2) of the soft region (H, W), without those at the image's border, and their unit normals (N, 2)."""
    blurred = cv2.GaussianBlur(region, (0, 0), 1.0)
    hard = (region > 0.5).astype(np.uint8)
    rim = hard - cv2.erode(hard, np.ones((3, 3), np.uint8))
    rim[[0, 1, -2, -1]] = 0
    rim[:, [0, 1, -2, -1]] = 0
    normals = np.stack([cv2.Sobel(blurred, cv2.CV_32F, 0, 1)[rim > 0], cv2.Sobel(blurred, cv2.CV_32F, 1, 0)[rim > 0]], axis=-1)
    return np.argwhere(rim), normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)


def _turned(points: Array, normals: Array, shape: tuple[int, ...]) -> Mapping[str, tuple[Array, Array]]:
    """The outline turned over in the ways that occur by mistake."""
    last = np.array(shape) - 1
    turned = {
        UNCHANGED: (points, normals),
        "flipped left-right": (points * (1, -1) + (0, last[1]), normals * (1, -1)),
        "flipped upside down": (points * (-1, 1) + (last[0], 0), normals * (-1, 1)),
        "turned by 180 degrees": (last - points, -normals),
    }
    if shape[0] == shape[1]:
        turned["transposed"] = (points[:, ::-1], normals[:, ::-1])
    return turned


def _along(edges: Array, points: Array, normals: Array) -> float:
    """Mean gradient across the outline; it is 0 outside the image, so that moving out never pays."""
    inside = ((points >= 0) & (points < edges.shape[1:])).all(axis=1)
    rows, columns = points[inside].T
    across = normals[inside]
    return float(np.abs(edges[0][rows, columns] * across[:, 0] + edges[1][rows, columns] * across[:, 1]).sum() / len(points))
