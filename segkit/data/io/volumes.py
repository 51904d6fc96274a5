"""Volumes as pixels, reoriented to what a viewer shows: slices, rows, columns.

Axes are permuted and flipped, never resampled: an oblique scan comes out in the nearest of the 48 axis orders. "LPS" names
where columns, rows and slices lead to: the patient's left, posterior, superior, so rows go down as on a radiologist's
screen, and the array equals SimpleITK's of a scan stored that way. A file of a single slice shows that slice upright,
whichever plane it lies in. NPY, NPZ and TIFF say nothing about the patient; they come as they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import lazy_loader
import numpy as np

from segkit.data.io.base import VOLUME_SUFFIXES, Array, File, ReadError, as_image, as_read_error, suffix_of
from segkit.data.io.formats import open_stored
from segkit.data.io.masks import thresholded, whole_numbers
from segkit.data.io.stored import LPS_TO_RAS, Stored
from segkit.data.io.text_header import data_file
from segkit.data.io.tiff import tiff_pages
from segkit.system.errors import SegkitError
from segkit.system.files import write_bytes_atomic

_nib: Any = lazy_loader.load("nibabel")  # takes a third of a second with all its formats

_AXES = ({"L", "R"}, {"A", "P"}, {"I", "S"})
_UPRIGHT = {"A": "LIP", "P": "LIP", "L": "PIL", "R": "PIL"}
"""Columns, rows and slices of a single coronal or sagittal slice: the head is up, as on any screen."""
_NEAR = 0.1
"""In voxels: grids that lie closer are one."""


@dataclass(frozen=True)
class Header:
    """A volume's grid after reorientation: what is known without reading the voxels."""

    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    spacing_mm: tuple[float, ...]
    """Slices, rows, columns; empty where the file does not say (NPY, NPZ, TIFF)."""
    channels: int
    orientation: str
    """Where columns, rows and slices lead to, e.g. LPS; empty where the file does not say."""
    affine: tuple[tuple[float, ...], ...]
    """Voxel (column, row, slice) of the reoriented array to millimeters right, anterior, superior (RAS), 4 x 4."""
    n_volumes: int = 1
    """Along a fourth axis, which may be time; `channels` counts them, too."""


@dataclass(frozen=True)
class OrientedFile(File):
    """Base of the `Pixels` of a file whose axes may be turned. `orient`: axis codes such as LPS, or None for the axes as stored."""

    orient: str | None = "LPS"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Also the voxels beside their header, where the format keeps them there."""
        if self.path.suffix.lower() not in (".mhd", ".nhdr"):
            return (self.path,)
        try:
            beside = data_file(self.path)
        except ReadError:
            beside = None
        return (self.path, beside) if beside else (self.path,)


@dataclass(frozen=True)
class VolumeFile(OrientedFile):
    """The pixels (D, H, W, C) of a volume file.

    Args:
        path: the file; its first bytes decide on the format.
        orient: axis codes of columns, rows and slices, such as LPS; None reads the axes as they are stored.
        channels: the channels of a fourth axis to read, from 0; None reads all.
    """

    channels: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return header(self.path, self.orient).shape

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Slices, rows, columns."""
        return header(self.path, self.orient).spacing_mm

    def decode(self) -> Array:
        """(D, H, W, C) uint8, uint16 or float32."""
        voxels = _reoriented(self.path, self.orient)
        if self.channels is not None:
            if not all(-voxels.shape[3] <= channel < voxels.shape[3] for channel in self.channels):
                raise ReadError(self.path, f"has {voxels.shape[3]} channels (from 0), requested: {', '.join(map(str, self.channels))}")
            voxels = voxels[..., list(self.channels)]
        return as_image(self.path, voxels)


@dataclass(frozen=True)
class VolumeMask(OrientedFile):
    """The mask (D, H, W) of a volume file: whole numbers, whatever type they are stored as; with a `threshold` 0 and 255."""

    threshold: float | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return header(self.path, self.orient).shape

    def decode(self) -> Array:
        voxels = _reoriented(self.path, self.orient)
        if voxels.shape[3] != 1:
            raise ReadError(self.path, f"a mask has one number a voxel, this file has {voxels.shape[3]}")
        mask = voxels[..., 0]
        return np.ascontiguousarray(whole_numbers(self.path, mask) if self.threshold is None else thresholded(mask, self.threshold))


def header(path: Path, orient: str | None = "LPS") -> Header:
    """Return shape, spacing and place of a volume, from its header alone. Raises `ReadError`."""
    stored = open_stored(path)
    return _header(stored, _transform(stored, orient))


def _header(stored: Stored, transform: Array) -> Header:
    columns, rows, slices = (stored.size[int(axis)] for axis in np.argsort(transform[:, 0]))
    affine, spacing, code = LPS_TO_RAS, np.empty(0), ""
    if stored.affine is not None:
        affine = stored.affine @ _nib.orientations.inv_ornt_aff(transform, stored.size)
        spacing, code = np.linalg.norm(affine[:3, :3], axis=0), "".join(_nib.orientations.aff2axcodes(affine))
    matrix = tuple(map(tuple, affine.tolist()))
    return Header((slices, rows, columns), tuple(spacing[::-1].tolist()), stored.channels, code, matrix, stored.n_volumes)


