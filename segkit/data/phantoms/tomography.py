"""Synthetic tomography: an abdomen on MR and on CT, and a skull-stripped brain with a tumor on MR.

Everything is made of ellipsoids, drawn in a warped space. The abdomen shows fat, a ring of muscle, the spine, and within it
liver, kidneys, spleen, vessels, stomach and bowel. On CT liver, spleen, muscle and bowel lie within 15 HU of each other; on MR
liver, spleen and kidneys are as bright as stomach and bowel. So place, shape and texture tell structures apart, and a threshold
does not.

The tumor of the brain has three nested parts, valued as BraTS has them (Menze et al., IEEE Trans. Med. Imaging 2015). Each is
as bright as something healthy: edema as small lesions on FLAIR, the core as ventricles on T2, the rim as enhanced vessels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segkit.data.phantoms.base import SIDES, Array, Floats, Random, blurred, field, group_sizes, mr_signal, seeded, without_specks
from segkit.system.progress import track

HOLLOW = ("large_bowel", "small_bowel", "stomach")
"""Structures of the MR phantom."""
CT_STRUCTURES = ("liver", "kidney")
MR_SHAPE, CT_SHAPE = (96, 120), (80, 96)
"""Rows and columns."""
MARGIN = 1.06
"""How far outlines on MR reach beyond what is seen of a structure, so that neighbors overlap."""

_ORGANS = {
    "liver": ((-0.52, -0.16, 0.2, 0.33, 0.42, 0.75), (-0.20, -0.38, 0.15, 0.26, 0.16, 0.6)),
    "spleen": ((0.68, 0.12, 0.2, 0.13, 0.26, 0.6),),
    "muscle": ((-0.24, 0.58, 0.5, 0.15, 0.13, 5), (0.24, 0.58, 0.5, 0.15, 0.13, 5)),
    "kidney": ((-0.42, 0.42, 0.6, 0.14, 0.17, 0.7), (0.42, 0.42, 0.55, 0.14, 0.17, 0.7)),
    "vessel": ((0.07, 0.24, 0.5, 0.06, 0.06, 5), (-0.09, 0.24, 0.5, 0.07, 0.05, 5)),
    "bone": ((0, 0.46, 0.5, 0.15, 0.14, 5),),
    "large_bowel": (
        *((0.64, -0.14, 0.55, 0.15, 0.13, 0.85), (0.58, 0.20, 0.75, 0.15, 0.13, 0.85), (-0.50, 0.14, 0.75, 0.15, 0.13, 0.85)),
        *((-0.24, -0.46, 0.7, 0.15, 0.13, 0.85), (0.04, -0.52, 0.65, 0.15, 0.13, 0.85)),
    ),
    "small_bowel": (
        *((-0.08, 0.02, 0.75, 0.17, 0.11, 0.75), (0.12, 0.08, 0.70, 0.17, 0.11, 0.75), (0.30, 0.10, 0.75, 0.17, 0.11, 0.75)),
        *((-0.14, -0.16, 0.85, 0.17, 0.11, 0.75), (0.24, 0.00, 0.8, 0.17, 0.11, 0.75), (-0.22, 0.10, 0.8, 0.17, 0.11, 0.75)),
    ),
    "stomach": ((0.36, -0.28, 0.35, 0.27, 0.19, 0.75), (0.14, -0.18, 0.45, 0.17, 0.11, 0.65)),
}
"""x, y, z and radii along them, later ones over earlier ones; the body reaches from -1 to 1, the patient's right is left."""
_LEVELS = {
    **{"fat": (1.0, -100.0), "muscle": (0.34, 55.0), "bone": (0.5, 320.0), "liver": (0.46, 58.0), "spleen": (0.60, 58.0)},
    **{"kidney": (0.70, 90.0), "vessel": (0.80, 95.0), "stomach": (0.50, 35.0), "small_bowel": (0.66, 48.0), "large_bowel": (0.40, 45.0)},
}
"""On MR (balanced gradient echo, as scanners beside a linac take it), and in HU (Hounsfield, Br. J. Radiol. 1973)."""


# space: places are z, y, x


