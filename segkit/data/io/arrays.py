"""Volumes in NumPy's files and in TIFF: nothing but the array."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import tifffile

from segkit.data.io.base import Array, ReadError, as_read_error
from segkit.data.io.stored import MAX_VOXELS, Stored, check_length
from segkit.data.io.tiff import check_axes, count_pages, read_page


def open_npy(path: Path) -> Stored:
    """Read the header. Raises `ReadError`, or whatever NumPy raises."""
    with path.open("rb") as file:
        shape = _npy_shape(path, file, path.stat().st_size)

    def load() -> Array:
        with path.open("rb") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))

    return _plain(path, shape, load, _npy_bytes)


def open_npz(path: Path) -> Stored:
    """Read the one array in it; single numbers and lists beside it (a spacing, say) are left alone."""
    with zipfile.ZipFile(path) as archive:
        shapes = {}
        for info in archive.infolist():
            with archive.open(info) as file:
                shapes[info.filename] = _npy_shape(path, file, info.file_size)
    names = [name for name, shape in shapes.items() if len(shape) > 1]
    if len(names) != 1:
        raise ReadError(path, f"expected one array, it holds {', '.join(n.removesuffix('.npy') for n in shapes) or 'none'}")

    def load() -> Array:
        with zipfile.ZipFile(path) as archive, archive.open(names[0]) as file:
            array = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
            file.read(1)  # the checksum is compared here
            return array

    return _plain(path, shapes[names[0]], load, _npz_bytes)


def _npy_shape(path: Path, file: IO[bytes], length: int) -> tuple[int, ...]:
    """Read the header of an array in a file of `length` bytes, which must be what it claims."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ReadError(path, "holds Python objects, which may run code when they are opened: refused")
    if prod(map(int, shape)) <= MAX_VOXELS:  # else it is refused as what it is
        check_length(path, prod(map(int, shape)) * dtype.itemsize, length - file.tell())
    return shape


def _plain(path: Path, shape: tuple[int, ...], load: Callable[[], Array], encoded: Callable[[Array], bytes]) -> Stored:
    """(D, H, W, C), (D, H, W), (H, W), or (H, W, 3 or 4) in color: what else could so thin a volume be?"""
    if not 2 <= len(shape) <= 4:
        raise ReadError(path, f"has {len(shape)} dimensions; expected (H, W), (D, H, W) or (D, H, W, C)")
    color = len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) > 4
    full = {2: (1, *shape, 1), 3: (1, *shape) if color else (*shape, 1), 4: shape}[len(shape)]
    depth, rows, columns, channels = (int(n) for n in full)

    def voxels() -> Array:
        with as_read_error(path):
            return load().reshape(depth, rows, columns, -1).transpose(2, 1, 0, 3)

    def encode(mask: Array, compress: bool) -> bytes:
        """(D, H, W), or (H, W) of a single slice."""
        array = np.ascontiguousarray(mask.transpose(2, 1, 0))
        return encoded(array[0] if len(array) == 1 else array)

    return Stored((columns, rows, depth), channels, None, voxels, encode)


def _npy_bytes(array: Array) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _npz_bytes(array: Array) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("mask.npy"), _npy_bytes(array), zipfile.ZIP_DEFLATED)  # no time stamp
    return out.getvalue()


def open_tiff(path: Path) -> Stored:
    """Read the sizes of all pages. Raises `ReadError`, or whatever tifffile raises."""
    with tifffile.TiffFile(path) as tiff:
        count_pages(path, tiff)
        pages = [(page.shape, page.dtype) for page in tiff.pages]
    check_axes(path, path)
    if len(set(pages)) > 1:
        raise ReadError(path, f"its {len(pages)} pages differ in size or kind; slices of one volume are alike")
    rows, columns, channels = (*pages[0][0], 1)[:3]
    shape = (len(pages), rows, columns, channels)
    return _plain(path, shape, lambda: np.stack([read_page(path, page, indices=True) for page in range(len(pages))]), _tiff_bytes)


def _tiff_bytes(array: Array) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, photometric="minisblack", compression="zlib")
    return out.getvalue()
