"""PBM, PGM and PPM, the binary kinds: Pillow scales numbers to 255 or 65535, which would change the classes of a mask."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from segkit.data.io.base import Array, ReadError, refuse_bomb

SIGNATURES = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
HEAD = 1024
"""Bytes that hold the header, with its comments."""
_SPACE = rb"(?:\s|#[^\n]*\n)+"
_HEADER = re.compile(rb"P([1-6])" + _SPACE + rb"(\d+)" + _SPACE + rb"(\d+)")
_MAXIMUM = re.compile(_SPACE + rb"(\d+)")
_BITS, _COLOR = 4, 6


def shape_of(path: Path, data: bytes) -> tuple[int, int, int]:
    """Return (H, W, C), from the first bytes. Raises `ReadError`."""
    kind, columns, rows = map(int, _header(path, data).groups())
    refuse_bomb(path, rows, columns)
    return rows, columns, 3 if kind == _COLOR else 1


def decode(path: Path, data: bytes) -> Array:
    """Read (H, W) or (H, W, 3) in uint8 or uint16, as stored; samples of one bit as 0 (black) and 255."""
    head = _header(path, data)
    rows, columns, channels = shape_of(path, data)
    if int(head[1]) == _BITS:
        packed = _samples(path, data, head.end(), np.dtype(np.uint8), rows * -(-columns // 8)).reshape(rows, -1)
        return np.where(np.unpackbits(packed, axis=1, count=columns), 0, 255).astype(np.uint8)
    maximum = _MAXIMUM.match(data, head.end())
    if not maximum or not 0 < int(maximum[1]) < 1 << 16:
        raise ReadError(path, "damaged (its header names no greatest number from 1 to 65535)")
    stored = np.dtype(np.uint8 if int(maximum[1]) < 1 << 8 else ">u2")
    samples = _samples(path, data, maximum.end(), stored, rows * columns * channels)
    return samples.astype(stored.newbyteorder("=")).reshape((rows, columns, channels) if channels > 1 else (rows, columns))


def _header(path: Path, data: bytes) -> re.Match[bytes]:
    head = _HEADER.match(data[:HEAD])
    if not head:
        raise ReadError(path, "damaged (its header names no size)")
    if int(head[1]) < _BITS:
        raise ReadError(path, "holds its numbers as text; save it as PNG, or as binary PGM or PPM")
    return head


def _samples(path: Path, data: bytes, end_of_header: int, stored: np.dtype[np.generic], count: int) -> Array:
    """The numbers behind the one white space that ends the header."""
    start, length = end_of_header + 1, count * stored.itemsize
    if len(data) < start + length:
        raise ReadError(path, "truncated")
    if data[start + length :].strip():
        raise ReadError(path, f"damaged ({len(data) - start - length} bytes follow its pixels)")
    return np.frombuffer(data, stored, count, start)