def _places(z: Array, y: Array, x: Array) -> Floats:
    """(3, D, H, W)."""
    return np.stack(np.meshgrid(z, y, x, indexing="ij")).astype(np.float32)


def _radius(place: Floats, center: npt.ArrayLike, axes: npt.ArrayLike) -> Floats:
    """1 on the ellipsoid, 0 in its center."""
    scaled = (place - np.reshape(center, (3, 1, 1, 1))) / np.reshape(axes, (3, 1, 1, 1))
    return np.asarray(np.sqrt((scaled**2).sum(axis=0)), np.float32)


# the abdomen


@dataclass(frozen=True)
class Scan:
    """Slices of a patient: images (D, H, W), uint16 on MR and int16 HU on CT; masks (D, K, H, W) uint8."""

    case: int
    day: int
    positions: tuple[int, ...]
    images: Array
    masks: Array
    pixel_mm: float
    slice_mm: float = 3.0


def _abdomen(random: Random, shape: tuple[int, int], heights: Array, shift: Array) -> tuple[Floats, dict[str, Floats]]:
    """Distance of each voxel (D, H, W) from the middle of the body, and from that of each structure: 1 on the border."""
    rows, columns = (np.linspace(-1, 1, n) / random.uniform(0.86, 0.94) - move for n, move in zip(shape, shift, strict=True))
    place = _places(heights, rows, columns)
    body = np.hypot(place[1], place[2])
    for axis in (1, 2):
        place[axis] += 0.02 * field(random, shape, shape[0] / 12)
    radii = {}
    for name, ellipsoids in _ORGANS.items():
        each = [
            _radius(place, random.normal((z, y, x), 0.025), np.array((height, b, a)) * random.uniform(0.88, 1.12, 3))
            for x, y, z, a, b, height in ellipsoids
        ]
        radii[name] = np.where(body < 0.82, np.min(each, axis=0), 9)
    return body, radii


def _painted(body: Floats, radii: Mapping[str, Floats], levels: Mapping[str, float]) -> Floats:
    """The level of each tissue, later structures over earlier ones."""
    tissue = np.where((body < 0.90) & (body > 0.82), levels["muscle"], levels["fat"]).astype(np.float32)
    for name, radius in radii.items():
        tissue[radius < 1] = levels[name]
    return tissue


