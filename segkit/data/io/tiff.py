"""TIFF: one page of a file that may have several."""

from __future__ import annotations

import io
import logging
import struct
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from PIL import Image

from segkit.data.io.base import Array, ReadError, as_read_error, refuse_bomb
from segkit.data.io.masks import without_alpha

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ALPHA = (1, 2)
_PADDING = 3
"""Bytes that may follow the pixels of a strip, so that the next one begins at an even place."""

logging.getLogger("tifffile").propagate = False  # what matters of its remarks on damaged tags is checked here, and said once
logging.getLogger("tifffile").addHandler(logging.NullHandler())


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
    if following:
        raise ReadError(path, f"truncated (nothing after page {count})")
    return count


def check_axes(path: Path, file: Path | IO[bytes]) -> None:
    """Raise `ReadError` where the pages are not the slices of one volume, as far as ImageJ or OME say what they are."""
    with tifffile.TiffFile(file) as tiff:  # anew, as its pages are poorer after this
        if not (tiff.is_imagej or tiff.is_ome):
            return
        count, series = len(tiff.pages), tiff.series[0]
    axes = "".join(axis for axis, length in zip(series.axes, series.shape, strict=True) if axis not in "YXS" and length > 1)
    if len(axes) > 1 or "C" in axes:
        what = f"its pages are {' x '.join(map(str, series.shape))} ({series.axes}), not the slices of one volume"
        raise ReadError(path, f"{what}; save each channel and each time point as a file of its own (ImageJ: Image > Stacks > Split)")
    planes = prod(length for axis, length in zip(series.axes, series.shape, strict=True) if axis not in "YXS")
    if planes != count:
        raise ReadError(path, f"holds {planes} images, but lists {count}; save it as NRRD or NIfTI")


def read_page(path: Path, page: int, indices: bool) -> Array:
    """Read page `page` (from 0) as `decode` returns it. Raises `ReadError`."""
    with as_read_error(path), path.open("rb") as file:
        return decode(path, file, page, indices)


def decode(path: Path, file: IO[bytes], number: int | None, indices: bool) -> Array:
    """Decode page `number` (from 0), or the only one, to (H, W) or (H, W, C), also from a planar file.

    White-is-zero images are inverted to what a viewer shows; masks (`indices`) are not.
    """
    if number is None:
        check_axes(path, file)
        file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        pages = count_pages(path, tiff)
        if number is None and pages > 1:
            fix = "save each as a file of its own, or let data=folder or data=csv read them as the slices of a volume"
            raise ReadError(path, f"holds {pages} pages, expected one: {fix}")
        number = number or 0
        if not 0 <= number < pages:
            raise ReadError(path, f"has {pages} pages, not a page {number} (they count from 0)")
        page: Any = tiff.pages[number]
        refuse_bomb(path, page.imagelength, page.imagewidth * page.samplesperpixel)
        _check_strips(path, page, file.seek(0, io.SEEK_END))
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
    if pixels.ndim == 2:
        return pixels
    alphas = sum(int(kind) in _ALPHA for kind in extra)
    colors = 3 if photometric in ("RGB", "YCBCR") else pixels.shape[2] - alphas
    return without_alpha(pixels, colors, indices and alphas > 0)


def _check_strips(path: Path, page: Any, size: int) -> None:
    """Raise `ReadError` where strips or tiles are missing or cut off, which tifffile fills with zeros, or hold more than the image."""
    strips = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if max((at + length for at, length in strips), default=0) > size:
        raise ReadError(path, "truncated")
    if page.planarconfig not in (1, 2):
        raise ReadError(path, f"damaged (TIFF has no planar configuration {page.planarconfig})")
    if "PhotometricInterpretation" not in page.tags:
        raise ReadError(path, "damaged (it does not say whether 0 is black or white: no PhotometricInterpretation)")
    if page.photometric == tifffile.PHOTOMETRIC.RGB and (page.bitspersample < 8 or page.samplesperpixel < 3):
        raise ReadError(path, f"damaged (RGB of {page.samplesperpixel} samples of {page.bitspersample} bits)")
    if len(strips) != prod(page.chunked):
        raise ReadError(path, f"damaged (it lists {len(strips)} strips of pixels, of {prod(page.chunked)})")
    sparse = (0, 0) if page.is_tiled else None  # a tile that GDAL leaves out, as it holds no data
    if any(0 in strip and strip != sparse for strip in strips):
        raise ReadError(path, "damaged (strips of pixels are missing)")
    if page.compression == 1 and not page.is_tiled:
        row = -(-page.imagewidth * page.samplesperpixel * page.bitspersample // 8)
        claimed = page.imagelength * row
        found = sum(length for _, length in strips)
        rows = min(page.rowsperstrip, page.imagelength)
        whole = -(-page.imagelength // rows) * rows * row  # some programs fill the last strip to its full height
        if found not in (claimed, whole) and found - claimed > _PADDING * len(strips):
            raise ReadError(path, f"damaged (its header claims {claimed} bytes of pixels, but {found} are listed)")


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
