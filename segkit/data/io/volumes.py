"""Volumes as pixels, turned to what a viewer shows: slices, rows, columns.

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

import numpy as np
import numpy.typing as npt
from nibabel import orientations

from segkit.data.io.base import VOLUME_SUFFIXES, ReadError, as_read_error, suffix_of, whole_numbers
from segkit.data.io.formats import Stored, data_file, encode_like, open_stored
from segkit.data.io.tiff import tiff_pages
from segkit.system.errors import SegkitError
from segkit.system.files import write_bytes_atomic

Array = npt.NDArray[Any]
_nib: Any = orientations  # without type information

_AXES = ({"L", "R"}, {"A", "P"}, {"I", "S"})
_UPRIGHT = {"A": "LIP", "P": "LIP", "L": "PIL", "R": "PIL"}
"""Columns, rows and slices of a single coronal or sagittal slice: the head is up, as on any screen."""
_NEAR = 0.1
"""Of a voxel: grids that lie closer are one."""


@dataclass(frozen=True)
class Header:
    """A volume's grid after turning: what is known without reading the voxels."""

    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    spacing_mm: tuple[float, ...]
    """Slices, rows, columns; empty where the file does not say (NPY, NPZ, TIFF)."""
    channels: int
    orientation: str
    """Where columns, rows and slices lead to, e.g. LPS; empty where the file does not say."""
    affine: tuple[tuple[float, ...], ...]
    """Voxel (column, row, slice) of the turned array to millimetres right, anterior, superior (RAS), 4 x 4."""


@dataclass(frozen=True)
class VolumeFile:
    """The `Volumetric` pixels of a volume file. `channels` chooses some of a fourth axis; None takes all."""

    path: Path
    orient: str | None = "LPS"
    channels: tuple[int, ...] | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return _paths(self.path)

    @property
    def shape(self) -> tuple[int, int, int]:
        return header(self.path, self.orient).shape

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Slices, rows, columns."""
        return header(self.path, self.orient).spacing_mm

    def read(self) -> Array:
        """(D, H, W, C) uint8, uint16 or float32."""
        voxels = _turned(self.path, self.orient)
        if self.channels is not None:
            if not all(-voxels.shape[3] <= channel < voxels.shape[3] for channel in self.channels):
                raise ReadError(self.path, f"has {voxels.shape[3]} channels, wanted are {', '.join(map(str, self.channels))}")
            voxels = voxels[..., list(self.channels)]
        return _image(self.path, voxels)


@dataclass(frozen=True)
class VolumeMask:
    """The mask (D, H, W) of a volume file: whole numbers, whatever type they are stored as."""

    path: Path
    orient: str | None = "LPS"

    @property
    def paths(self) -> tuple[Path, ...]:
        return _paths(self.path)

    @property
    def shape(self) -> tuple[int, int, int]:
        return header(self.path, self.orient).shape

    def read(self) -> Array:
        voxels = _turned(self.path, self.orient)
        if voxels.shape[3] != 1:
            raise ReadError(self.path, f"a mask has one number a voxel, this file has {voxels.shape[3]}")
        return np.ascontiguousarray(whole_numbers(self.path, voxels[..., 0]))


@dataclass(frozen=True)
class PlaneFile:
    """The 2-D pixels (H, W, C) of a volume format that holds a single slice."""

    path: Path
    orient: str | None = "LPS"

    @property
    def paths(self) -> tuple[Path, ...]:
        return _paths(self.path)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Rows, columns."""
        return header(self.path, self.orient).spacing_mm[1:]

    def read(self) -> Array:
        return _only_slice(self.path, VolumeFile(self.path, self.orient).read())


@dataclass(frozen=True)
class PlaneMask:
    """The mask (H, W) in a volume format that holds a single slice."""

    path: Path
    orient: str | None = "LPS"

    @property
    def paths(self) -> tuple[Path, ...]:
        return _paths(self.path)

    def read(self) -> Array:
        return _only_slice(self.path, VolumeMask(self.path, self.orient).read())


def header(path: Path, orient: str | None = "LPS") -> Header:
    """Shape, spacing and place of a volume, from its header alone. Raises `ReadError`."""
    stored = open_stored(path)
    turn = _turn(stored, orient)
    columns, rows, slices = (stored.size[int(axis)] for axis in np.argsort(turn[:, 0]))
    if stored.affine is None:
        return Header((slices, rows, columns), (), stored.channels, "", _tuples(np.diag([-1.0, -1.0, 1.0, 1.0])))
    affine = stored.affine @ _nib.inv_ornt_aff(turn, stored.size)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    code = "".join(_code(affine))
    return Header((slices, rows, columns), tuple(float(mm) for mm in spacing[::-1]), stored.channels, code, _tuples(affine))


