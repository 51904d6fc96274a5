"""The EXIF orientation of pictures: how a camera or phone was held, and so how viewers and annotation tools show its picture.

JPEG and PNG are read as they are shown. The orientation tag of TIFF is ignored, as tifffile and ImageJ ignore it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segkit.data.io.base import Array, ReadError, read_start

ORIENTATION = 274
UPRIGHT = 1
HEAD = 1 << 16
"""Bytes at the start of a file among which the tag is looked for."""
_SHOWN: dict[int, Callable[[Array], Array]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: np.swapaxes(stored, 0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(np.swapaxes(stored, 0, 1), 2),
    8: lambda stored: np.rot90(stored, 1),
}


def orientation_in(data: bytes) -> int:
    """Return the EXIF orientation, 1 to 8, in the bytes of a JPEG or PNG; 1 without a valid one."""
    if b"Exif\0\0" not in data[:HEAD] and b"eXIf" not in data[:HEAD]:
        return UPRIGHT
    try:
        with Image.open(io.BytesIO(data)) as image:
            value = image.getexif().get(ORIENTATION, UPRIGHT)
    except Exception:  # a damaged tag says nothing; damaged pixels are found when they are decoded
        return UPRIGHT
    return value if value in _SHOWN else UPRIGHT


def orientation_of(path: Path) -> int:
    """Return the EXIF orientation, 1 to 8, of a file; 1 of all that is no JPEG or PNG."""
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        return UPRIGHT
    try:
        return orientation_in(read_start(path, HEAD))
    except ReadError:
        return UPRIGHT


def shown(pixels: Array, orientation: int) -> Array:
    """Turn and mirror (H, W) or (H, W, C) as viewers do."""
    return np.ascontiguousarray(_SHOWN[orientation](pixels)) if orientation in _SHOWN else pixels


def swaps_axes(orientation: int) -> bool:
    """Whether rows become columns."""
    return orientation in (5, 6, 7, 8)


def as_stored(pixels: Any) -> Any:
    """Return `Pixels`, and all that they are made of, without turning pictures."""
    if isinstance(pixels, tuple):
        return tuple(map(as_stored, pixels))
    if not is_dataclass(pixels) or isinstance(pixels, type):
        return pixels
    if hasattr(pixels, "upright"):
        return replace(pixels, upright=False)
    parts = {field.name: getattr(pixels, field.name) for field in fields(pixels) if field.init}
    changed = {name: new for name, part in parts.items() if (new := as_stored(part)) is not part and new != part}
    return replace(pixels, **changed) if changed else pixels
