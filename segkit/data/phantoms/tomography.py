"""A synthetic abdomen on MR: stomach, small and large bowel among organs as bright as they are.

An axial slice of a balanced gradient echo, as scanners beside a linac take them: bright fat and fluid, a ring of muscle, the
spine, liver, spleen, kidneys and vessels. Three structures are to be found. The stomach is one pouch with folds; the small
bowel is a heap of loops with a feathered inside; the large bowel runs around it, with a bright wall and a dark inside. Liver,
spleen and kidneys are as bright, so place, shape and texture tell, and a threshold does not. Neighbours overlap at their
borders, as outlines do where two loops press on each other. Noise is Rician (Gudbjartsson and Patz, Magn. Reson. Med. 1995).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segkit.system.progress import track

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Random = np.random.Generator

ROWS, COLUMNS = 96, 120
LEAST_SLICES = 3
STRUCTURES = ("large_bowel", "small_bowel", "stomach")
TOP = 12000.0
"""What the brightest tissue is about, in 16 bits."""
MARGIN = 1.06
"""How far outlines reach beyond what is seen of a structure, so that neighbours overlap."""
SPECK = 12
"""Pixels; annotators draw nothing smaller."""


@dataclass(frozen=True)
class Scan:
    """One day of one patient: `images` (D, H, W) uint16, `masks` (D, 3, H, W) uint8 in the order of `STRUCTURES`."""

    case: int
    day: int
    positions: tuple[int, ...]
    images: Array
    masks: Array
    pixel_mm: float


@dataclass(frozen=True)
class Blob:
    """An ellipsoid of wavy border, in units of the body; `z` is where it is largest, `height` how far it reaches."""

    x: float
    y: float
    z: float
    a: float
    b: float
    height: float
    angle: float
    waves: tuple[tuple[float, float], ...]

    def radius(self, xs: Floats, ys: Floats, z: float) -> Floats:
        """1 on its border in the slice at height `z`, 0 in its middle."""
        size = np.sqrt(max(1e-4, 1 - ((z - self.z) / self.height) ** 2))
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        dx, dy = xs - self.x, ys - self.y
        u, v = (dx * cos + dy * sin) / self.a, (dy * cos - dx * sin) / self.b
        angle = np.arctan2(v, u)
        border = 1 + sum(much * np.cos(k * angle + phase + 2 * z) for k, (much, phase) in enumerate(self.waves, 2))
        return np.asarray(np.hypot(u, v) / (size * border), np.float32)


@dataclass(frozen=True)
class Anatomy:
    """Blobs by structure, and how bright each tissue is, 1 being fat."""

    organs: dict[str, list[Blob]]
    others: dict[str, list[Blob]]
    signal: dict[str, float]
    width: float
    depth: float


def scans(n: int, seed: int) -> Iterator[Scan]:
    """`n` slices in days of three to five, of four patients or more where there are enough slices; some come for two days."""
    days = max(n // (LEAST_SLICES + 1), min(n, 4))
    slices = np.array_split(np.arange(n), days)
    for i in track(range(days), "drawing", total=days):
        case, second = (i, False) if i < 4 else (4 + (i - 4) // 2, False) if i % 2 else ((i - 4) // 2, True)
        yield draw(seed, case, int(second), len(slices[i]))


def draw(seed: int, case: int, visit: int, slices: int) -> Scan:
    """Patient number `case` of the series `seed` at a visit; the same bytes every time. Organs keep their size between visits,
    and move a little. Every fifth patient's first slice lies above the organs, so it is empty."""
    anatomy = _anatomy(np.random.Generator(np.random.PCG64([seed, case])))
    random = np.random.Generator(np.random.PCG64([seed, case, 1 + visit]))
    heights = np.linspace(0.22, 0.78, slices) if slices > 1 else np.array([0.5])
    if slices > LEAST_SLICES and case % 5 == 1:
        heights[0] = -0.6
    shift = random.normal(0, 0.02, 2)
    centre = random.uniform(-2, 2, 2)
    drawn = [_slice(random, anatomy, centre, shift, float(z)) for z in heights]
    images, masks = (np.stack(parts) for parts in zip(*drawn, strict=True))
    first = int(random.integers(40, 70))
    day = int(visit * random.integers(5, 30))
    return Scan(101 + case, day, tuple(range(first, first + slices)), images, masks, 1.5)


