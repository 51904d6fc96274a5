"""A synthetic brain on MR, skull-stripped, with a tumour: four contrasts of one anatomy.

Folded cortex around white matter, ventricles, deep nuclei, small bright lesions beside the ventricles and vessels; a tumour
of three nested parts, valued as BraTS has them (Menze et al., IEEE Trans. Med. Imaging 2015): necrotic core 1, oedema 2,
enhancing rim 4. Each part is as bright as something healthy (oedema as the lesions on FLAIR, the core as the ventricles on
T2, the rim as vessels after contrast agent), and receive coils shade the picture: a threshold finds the brain, not the tumour.
Noise is Rician (Gudbjartsson and Patz, Magn. Reson. Med. 1995).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segkit.system.progress import track

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Random = np.random.Generator

SLICES, SIDE = 24, 64
SPACING_MM = (5.0, 3.0, 3.0)
"""Of volumes: slices, rows, columns."""
MOST_SLICES = 8
"""Of a patient whose slices are images."""
NECROSIS, OEDEMA, ENHANCING = 1, 2, 4
SPECK = 16
"""Voxels."""
_TISSUES = ("fluid", "grey", "white", "nuclei", "lesion", "vessel", "necrosis", "oedema", "enhancing")
_CONTRAST = {
    "flair": (0.18, 0.60, 0.46, 0.58, 0.98, 0.35, 0.72, 0.96, 0.90),
    "t1": (0.22, 0.54, 0.72, 0.58, 0.58, 0.40, 0.36, 0.60, 0.60),
    "t1ce": (0.22, 0.55, 0.72, 0.59, 0.58, 1.00, 0.34, 0.60, 0.98),
    "t2": (1.00, 0.60, 0.42, 0.52, 0.76, 0.25, 0.92, 0.80, 0.68),
}
MODALITIES = tuple(_CONTRAST)


@dataclass(frozen=True)
class Brain:
    """`images`: modality -> (D, H, W) int16, 0 outside the brain; `tumor` (D, H, W) uint8 of 0, 1, 2, 4."""

    images: Mapping[str, Array]
    tumor: Array


def volumes(n: int, seed: int) -> Iterator[tuple[int, Brain]]:
    """`n` patients, numbered from 1."""
    for i in track(range(n), "drawing", total=n):
        yield i + 1, draw(seed, i)


def scans(n: int, seed: int, side: int = 128) -> Iterator[tuple[int, Brain]]:
    """`n` slices in patients of up to eight, of four patients or more where there are enough slices; numbered from 1."""
    patients = max(-(-n // MOST_SLICES), min(n, 4))
    slices = np.array_split(np.arange(n), patients)
    for i in track(range(patients), "drawing", total=patients):
        yield i + 1, draw(seed, i, len(slices[i]), side)


def draw(seed: int, i: int, slices: int = SLICES, side: int = SIDE) -> Brain:
    """Patient number `i` of the series `seed`; the same voxels every time."""
    random = np.random.Generator(np.random.PCG64([seed, i]))
    shape = (slices, side, side)
    steps = [np.linspace(-1, 1, n + 2)[1:-1].astype(np.float32) for n in shape]
    place = np.stack(np.meshgrid(*steps, indexing="ij"))  # z, y, x from -1 to 1
    tissue, brain = _anatomy(random, place)
    _add_distractors(random, place, tissue, brain)
    tumor = _tumor(random, place, brain & (tissue != _index("fluid")))
    for name, value in (("necrosis", NECROSIS), ("oedema", OEDEMA), ("enhancing", ENHANCING)):
        tissue[tumor == value] = _index(name)
    return Brain({name: _scanned(random, tissue, brain, levels) for name, levels in _CONTRAST.items()}, tumor)


def write_nifti(path: Path, voxels: Array, spacing_mm: tuple[float, float, float] = SPACING_MM) -> None:
    """(D, H, W) on axes to the patient's left, posterior, superior, as BraTS has them; the same bytes for the same voxels."""
    slices, rows, columns = spacing_mm
    affine = np.diag([-columns, -rows, slices, 1.0])
    untyped: Any = nibabel.Nifti1Image
    image = untyped(voxels.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    data: bytes = image.to_bytes()
    path.write_bytes(gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)


# drawing; lengths are in units of half the field of view


def _anatomy(random: Random, place: Floats) -> tuple[Array, Array]:
    """Tissue of each voxel, and where the brain is."""
    axes = np.array([1.15, 0.84, 0.68]) * random.uniform(0.94, 1.04, 3)
    depth = 1 - _radius(place, random.normal(0, 0.03, 3), axes) * (1 + 0.04 * _field(random, place, 0.3))
    brain = depth > 0
    folds = _field(random, place, 0.05)
    tissue = np.full(depth.shape, _index("white"), np.uint8)
    for side in (-1, 1):
        centre = np.array([-0.1, 0.0, 0.20 * side]) + random.normal(0, 0.02, 3)
        tissue[_radius(place, centre, (0.35, 0.20, 0.11)) < 1] = _index("nuclei")
    tissue[depth < 0.17 + 0.07 * folds] = _index("grey")
    sulci = (np.abs(folds) < 0.30 * (1 - depth / 0.25)) & (depth < 0.25)
    fissure = (np.abs(place[2]) < 0.025) & (depth < 0.35)
    tissue[sulci | fissure] = _index("fluid")
    for side in (-1, 1):
        size = random.uniform(0.85, 1.25)
        for y, a, b in ((-0.18, 0.22, 0.075), (0.22, 0.26, 0.09)):  # frontal and occipital horn
            centre = np.array([0.1, y, side * (0.09 + 0.08 * (y > 0))]) + random.normal(0, 0.015, 3)
            tissue[_radius(place, centre, np.array([0.5, a, b]) * size) < 1] = _index("fluid")
    return tissue, brain


def _add_distractors(random: Random, place: Floats, tissue: Array, brain: Array) -> None:
    """Lesions of small vessels in the white matter, and vessels that run through slices."""
    for _ in range(random.integers(7, 13)):
        centre = (random.uniform(-0.6, 0.6), random.uniform(-0.5, 0.5), random.choice((-1, 1)) * random.uniform(0.18, 0.42))
        lesion = _radius(place, centre, random.uniform((0.12, 0.05, 0.04), (0.40, 0.20, 0.12))) < 1
        tissue[lesion & (tissue == _index("white"))] = _index("lesion")
    for _ in range(random.integers(3, 6)):
        start, slope = random.uniform(-0.5, 0.5, 2), random.normal(0, 0.3, 2)
        off = np.hypot(place[1] - start[0] - slope[0] * place[0], place[2] - start[1] - slope[1] * place[0])
        tissue[(off < random.uniform(0.025, 0.045)) & brain] = _index("vessel")


def _tumor(random: Random, place: Floats, tissue: Array) -> Array:
    """Oedema of irregular border that stops at fluid; in it, off its centre, the core with its rim."""
    centre = np.array([random.uniform(-0.2, 0.2), random.uniform(-0.35, 0.35), random.choice((-1, 1)) * random.uniform(0.25, 0.36)])
    size = random.uniform(0.30, 0.42)
    axes = size * np.array([1.4, 1.0, 1.0]) * random.uniform(0.85, 1.15, 3)
    border = _radius(place, centre, axes) * (1 + 0.16 * _field(random, place, 0.10))
    core_centre = centre + random.uniform(-0.2, 0.2, 3) * axes
    core = _radius(place, core_centre, axes * random.uniform(0.52, 0.68)) * (1 + 0.10 * _field(random, place, 0.08))
    tumor = np.zeros(tissue.shape, np.uint8)
    tumor[border < 1] = OEDEMA
    tumor[core < 1] = ENHANCING
    tumor[core < random.uniform(0.55, 0.70)] = NECROSIS
    return _without_specks(tumor * tissue)


def _without_specks(mask: Array) -> Array:
    """Without pieces of a value that are smaller than annotators draw."""
    for value in (NECROSIS, OEDEMA, ENHANCING):
        pieces, _ = ndimage.label(mask == value, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.reshape(-1))
        mask[(pieces > 0) & (sizes < SPECK)[pieces]] = 0
    return mask


def _scanned(random: Random, tissue: Array, brain: Array, levels: tuple[float, ...]) -> Array:
    """Partial volume, texture, shading by the coil, noise; (D, H, W) int16."""
    size = tissue.shape[-1] / SIDE
    jittered = np.array(levels, np.float32) * random.normal(1, 0.04, len(levels))
    signal = ndimage.gaussian_filter(jittered[tissue] * brain, (0.3, 0.6 * size, 0.6 * size))
    texture = ndimage.gaussian_filter(random.normal(size=tissue.shape), (0.5, 0.9 * size, 0.9 * size))
    signal = signal * (1 + 0.07 * texture / texture.std())
    zs, ys, xs = (np.linspace(-1, 1, n) for n in tissue.shape)
    slope = random.uniform(-0.28, 0.28, 3)
    signal *= np.exp(slope[0] * zs[:, None, None] + slope[1] * ys[:, None] + slope[2] * xs)
    noisy = np.hypot(signal + random.normal(0, 0.035, signal.shape), random.normal(0, 0.035, signal.shape))
    return np.asarray(np.round(noisy * brain * 600 * random.uniform(0.7, 1.4)), np.int16)


def _radius(place: Floats, centre: Any, axes: Any) -> Floats:
    """1 on the ellipsoid, 0 in its centre."""
    scaled = (place - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(axes, (3, 1, 1, 1))
    return np.asarray(np.sqrt((scaled**2).sum(axis=0)), np.float32)


def _field(random: Random, place: Floats, scale: float) -> Floats:
    """Smooth noise of standard deviation 1."""
    shape = place.shape[1:]
    noise = ndimage.gaussian_filter(random.normal(size=shape), [scale * n / 2 for n in shape])
    return np.asarray(noise / noise.std(), np.float32)


def _index(tissue: str) -> int:
    return _TISSUES.index(tissue)
