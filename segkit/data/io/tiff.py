"""TIFF: one page of a file that may have several."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from PIL import Image

from segkit.data.io.base import Array, ReadError, as_read_error, refuse_bomb

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ALPHA = (1, 2)


def tiff_pages(path: Path) -> int:
    """Return the number of pages of a TIFF. Raises `ReadError`."""
    with as_read_error(path), path.open("rb") as file, tifffile.TiffFile(file) as tiff:
        return count_pages(path, tiff)


def count_pages(path: Path, tiff: tifffile.TiffFile) -> int:
    """Count the pages. Each one names the place of the next, and the last names none: otherwise pages have been cut off."""
    count = len(tiff.pages)
    if not count:
        raise ReadError(path, "truncated (its header leads to no page)")
    layout, file, last = tiff.tiff, tiff.filehandle, tiff.pages[count - 1]
    file.seek(last.offset)
    (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(last.offset + layout.tagnosize + tags * layout.tagsize)
    (following,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
    if following >= file.size:
        raise ReadError(path, f"truncated (nothing after page {count})")
    return count


def read_page(path: Path, page: int, indices: bool) -> Array:
    """Read page `page` (from 0) as `decode` returns it. Raises `ReadError`."""
    with as_read_error(path), path.open("rb") as file:
        return decode(path, file, page, indices)


def decode(path: Path, file: IO[bytes], number: int | None, indices: bool) -> Array:
    """Decode page `number` (from 0), or the only one, to (H, W) or (H, W, C), also from a planar file.

    White-is-zero images are inverted to what a viewer shows; masks (`indices`) are not.
    """
    with tifffile.TiffFile(file) as tiff:
        pages = count_pages(path, tiff)
        if number is None and pages > 1:
            fix = "save each as a file of its own, or let data=folder or data=csv read them as the slices of a volume"
            raise ReadError(path, f"holds {pages} pages, expected one: {fix}")
        number = number or 0
        if not 0 <= number < pages:
            raise ReadError(path, f"has {pages} pages, not a page {number} (they count from 0)")
        page: Any = tiff.pages[number]
        refuse_bomb(path, page.imagelength, page.imagewidth)
        ends = (at + n for at, n in zip(page.dataoffsets, page.databytecounts, strict=True))
        if max(ends, default=0) > file.seek(0, io.SEEK_END):
            raise ReadError(path, "truncated")
        photometric, colormap, extra = tifffile.PHOTOMETRIC(page.photometric).name, page.colormap, page.extrasamples
        if photometric == "SEPARATED":
            return _inks_as_rgb(file, number)
        pixels = np.asarray(page.asarray())
    if page.axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if photometric == "PALETTE":
        return pixels if indices else _colors(pixels, np.asarray(colormap))
    if photometric == "MINISWHITE" and not indices and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    alphas = sum(int(kind) in _ALPHA for kind in extra)
    return pixels[..., : 3 if photometric in ("RGB", "YCBCR") else pixels.shape[2] - alphas] if pixels.ndim == 3 else pixels


def _inks_as_rgb(file: IO[bytes], number: int) -> Array:
    """CMYK, through Pillow."""
    file.seek(0)
    with Image.open(file) as image:
        image.seek(number)
        return np.asarray(image.convert("RGB"))


def _colors(indices: Array, colormap: Array) -> Array:
    """A TIFF palette has 16 bits a color."""
    table = (colormap.T >> 8).astype(np.uint8)
    is_gray = (table == table[:, :1]).all()
    return table[indices][..., 0] if is_gray else table[indices]
