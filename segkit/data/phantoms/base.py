"""What all phantoms share: seeded shapes and textures to draw with, and the files that drawings are written to."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

from segkit.data.labels import Array as Array
from segkit.system.errors import SegkitError

if TYPE_CHECKING:
    from segkit.data.sources.base import Source

Floats = npt.NDArray[np.float32]
Random = np.random.Generator
SIDES = (-1, 1)
"""Left and right in the image: the patient's right and left."""

VERSION = 6
"""Raised whenever a drawing changes: it is part of the name of cached phantoms."""
MARK = "SYNTHETIC.txt"
"""Lies in every phantom, so that results made of it are marked wherever it has been copied to."""


def write(source: Source, root: Path, n: int, seed: int) -> None:
    """Write a marked phantom of `n` images in the layout of `source`. Raises `SegkitError` where that would leave `root`."""
    for name in ("images_name", "masks_name", "table_name", "annotations_name"):  # from configs, and from strangers' checkpoints
        inside = getattr(source, name, None)
        if inside is not None and not (root / inside).resolve().is_relative_to(root.resolve()):
            raise SegkitError(f"data.source names {inside}, which lies outside {root}: a phantom is written below its own folder only")
    source.write_phantom(root, n, seed)
    (root / MARK).write_text(f"{n} synthetic images drawn by segkit, seed {seed}. Not patients.\n", encoding="utf-8")


# numbers


def seeded(*numbers: int) -> Random:
    """A generator whose stream depends on these numbers alone: seed, patient, image …"""
    return np.random.Generator(np.random.PCG64(list(numbers)))


def group_sizes(n: int, largest: int) -> list[int]:
    """Sizes of the groups (patients, subjects) that `n` images make: up to `largest` each, four groups or more where possible."""
    return [len(part) for part in np.array_split(np.arange(n), max(-(-n // largest), min(n, 4)))]


# shapes


@dataclass(frozen=True)
class Blob:
    """An ellipse; `angle` in radians from x towards y."""

    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0

    def axes(self, xs: Floats, ys: Floats) -> tuple[Floats, Floats]:
        """Coordinates along the axes `a` and `b`, from the center."""
        dx, dy = xs - self.x, ys - self.y
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return dx * cos + dy * sin, dy * cos - dx * sin

    def radius(self, xs: Floats, ys: Floats) -> Floats:
        """Distance from the center, 1 on the border."""
        u, v = self.axes(xs, ys)
        return np.asarray(np.hypot(u / self.a, v / self.b), np.float32)


def without_specks(labels: Array, smallest: int = 12) -> Array:
    """Labels without pieces that are smaller than annotators draw; these become background."""
    kept = labels.copy()
    for value in np.unique(labels[labels > 0]):
        pieces, _ = ndimage.label(labels == value, np.ones((3,) * labels.ndim))
        kept[(pieces > 0) & (np.bincount(pieces.reshape(-1)) < smallest)[pieces]] = 0
    return kept


# textures


def field(random: Random, shape: tuple[int, ...], scale: float | Sequence[float]) -> Floats:
    """Smooth Gaussian noise of standard deviation 1 on an image or a volume; `scale` in pixels."""
    noise = blurred(random.normal(size=shape).astype(np.float32), scale)
    return np.asarray(noise / noise.std(), np.float32)


def blurred(pixels: Array, scale: float | Sequence[float]) -> Floats:
    """Pixels (H, W) or voxels (D, H, W) after a Gaussian filter."""
    if pixels.ndim == 2:
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(scale)), np.float32)  # type: ignore[arg-type]
    return np.asarray(ndimage.gaussian_filter(pixels, scale), np.float32)


def mr_signal(random: Random, tissue: Array, grain: float, noise: float) -> Array:
    """Magnitude image of tissue: grain, partial volume, coil shading and Rician noise (Gudbjartsson and Patz, MRM 1995)."""
    in_plane = 0.6 * max(1.0, tissue.shape[-1] / 100)
    scale = in_plane if tissue.ndim == 2 else (0.3, in_plane, in_plane)
    signal = blurred(tissue * (1 + grain * field(random, tissue.shape, scale)), scale)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in tissue.shape), indexing="ij")
    signal = signal * np.exp(sum(random.uniform(-0.28, 0.28) * axis for axis in axes))
    return np.asarray(np.hypot(signal + random.normal(0, noise, signal.shape), random.normal(0, noise, signal.shape)))


# files: the same bytes for the same pixels


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def png_bytes(pixels: Array) -> bytes:
    """Pixels (H, W) as a PNG."""
    return bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1].tobytes())


def write_png(path: Path, pixels: Array) -> None:
    """Write pixels (H, W), uint8 or uint16."""
    write_bytes(path, png_bytes(pixels))


def write_tiff(path: Path, pixels: Array, compression: str | None = None) -> None:
    """Write pixels (H, W), or (H, W, 3) as colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(path, pixels, photometric=kind, compression=compression, metadata=None, software="")


def write_nifti(path: Path, voxels: Array, spacing_mm: Sequence[float]) -> None:
    """Write voxels (D, H, W) or pixels (H, W) on axes that lead left, posterior and superior; `spacing_mm` in the order of axes."""
    import nibabel  # a quarter of a second that only phantoms need

    x, y, z = (*reversed(spacing_mm), 1.0)[:3]
    affine = np.diag([-x, -y, z, 1.0])
    untyped: Any = nibabel.Nifti1Image
    image = untyped(np.ascontiguousarray(voxels.T), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    data: bytes = image.to_bytes()
    write_bytes(path, gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)