def same_grid(a: Header, b: Header) -> str:
    """Return how the grid of a mask `a` differs from that of its image `b`; empty within a tenth of a voxel."""
    if a.shape != b.shape:
        return f"{_times(a.shape)}, the image {_times(b.shape)}"
    if not (a.orientation and b.orientation):
        return ""
    if not np.allclose(a.spacing_mm, b.spacing_mm, rtol=1e-2):
        return f"spacing {_times(a.spacing_mm)} mm, the image {_times(b.spacing_mm)} mm"
    first, second = (np.array(one.affine) for one in (a, b))
    apart = float(np.linalg.norm(first[:3, 3] - second[:3, 3]))
    near = _NEAR * min(b.spacing_mm)
    if apart > near:
        return f"another affine: origin {apart:.3g} mm apart"
    depth, rows, columns = b.shape
    corners = np.array([(*corner, 1) for corner in product((0, columns - 1), (0, rows - 1), (0, depth - 1))])
    farthest = float(np.linalg.norm(corners @ (first - second).T, axis=1).max())
    return f"another affine: rotated, corners up to {farthest:.3g} mm apart" if farthest > near else ""


def write_like(path: Path, mask: Array, like: Path, orient: str | None = "LPS") -> None:
    """Write a mask on the grid of an image, in its format, axes and affine; the same bytes for the same mask.

    Args:
        path: the file to write, gzipped where its name ends in .gz.
        mask: (D, H, W) or (H, W), oriented to `orient`; stored as the smallest integer type that holds its values.
        like: the image's volume file.
        orient: the orientation in which the image was read.

    Raises:
        SegkitError: the mask has another shape than the image.
        ReadError: `like` cannot be read.
    """
    stored = open_stored(like)
    volume = mask[None] if mask.ndim == 2 else mask
    shape = _header(stored, _transform(stored, orient)).shape
    if volume.shape != shape:
        raise SegkitError(f"{path}: a mask of {_times(volume.shape)} does not fit {like.name} of {_times(shape)}")
    with as_read_error(like):
        data = stored.encode(_as_stored(_smallest(volume), stored, orient), path.name.lower().endswith(".gz"))
    write_bytes_atomic(path, data)


def on_grid_of(like: Path, volume: Array, orient: str | None = "LPS") -> Array:
    """A volume (D, H, W), oriented to `orient`, on the axes of the file `like`: (slices, rows, columns), as SimpleITK reads them."""
    return _as_stored(volume, open_stored(like), orient).transpose(2, 1, 0)


def _as_stored(volume: Array, stored: Stored, orient: str | None) -> Array:
    """(D, H, W), oriented to `orient` -> (x, y, z) as the file stores it."""
    transform = _transform(stored, orient)
    inverse = np.empty_like(transform)
    inverse[transform[:, 0].astype(int)] = np.stack([np.arange(3), transform[:, 1]], axis=1)
    return np.asarray(_nib.orientations.apply_orientation(volume.transpose(2, 1, 0), inverse))


def is_volume_file(path: Path) -> bool:
    """Whether a file is a volume, by its suffix; a TIFF is one if it has several pages. (A damaged one fails when it is read.)"""
    if suffix_of(path.name).lower() in VOLUME_SUFFIXES:
        return True
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        return tiff_pages(path) > 1
    except ReadError:
        return False


def n_volumes(path: Path) -> int:
    """Return how many volumes lie along the fourth axis of a file: 1 of all that is no volume. (A damaged one fails when it is read.)"""
    if suffix_of(path.name).lower() not in VOLUME_SUFFIXES:
        return 1
    try:
        return open_stored(path).n_volumes
    except ReadError:
        return 1


def _transform(stored: Stored, orient: str | None) -> Array:
    """How to reorient the stored axes (x, y, z): for each the new axis and 1 or -1, as nibabel writes it."""
    if orient is not None and (len(orient) != 3 or not all(sum(letter in axis for letter in orient) == 1 for axis in _AXES)):
        raise SegkitError(f"orientation {orient!r}: expected one letter of L R, one of A P, one of I S, e.g. LPS;   or null")
    if orient is None or stored.affine is None:
        return np.array([[0, 1], [1, 1], [2, 1]], float)
    flat = [axis for axis in (2, 1, 0) if stored.size[axis] == 1]
    normal = _nib.orientations.aff2axcodes(stored.affine)[flat[0]] if flat and orient == "LPS" else ""
    wanted = _nib.orientations.axcodes2ornt(tuple(_UPRIGHT.get(normal, orient)))
    return np.asarray(_nib.orientations.ornt_transform(_nib.orientations.io_orientation(stored.affine), wanted), float)


def _reoriented(path: Path, orient: str | None) -> Array:
    """Read (D, H, W, C) in the file's own numbers."""
    stored = open_stored(path)
    return np.asarray(_nib.orientations.apply_orientation(stored.voxels(), _transform(stored, orient))).transpose(2, 1, 0, 3)


def _smallest(mask: Array) -> Array:
    least, most = mask.min(initial=0), mask.max(initial=0)
    kinds = [kind for kind in (np.uint8, np.uint16, np.int16) if np.iinfo(kind).min <= least and most <= np.iinfo(kind).max]
    return mask.astype(kinds[0] if kinds else np.int32)


def _times(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:.4g}" if isinstance(number, float) else str(number) for number in numbers)
