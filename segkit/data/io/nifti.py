"""NIfTI-1 and NIfTI-2 files: header, place in space, voxels, and masks written on the grid of another file.

https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields. nibabel reads the fields of the header; the rest is done
here, because a header is believed only as far as the file can hold what it claims, and because gzip is told by content.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt

from segkit.data.io.base import ReadError, as_read_error

Array = npt.NDArray[Any]
Size = tuple[int, int, int]

GZIP = b"\x1f\x8b"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
HEAD = 540
"""Bytes of the longer header."""
_LENGTHS = {b"n+1": 348, b"ni1": 348, b"n+2": 540, b"ni2": 540}
_DEFLATE_RATIO = 1100
"""Deflate shrinks nothing further than 1032 times."""
_TO_MM = {"meter": 1e3, "micron": 1e-3}


def is_nifti(path: Path, head: bytes) -> bool:
    """Whether these first bytes are a NIfTI header; refuses one without its voxels."""
    length = {struct.unpack(f"{order}i", head[:4])[0] for order in "<>"} if len(head) >= 4 else set()
    magic = head[4:7] if 540 in length else head[344:347] if 348 in length else b""
    if len(head) < HEAD and length & {348, 540} and len(head) < max(length & {348, 540}):
        raise ReadError(path, "truncated (half a header)")
    if _LENGTHS.get(magic) not in length:
        return False
    if magic.startswith(b"ni"):
        raise ReadError(path, "is a header whose voxels lie in another file (.img); save both as one .nii.gz")
    return True


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, out of their gzip where there is one, whatever the file is called."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as stream:
            yield cast(IO[bytes], stream)


def read_header(path: Path) -> Any:
    """nibabel's own checks would write to the terminal; what matters of them is checked here."""
    with unpacked(path) as stream:
        head = stream.read(HEAD)
    kind, length = (nib.Nifti2Header, 540) if head[4:7] == b"n+2" else (nib.Nifti1Header, 348)
    header: Any = cast(Any, kind)(head[:length], check=False)
    if not 1 <= int(header["dim"][0]) <= 7:
        raise ReadError(path, f"damaged (claims {int(header['dim'][0])} dimensions)")
    header["pixdim"][0] = -1 if header["pixdim"][0] == -1 else 1  # the standard: 0 means 1
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    return header


def grid(header: Any) -> tuple[Size, int]:
    """Size (x, y, z), and the number of channels: all further axes, and colours."""
    shape = [int(n) for n in header.get_data_shape()] + [1, 1]
    return (shape[0], shape[1], shape[2]), prod(shape[3:]) * len(header.get_data_dtype().fields or "1")


def affine(header: Any) -> Array:
    """Voxel to RAS mm: sform, else qform, else the voxel size on axes taken for left, posterior, superior as ITK does."""
    scale = np.diag([*3 * [_TO_MM.get(header.get_xyzt_units()[0], 1.0)], 1.0])
    for code, matrix in (("sform_code", header.get_sform), ("qform_code", header.get_qform)):
        if header[code] > 0 and is_usable(matrix()):
            return np.asarray(scale @ matrix(), float)
    sizes = [size if np.isfinite(size) and size > 0 else 1.0 for size in header["pixdim"][1:4]]
    return np.asarray(scale @ LPS_TO_RAS @ np.diag([*sizes, 1.0]), float)


def is_usable(matrix: Array) -> bool:
    """Finite, and no axis is without length."""
    return bool(np.isfinite(matrix).all() and abs(np.linalg.det(matrix[:3, :3])) > 1e-12)


def read_voxels(path: Path, header: Any) -> Array:
    """(X, Y, Z, C) in the stored axes, after the file's slope and intercept (then float32)."""
    shape, dtype, (size, _) = header.get_data_shape(), header.get_data_dtype(), grid(header)
    data = np.frombuffer(_voxel_bytes(path, header, prod(map(int, shape)) * dtype.itemsize), dtype)
    if dtype.fields:
        colours = data.view(np.uint8).reshape(*reversed(shape), len(dtype.fields))
        return colours.transpose(*reversed(range(len(shape))), len(shape)).reshape(*size, -1)
    array = data.reshape(*size, -1, order="F")
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1, 0):
        return array
    return np.asarray(array * np.float64(slope) + intercept, np.float32)


def _voxel_bytes(path: Path, header: Any, wanted: int) -> bytes:
    offset = max(int(header["vox_offset"]), header.sizeof_hdr)
    with as_read_error(path), unpacked(path) as stream:
        packed = isinstance(stream, cast(type, gzip.GzipFile))
        if offset + wanted > path.stat().st_size * (_DEFLATE_RATIO if packed else 1):
            raise ReadError(path, f"truncated (its header claims {wanted} bytes of voxels)")
        stream.seek(offset)
        data = stream.read(wanted)
        if len(data) < wanted:
            raise ReadError(path, f"truncated (holds {len(data)} of {wanted} bytes of voxels)")
        stream.read(1)  # gzip compares its checksum here
    return data


def encode_like(mask: Array, like: Path, compress: bool) -> bytes:
    """The file of a mask (X, Y, Z) with the header of `like`: its affine, codes and units, but none of its extensions."""
    header = read_header(like).copy()
    shape = header.get_data_shape()[:3]
    header.set_data_dtype(mask.dtype)
    header.set_data_shape(shape)
    header.set_slope_inter(1, 0)
    for field in ("cal_max", "cal_min", "intent_code", "vox_offset"):
        header[field] = 0
    header["intent_name"] = b""
    image: Any = nib.Nifti2Image if header.sizeof_hdr == 540 else nib.Nifti1Image
    data: bytes = image(mask.reshape(shape), None, header).to_bytes()
    return gzip.compress(data, mtime=0) if compress else data