# drawing; the body reaches from -1 to 1, the patient's right lies on the left of the picture


def _anatomy(random: Random) -> Anatomy:
    def blob(x: float, y: float, z: float, a: float, b: float, height: float, angle: float = 0.0, wave: float = 0.08) -> Blob:
        x, y = random.normal((x, y), 0.025)
        a, b = (a, b) * random.uniform(0.88, 1.12, 2)
        waves = tuple((random.normal(0, wave / k), random.uniform(0, 2 * np.pi)) for k in range(1, 4))
        return Blob(x, y, z + random.normal(0, 0.02), a, b, height, angle + random.normal(0, 0.15), waves)

    loops = [blob(x, y, z, 0.17, 0.11, 0.75, random.uniform(0, np.pi), 0.12) for x, y, z in _LOOPS]
    frame = [blob(x, y, z, 0.15, 0.13, 0.85, turn, 0.12) for x, y, z, turn in _FRAME]
    pouch = [blob(0.36, -0.28, 0.35, 0.27, 0.19, 0.75, 0.5), blob(0.14, -0.18, 0.45, 0.17, 0.11, 0.65, 0.2)]
    others = {
        "liver": [blob(-0.52, -0.16, 0.2, 0.33, 0.42, 0.75), blob(-0.20, -0.38, 0.15, 0.26, 0.16, 0.6)],
        "spleen": [blob(0.68, 0.12, 0.2, 0.13, 0.26, 0.6)],
        "kidney": [blob(-0.42, 0.42, 0.6, 0.14, 0.17, 0.7, 0, 0.03), blob(0.42, 0.42, 0.55, 0.14, 0.17, 0.7, 0, 0.03)],
        "vessel": [blob(0.07, 0.24, 0.5, 0.06, 0.06, 5, 0, 0.01), blob(-0.09, 0.24, 0.5, 0.07, 0.05, 5, 0, 0.01)],
        "muscle": [blob(-0.24, 0.58, 0.5, 0.15, 0.13, 5), blob(0.24, 0.58, 0.5, 0.15, 0.13, 5)],
        "bone": [blob(0, 0.46, 0.5, 0.15, 0.14, 5, 0, 0.02)],
        "canal": [blob(0, 0.68, 0.5, 0.05, 0.04, 5, 0, 0.02)],
    }
    levels = {
        **{"fat": 1.0, "muscle": 0.34, "bone": 0.5, "canal": 0.95, "liver": 0.46, "spleen": 0.60, "kidney": 0.70, "vessel": 0.80},
        **{"stomach": 0.50, "small_bowel": 0.66, "large_bowel": 0.40},
    }
    signal = {name: level * random.normal(1, 0.05) for name, level in levels.items()}
    organs = {"large_bowel": frame, "small_bowel": loops, "stomach": pouch}
    return Anatomy(organs, others, signal, random.uniform(0.92, 1.0), random.uniform(0.92, 1.0))


_LOOPS = ((-0.08, 0.02, 0.75), (0.12, 0.08, 0.70), (0.30, 0.10, 0.75), (-0.14, -0.16, 0.85), (0.24, 0.00, 0.8), (-0.22, 0.10, 0.8))
_FRAME = ((0.64, -0.14, 0.55, 1.3), (0.58, 0.20, 0.75, 1.5), (-0.50, 0.14, 0.75, 1.6), (-0.24, -0.46, 0.7, 0.2), (0.04, -0.52, 0.65, 0.0))