def same_grid(a: Header, b: Header) -> str:
    """What tells the grid of a mask `a` from that of its image `b`, or nothing. Grids a tenth of a voxel apart are one."""
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
    return f"another affine: turned, corners up to {farthest:.3g} mm apart" if farthest > near else ""


def write_like(path: Path, mask: Array, like: Path, orient: str | None = "LPS") -> None:
    """Write `mask` (D, H, W) or (H, W), turned to `orient`, on the grid of `like` and in its format, axes and affine.

    The smallest integer type that holds the values; gzipped where `path` ends in .gz; the same bytes for the same mask.
    """
    stored = open_stored(like)
    turn = _turn(stored, orient)
    volume = mask[None] if mask.ndim == 2 else mask
    shape = header(like, orient).shape
    if volume.shape != shape:
        raise SegkitError(f"{path}: a mask of {_times(volume.shape)} does not fit {like.name} of {_times(shape)}")
    xyz = _nib.apply_orientation(_smallest(volume).transpose(2, 1, 0), _inverse(turn))
    with as_read_error(like):
        data = encode_like(np.asarray(xyz), like, compress=path.name.lower().endswith(".gz"))
    write_bytes_atomic(path, data)


def is_volume_file(path: Path) -> bool:
    """By suffix; a TIFF is one if it has several pages. (A damaged TIFF is not: who reads it will say what ails it.)"""
    if suffix_of(path.name).lower() in VOLUME_SUFFIXES:
        return True
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        return tiff_pages(path) > 1
    except ReadError:
        return False


def _paths(path: Path) -> tuple[Path, ...]:
    """The header's numbers beside it, where that is how the format keeps them."""
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return (path,)
    try:
        beside = data_file(path)
    except ReadError:
        beside = None
    return (path, beside) if beside else (path,)


def _turn(stored: Stored, orient: str | None) -> Array:
    """How to turn the stored axes (x, y, z): for each the new axis and 1 or -1, as nibabel writes it."""
    if orient is not None:
        _check(orient)
    if orient is None or stored.affine is None:
        return np.array([[0, 1], [1, 1], [2, 1]], float)
    start = _nib.io_orientation(stored.affine)
    flat = [axis for axis in (2, 1, 0) if stored.size[axis] == 1]
    normal = _code(stored.affine)[flat[0]] if flat and orient == "LPS" else ""
    return np.asarray(_nib.ornt_transform(start, _nib.axcodes2ornt(tuple(_UPRIGHT.get(normal, orient)))), float)


def _inverse(turn: Array) -> Array:
    inverse = np.empty_like(turn)
    for axis, (new, flip) in enumerate(turn):
        inverse[int(new)] = axis, flip
    return inverse


def _check(orient: str) -> None:
    if len(orient) != 3 or not all(sum(letter in axis for letter in orient) == 1 for axis in _AXES):
        raise SegkitError(f"orientation {orient!r}: one letter of L R, one of A P, one of I S is wanted, e.g. LPS;   or null")


def _code(affine: Array) -> tuple[str, ...]:
    letters = ("LR", "PA", "IS")
    return tuple(letters[int(axis)][int(flip > 0)] for axis, flip in _nib.io_orientation(affine))


def _turned(path: Path, orient: str | None) -> Array:
    """(D, H, W, C) in the file's own numbers."""
    stored = open_stored(path)
    turn = _turn(stored, orient)
    return np.asarray(_nib.apply_orientation(stored.voxels(), turn)).transpose(2, 1, 0, 3)


def _image(path: Path, voxels: Array) -> Array:
    if voxels.dtype.kind not in "buif":
        raise ReadError(path, f"holds numbers of type {voxels.dtype}; grey values are wanted")
    if voxels.dtype == bool:
        voxels = voxels.astype(np.uint8)
    native = voxels.dtype.newbyteorder("=")
    return np.ascontiguousarray(voxels, native if native in (np.uint8, np.uint16) else np.float32)


def _only_slice(path: Path, volume: Array) -> Array:
    if len(volume) != 1:
        raise ReadError(path, f"is a volume of {len(volume)} slices; one image is wanted")
    one: Array = volume[0]
    return one


def _smallest(mask: Array) -> Array:
    most, least = (int(mask.max()), int(mask.min())) if mask.size else (0, 0)
    if least < 0:
        return mask.astype(np.int16 if least >= -(2**15) and most < 2**15 else np.int32)
    return mask.astype(np.uint8 if most < 2**8 else np.uint16 if most < 2**16 else np.int32)


def _tuples(affine: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(number) for number in row) for row in affine)


def _times(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:.4g}" if isinstance(number, float) else str(number) for number in numbers)