def mr_scans(n: int, seed: int) -> Iterator[Scan]:
    """Yield days of three to five slices of MR, of four patients or more where there are enough slices; some come for two days."""
    days = max(n // 4, min(n, 4))
    for i, slices in enumerate(track(np.array_split(np.arange(n), days), "drawing", total=days)):
        case, visit = (i, 0) if i < 4 else (4 + (i - 4) // 2, 0) if i % 2 else ((i - 4) // 2, 1)
        yield mr_scan(seed, case, visit, len(slices))


def mr_scan(seed: int, case: int, visit: int, slices: int) -> Scan:
    """Patient number `case` of the series `seed` at a visit; organs keep their size between visits.

    Fat is marbled, stomach and bowel differ in grain and have a bright wall. Every fifth patient's first slice lies above the
    organs, so it is empty.
    """
    random = seeded(seed, case, 1 + visit)
    heights = np.linspace(0.22, 0.78, slices) if slices > 1 else np.array([0.5])
    if slices > 3 and case % 5 == 1:
        heights[0] = -0.6
    first, day = int(random.integers(40, 70)), int(visit * random.integers(5, 30))
    body, radii = _abdomen(seeded(seed, case), MR_SHAPE, heights, random.normal(0, 0.03, 2))
    tissue = _painted(body, radii, {name: signal * random.normal(1, 0.05) for name, (signal, _) in _LEVELS.items()})
    tissue[(tissue == tissue[0, 0, 0]) & (body < 0.82)] *= 0.68
    for name, grain, contrast, wall in (("large_bowel", 2.0, 0.2, 0.85), ("small_bowel", 0.8, 0.28, 0.45), ("stomach", 4.0, 0.3, 0.40)):
        inside = radii[name] < 1
        tissue[inside] *= (1 + contrast * field(random, body.shape, (0, grain, grain)))[inside]
        tissue[inside & (radii[name] > 0.82)] = wall
    signal = mr_signal(random, tissue * (body < 1), grain=0.05, noise=0.05) * 12000 * random.uniform(0.8, 1.2)
    masks = [without_specks((radii[name] < MARGIN).astype(np.uint8)) for name in HOLLOW]
    images = np.clip(np.round(signal), 0, 65535).astype(np.uint16)
    return Scan(101 + case, day, tuple(range(first, first + slices)), images, np.stack(masks, axis=1), pixel_mm=1.5)


def ct_scans(n: int, seed: int) -> Iterator[Scan]:
    """Yield CT scans of `n` slices in all, up to five each; masks in the order of `CT_STRUCTURES`."""
    for patient, slices in enumerate(group_sizes(n, 5)):
        yield ct_scan(seed, patient, slices)


def ct_scan(seed: int, patient: int, slices: int) -> Scan:
    """Patient number `patient` of the series `seed` on CT, with gas in hollow organs; texture and noise are about 15 HU each."""
    random = seeded(seed, patient)
    heights = np.linspace(-0.2, 0.8, slices) if slices > 1 else np.array([0.5])
    body, radii = _abdomen(random, CT_SHAPE, heights, random.normal(0, 0.03, 2))
    levels = {name: hu + random.normal(0, 4) for name, (_, hu) in _LEVELS.items()}
    hu = np.where(body < 1, _painted(body, radii, levels), -1000).astype(np.float32)
    masks = [without_specks((hu == np.float32(levels[name])).astype(np.uint8)) for name in CT_STRUCTURES]
    for name in HOLLOW:
        hu[(radii[name] < random.uniform(0.2, 0.7)) & (hu == np.float32(levels[name]))] = -850
    smooth = blurred(hu + 15 * field(random, hu.shape, (0, 1.5, 1.5)) * (hu > -500), (0, 0.6, 0.6))
    noisy = smooth + 16 * field(random, hu.shape, (0, 0.5, 0.5))
    images = np.clip(np.round(noisy), -1024, 3071).astype(np.int16)
    pixel_mm, slice_mm = float(np.round(random.uniform(3.4, 4.4), 2)), 5.0 if patient % 2 else 3.0
    return Scan(patient, 0, tuple(range(slices)), images, np.stack(masks, axis=1), pixel_mm, slice_mm)


# the brain; lengths are in units of half the field of view

BRAIN_SHAPE, BRAIN_MM = (24, 64, 64), (5.0, 3.0, 3.0)
"""Slices, rows, columns of volumes."""
NECROSIS, EDEMA, ENHANCING = 1, 2, 4
_FLUID, _GRAY, _WHITE, _LESION, _VESSEL = range(5)
"""Tissues; 5 to 7 are necrosis, edema and enhancing tumor."""
_CONTRAST = {
    "flair": (0.18, 0.60, 0.46, 0.98, 0.35, 0.72, 0.96, 0.90),
    "t1": (0.22, 0.54, 0.72, 0.58, 0.40, 0.36, 0.60, 0.60),
    "t1ce": (0.22, 0.55, 0.72, 0.58, 1.00, 0.34, 0.60, 0.98),
    "t2": (1.00, 0.60, 0.42, 0.76, 0.25, 0.92, 0.80, 0.68),
}
"""Brightness of the eight tissues."""
MODALITIES = tuple(_CONTRAST)


@dataclass(frozen=True)
class Brain:
    """Images (D, H, W) int16 by modality, 0 outside the brain; tumor (D, H, W) uint8 of 0, 1, 2, 4."""

    images: Mapping[str, Array]
    tumor: Array


def brains(n: int, seed: int) -> Iterator[tuple[int, Brain]]:
    """Yield `n` volumes, numbered from 1."""
    for i in track(range(n), "drawing", total=n):
        yield i + 1, brain(seed, i)


def brain_slices(n: int, seed: int) -> Iterator[tuple[int, Brain]]:
    """Yield patients, numbered from 1, of `n` finer slices in all, up to eight each."""
    sizes = group_sizes(n, 8)
    for i, slices in enumerate(track(sizes, "drawing", total=len(sizes))):
        yield i + 1, brain(seed, i, (slices, 128, 128))


def brain(seed: int, i: int, shape: tuple[int, int, int] = BRAIN_SHAPE) -> Brain:
    """Patient number `i` of the series `seed`."""
    random = seeded(seed, i)
    place = _places(*(np.linspace(-1, 1, n + 2)[1:-1] for n in shape))
    tissue, inside = _anatomy(random, place)
    tumor = _tumor(random, place, inside & (tissue != _FLUID))
    for index, value in ((5, NECROSIS), (6, EDEMA), (7, ENHANCING)):
        tissue[tumor == value] = index
    images = {}
    for name, levels in _CONTRAST.items():
        jittered = np.array(levels, np.float32) * random.normal(1, 0.04, len(levels))
        signal = mr_signal(random, jittered[tissue] * inside, grain=0.08, noise=0.035)
        images[name] = np.asarray(np.round(signal * inside * 600 * random.uniform(0.7, 1.4)), np.int16)
    return Brain(images, tumor)


def _anatomy(random: Random, place: Floats) -> tuple[Array, Array]:
    """Tissue of each voxel, and where the brain is: folded cortex, ventricles, and in white matter lesions and vessels."""
    axes = np.array([1.15, 0.84, 0.68]) * random.uniform(0.94, 1.04, 3)
    depth = 1 - _radius(place, random.normal(0, 0.03, 3), axes) * (1 + 0.04 * _bumps(random, place, 0.3))
    folds = _bumps(random, place, 0.05)
    tissue = np.full(depth.shape, _WHITE, np.uint8)
    tissue[depth < 0.17 + 0.07 * folds] = _GRAY
    sulci = (np.abs(folds) < 0.30 * (1 - depth / 0.25)) & (depth < 0.25)
    tissue[sulci | ((np.abs(place[2]) < 0.025) & (depth < 0.35))] = _FLUID
    for side in SIDES:
        ventricle = _radius(place, random.normal((0.1, 0.05, 0.13 * side), 0.015), np.array([0.5, 0.4, 0.08]) * random.uniform(0.85, 1.25))
        tissue[ventricle < 1] = _FLUID
    for _ in range(random.integers(7, 13)):
        center = (random.uniform(-0.6, 0.6), random.uniform(-0.5, 0.5), random.choice(SIDES) * random.uniform(0.18, 0.42))
        lesion = _radius(place, center, random.uniform((0.12, 0.05, 0.04), (0.40, 0.20, 0.12))) < 1
        tissue[lesion & (tissue == _WHITE)] = _LESION
    for _ in range(random.integers(3, 6)):
        start, slope = random.uniform(-0.5, 0.5, 2), random.normal(0, 0.3, 2)
        off = np.hypot(place[1] - start[0] - slope[0] * place[0], place[2] - start[1] - slope[1] * place[0])
        tissue[off < random.uniform(0.025, 0.045)] = _VESSEL
    return tissue, depth > 0


def _tumor(random: Random, place: Floats, tissue: Array) -> Array:
    """Edema of irregular border that stops at fluid; in it, off its center, the core with its rim."""
    center = np.array([random.uniform(-0.2, 0.2), random.uniform(-0.35, 0.35), random.choice(SIDES) * random.uniform(0.25, 0.36)])
    axes = random.uniform(0.30, 0.42) * np.array([1.8, 1.0, 1.0]) * random.uniform(0.85, 1.15, 3)
    border = _radius(place, center, axes) * (1 + 0.16 * _bumps(random, place, 0.10))
    core = _radius(place, center + random.uniform(-0.2, 0.2, 3) * axes, axes * random.uniform(0.52, 0.68))
    core = core * (1 + 0.10 * _bumps(random, place, 0.08))
    tumor = np.zeros(tissue.shape, np.uint8)
    tumor[border < 1] = EDEMA
    tumor[core < 1] = ENHANCING
    tumor[core < random.uniform(0.55, 0.70)] = NECROSIS
    return without_specks(tumor * tissue, smallest=16)


def _bumps(random: Random, place: Floats, scale: float) -> Floats:
    return field(random, place.shape[1:], [scale * n / 2 for n in place.shape[1:]])