def _slice(random: Random, anatomy: Anatomy, centre: Array, shift: Array, z: float) -> tuple[Array, Array]:
    """Image (H, W) uint16 and masks (3, H, W) uint8."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS].astype(np.float32)
    xs = (columns - COLUMNS / 2 - centre[0]) / (0.47 * COLUMNS * anatomy.width)
    ys = (rows - ROWS / 2 - centre[1]) / (0.46 * ROWS * anatomy.depth)
    body = np.hypot(xs, ys)
    tissue = _body(random, anatomy, body)
    for name, blobs in anatomy.others.items():
        tissue[np.min([blob.radius(xs, ys, z) for blob in blobs], axis=0) < 1] = anatomy.signal[name]
    masks = []
    for name in STRUCTURES:
        radius = np.stack([blob.radius(xs - shift[0], ys - shift[1], z) for blob in anatomy.organs[name]])
        nearest = np.where(body < 0.82, radius.min(axis=0), 9)
        _paint(random, tissue, name, nearest, anatomy.signal)
        masks.append(_without_specks(nearest < MARGIN))
    return _scanned(random, tissue, body), np.stack(masks)


def _body(random: Random, anatomy: Anatomy, body: Floats) -> Floats:
    """Fat under the skin and within, a ring of muscle between."""
    tissue = np.zeros(body.shape, np.float32)
    marbled = cv2.GaussianBlur(random.normal(size=body.shape).astype(np.float32), (0, 0), 3.5)
    tissue[body < 1] = anatomy.signal["fat"]
    inner = body < 0.83
    tissue[inner] = (anatomy.signal["fat"] * (0.68 + 1.6 * marbled))[inner]
    tissue[(body < 0.90) & (body > 0.82)] = anatomy.signal["muscle"]
    return tissue


def _paint(random: Random, tissue: Floats, name: str, radius: Floats, signal: dict[str, float]) -> None:
    """What each structure looks like inside its wall."""
    inside, wall = radius < 1, (radius < 1) & (radius > 0.82)
    noise = random.normal(size=tissue.shape).astype(np.float32)
    if name == "stomach":  # folds: broad, winding stripes
        texture = 1 + 0.35 * np.sin(9 * radius + 60 * cv2.GaussianBlur(noise, (0, 0), 4))
    elif name == "small_bowel":  # feathers: fine grain
        texture = 1 + 0.8 * cv2.GaussianBlur(noise, (0, 0), 0.8)
    else:  # gas and stool: dark, blotchy
        texture = 0.9 + 1.4 * cv2.GaussianBlur(noise, (0, 0), 2.0)
    tissue[inside] = (signal[name] * texture)[inside]
    tissue[wall] = {"large_bowel": 0.85, "small_bowel": 0.45, "stomach": 0.40}[name]


def _without_specks(mask: Array) -> Array:
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    large = stats[:, cv2.CC_STAT_AREA] >= SPECK
    large[0] = False
    return np.asarray(large[pieces], np.uint8)


def _scanned(random: Random, tissue: Floats, body: Floats) -> Array:
    """Partial volume, texture, shading by the coil, Rician noise; uint16."""
    texture = cv2.GaussianBlur(random.normal(size=tissue.shape).astype(np.float32), (0, 0), 1.3)
    signal = cv2.GaussianBlur(tissue * (1 + 0.35 * texture), (0, 0), 0.6)
    ys, xs = (np.linspace(-1, 1, n, dtype=np.float32) for n in tissue.shape)
    slope = random.uniform(-0.3, 0.3, 2)
    signal *= np.exp(slope[0] * ys[:, None] + slope[1] * xs)
    noisy = np.hypot(signal + random.normal(0, 0.05, signal.shape), random.normal(0, 0.05, signal.shape))
    return np.asarray(np.clip(np.round(noisy * TOP * random.uniform(0.8, 1.2)), 0, 65535), np.uint16)
