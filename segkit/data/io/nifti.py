"""NIfTI-1 and NIfTI-2, gzipped or not, by nibabel: ITK refuses affines that are not orthonormal
(https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields). nibabel's own checks of a header write to the terminal, so
those that matter are done here.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, cast

import lazy_loader
import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

from segkit.data.io.base import Array, ReadError, as_read_error
from segkit.data.io.stored import LPS_TO_RAS, Size, Stored, check_length, is_usable

nib: Any = lazy_loader.load("nibabel")

GZIP = b"\x1f\x8b"
HEAD = 540
"""Bytes of the longer header."""
_LENGTHS = {b"n+1": 348, b"ni1": 348, b"n+2": 540, b"ni2": 540}
_DEFLATE_RATIO = 1100  # deflate shrinks nothing further than 1032 times
_TO_MM = {"meter": 1e3, "micron": 1e-3}
_PADDING = 512
"""Zeros that may follow the voxels: some tools fill the last block."""


def is_nifti(path: Path, head: bytes) -> bool:
    """Whether these first bytes are a NIfTI header; refuses one without its voxels."""
    lengths = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")} & {348, 540}
    if len(head) < max(lengths, default=0):
        raise ReadError(path, "truncated (half a header)")
    magic = head[4:7] if 540 in lengths else head[344:347]
    if _LENGTHS.get(magic) not in lengths:
        return False
    if magic.startswith(b"ni"):
        raise ReadError(path, "is a header whose voxels lie in another file (.img); save both as one .nii.gz")
    return True


@contextmanager
def unpacked(path: Path) -> Iterator[Any]:
    """The bytes of a file, out of their gzip where there is one, whatever the file is called."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as stream:
            yield stream


def open_nifti(path: Path) -> Stored:
    """Read the header. Raises `ReadError`, or whatever nibabel raises."""
    with unpacked(path) as stream:
        head = stream.read(HEAD)
    kind, length = (nib.Nifti2Header, 540) if head[4:7] == b"n+2" else (nib.Nifti1Header, 348)
    header: Any = cast(Any, kind)(head[:length], check=False)
    if not 1 <= int(header["dim"][0]) <= 7:
        raise ReadError(path, f"damaged (claims {int(header['dim'][0])} dimensions)")
    if not 0 <= float(header["vox_offset"]) <= path.stat().st_size * _DEFLATE_RATIO:  # also NaN
        raise ReadError(path, f"damaged (its voxels begin at byte {header['vox_offset']})")
    header["pixdim"][0] = -1 if header["pixdim"][0] == -1 else 1  # the standard: 0 means 1
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    x, y, z, n_volumes, *further = (*map(int, header.get_data_shape()), 1, 1, 1)
    channels = n_volumes * prod(further) * len(header.get_data_dtype().fields or "1")
    affine, encode = _nifti_affine(header), partial(_encode_nifti, header)
    return Stored((x, y, z), channels, affine, lambda: _nifti_voxels(path, header, (x, y, z)), encode, n_volumes)


def _nifti_affine(header: Any) -> Array:
    """Voxel to RAS mm: sform, else qform, else the voxel size on axes taken for left, posterior, superior as ITK does."""
    scale = np.diag([*3 * [_TO_MM.get(header.get_xyzt_units()[0], 1.0)], 1.0])
    for code, matrix in (("sform_code", header.get_sform), ("qform_code", header.get_qform)):
        if header[code] > 0 and is_usable(matrix()):
            return np.asarray(scale @ matrix(), float)
    sizes = [size if np.isfinite(size) and size > 0 else 1.0 for size in header["pixdim"][1:4]]
    return np.asarray(scale @ LPS_TO_RAS @ np.diag([*sizes, 1.0]), float)


def _nifti_voxels(path: Path, header: Any, size: Size) -> Array:
    """Read (X, Y, Z, C) in the stored axes, after the file's slope and intercept (then float32)."""
    with as_read_error(path):
        array = _stored_numbers(path, header)
        if array.dtype.fields:
            return structured_to_unstructured(array).reshape(*size, -1)
        with np.errstate(all="ignore"):
            scaled = nib.volumeutils.apply_read_scaling(array, *header.get_slope_inter())
            return (scaled if scaled is array else scaled.astype(np.float32)).reshape(*size, -1, order="F")


def _stored_numbers(path: Path, header: Any) -> Array:
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    offset, claimed = max(int(header["vox_offset"]), header.sizeof_hdr), prod(map(int, shape)) * dtype.itemsize
    with unpacked(path) as stream:
        ratio = _DEFLATE_RATIO if isinstance(stream, gzip.GzipFile) else 1
        if offset + claimed > path.stat().st_size * ratio:
            raise ReadError(path, f"truncated (its header claims {claimed} bytes of voxels)")
        array: Array = nib.volumeutils.array_from_file(shape, dtype, stream, offset, mmap=False)
        rest = stream.read(_PADDING)  # gzip compares its checksum here
    if len(rest) == _PADDING or rest.strip(b"\0"):
        check_length(path, claimed, claimed + len(rest))
    return array


def _encode_nifti(like: Any, mask: Array, compress: bool) -> bytes:
    """Keep the affine, codes and units of the header `like`, but none of its extensions."""
    header = like.copy()
    shape = header.get_data_shape()[:3]
    header.set_data_dtype(mask.dtype)
    header.set_data_shape(shape)
    header.set_slope_inter(1, 0)
    for field in ("cal_max", "cal_min", "intent_code", "vox_offset"):
        header[field] = 0
    header["intent_name"] = b""
    image: Any = nib.Nifti2Image if header.sizeof_hdr == 540 else nib.Nifti1Image
    data: bytes = image(mask.reshape(shape), None, header).to_bytes()
    return gzip.compress(data, mtime=0) if compress else data  # no time stamp
