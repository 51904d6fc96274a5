"""Image and mask files as arrays. The format is told by the first bytes of a file, not by its suffix.

PNG and JPEG go through OpenCV (fast); palettes, BMP and GIF through Pillow, because OpenCV turns an index into its colour;
TIFF through tifffile. A file that is cut off or damaged is an error, never half an image: OpenCV does not promise that, so
the chunks of a PNG and the end of a JPEG are checked before it sees them.

EXIF orientation is ignored for images and masks alike, so that a pair can never be turned against each other: the grid is
the one on disk. Samples of one bit read as 0 and 255. Of an image, what a viewer shows is read; of a mask, what is stored:
the index in a palette, and the number itself where a TIFF says that zero is white (so write tifffile and ImageJ).
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from segkit.errors import SegkitError

Array = npt.NDArray[Any]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif"})
KINDS = "PNG, JPG, TIFF, BMP, GIF"
MAX_PIXELS = 10**9
"""A larger image is taken for a decompression bomb."""

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"BM": "bmp",
    b"GIF8": "gif",
}
_PNG_PALETTE, _PNG_GREY = 3, (0, 4)
_TIFF_ALPHA = (1, 2)


class ReadError(SegkitError):
    """A file that cannot be read, and why: 'is missing', 'zero bytes', 'not an image', 'truncated', …"""

    def __init__(self, path: Path | str, reason: str = "") -> None:
        super().__init__(f"{path}: {reason}" if reason else str(path))
        self.path, self.reason = Path(path), reason

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadError, (self.path, self.reason)


@dataclass(frozen=True)
class ImageFile:
    """The `Pixels` of an image file."""

    path: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> Array:
        return read_image(self.path)


@dataclass(frozen=True)
class MaskFile:
    """The `Pixels` of a mask file."""

    path: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> Array:
        return read_mask(self.path)


def read_image(path: Path) -> Array:
    """(H, W, C) uint8, uint16 or float32: one channel for grey, RGB order for colour, alpha dropped, palettes resolved."""
    pixels = _decode(path, indices=False)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        pixels = pixels.astype(np.float32)
    return np.ascontiguousarray(pixels)


def read_mask(path: Path) -> Array:
    """(H, W) integers: the stored values, the index where the file has a palette. True colours stay (H, W, 3)."""
    mask = _decode(path, indices=True)
    if mask.ndim == 3 and all(np.array_equal(mask[..., 0], mask[..., c]) for c in range(1, mask.shape[2])):
        mask = mask[..., 0]
    if mask.ndim == 3 and mask.shape[2] != 3:
        raise ReadError(path, f"a mask has one channel or three colours, this file has {mask.shape[2]}")
    if mask.dtype.kind == "f":
        if not np.array_equal(mask, np.round(mask)):
            raise ReadError(path, "holds fractions; a mask holds whole numbers, one a class")
        mask = mask.astype(np.int32)
    return np.ascontiguousarray(mask)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header alone."""
    data = _read_head(path)
    kind = _kind(path, data)
    if kind == "png":
        return _png_header(path, data)[:2]
    try:
        if kind == "tiff":
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages.first
                return page.imagelength, page.imagewidth
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:
        raise ReadError(path, _reason(error)) from error


def _decode(path: Path, indices: bool) -> Array:
    data = _read_bytes(path)
    decoder = {"png": _decode_png, "jpeg": _decode_jpeg, "tiff": _decode_tiff, "bmp": _decode_pillow, "gif": _decode_pillow}
    try:
        return decoder[_kind(path, data)](path, data, indices)
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError(path, "does not fit into memory") from error
    except Exception as error:  # decoders raise whatever they like on a damaged file
        raise ReadError(path, _reason(error)) from error


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ReadError(path, "is missing") from None
    except OSError as error:
        raise ReadError(path, f"cannot be opened ({error.strerror or error})") from error
    if not data:
        raise ReadError(path, "zero bytes")
    return data


def _read_head(path: Path) -> bytes:
    if not path.is_file():
        raise ReadError(path, "is missing")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise ReadError(path, "zero bytes")
    return head


def _kind(path: Path, data: bytes) -> str:
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    raise ReadError(path, f"not an image ({KINDS})")


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "MAX_IMAGE_PIXELS" in text or isinstance(error, Image.DecompressionBombError):
        return "far too large: a decompression bomb?"
    cut = ("truncated", "failed to read", "not enough", "unexpected end")
    return f"truncated ({text})" if any(word in text.lower() for word in cut) else f"damaged ({text})"


def _refuse_bomb(path: Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ReadError(path, f"claims {height} x {width} pixels, more than a gigapixel: a decompression bomb?")


def _png_header(path: Path, data: bytes) -> tuple[int, int, int]:
    """Rows, columns and colour type."""
    if len(data) < 33:
        raise ReadError(path, "truncated")
    width, height, _, colour = struct.unpack(">IIBB", data[16:26])
    return height, width, colour


def _check_png(path: Path, data: bytes) -> None:
    """Every chunk is whole, its checksum right, and the last one there."""
    at, view = 8, memoryview(data)
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", view[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(data):
            break
        kind = bytes(view[at + 4 : at + 8])
        if zlib.crc32(view[at + 4 : end]) != struct.unpack(">I", view[end : end + 4])[0]:
            raise ReadError(path, f"damaged (wrong checksum in chunk {kind.decode('latin-1')})")
        if kind == b"IEND":
            return
        at = end + 4
    raise ReadError(path, "truncated")


def _decode_png(path: Path, data: bytes, indices: bool) -> Array:
    height, width, colour = _png_header(path, data)
    _refuse_bomb(path, height, width)
    _check_png(path, data)
    if colour == _PNG_PALETTE:
        return _decode_pillow(path, data, indices)
    pixels = _opencv(path, data)
    return pixels[..., 0] if colour in _PNG_GREY and pixels.ndim == 3 else pixels


def _decode_jpeg(path: Path, data: bytes, indices: bool) -> Array:
    if data.rstrip(b"\0\r\n ")[-2:] != b"\xff\xd9":
        with Image.open(io.BytesIO(data)) as image:
            image.load()  # something follows the end, or there is none: Pillow is strict and finds out which
    return _opencv(path, data)  # refuses a gigapixel by itself


def _opencv(path: Path, data: bytes) -> Array:
    """Grey (H, W) or RGB (H, W, 3); IMREAD_UNCHANGED keeps 16 bits and does not turn by EXIF."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ReadError(path, "damaged (the pixels cannot be decoded)")
    return pixels if pixels.ndim == 2 else pixels[..., 2::-1]


def _decode_pillow(path: Path, data: bytes, indices: bool) -> Array:
    """Palette images: the index of each pixel, or its colour."""
    with Image.open(io.BytesIO(data)) as image:
        _refuse_bomb(path, image.height, image.width)
        if getattr(image, "n_frames", 1) > 1:
            raise ReadError(path, f"holds {image.n_frames} frames; one is wanted")  # type: ignore[attr-defined]
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8) * np.uint8(255)
        if image.mode == "P" and not indices:
            colours = np.asarray(image.convert("RGB"))
            return colours[..., 0] if _is_grey(image.getpalette() or []) else colours
        if image.mode in ("P", "L"):
            return np.asarray(image)
        return np.asarray(image.convert("RGB"))


def _is_grey(palette: list[int]) -> bool:
    return palette[0::3] == palette[1::3] == palette[2::3]


def _decode_tiff(path: Path, data: bytes, indices: bool) -> Array:
    """One page; planar files become (H, W, C); white-is-zero images are inverted to what a viewer shows, masks are not."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        if len(tiff.pages) > 1:
            raise ReadError(path, f"holds {len(tiff.pages)} pages; one is wanted")
        page = tiff.pages.first
        _refuse_bomb(path, page.imagelength, page.imagewidth)
        ends = (at + n for at, n in zip(page.dataoffsets, page.databytecounts, strict=True))
        if max(ends, default=0) > len(data):
            raise ReadError(path, "truncated")
        pixels = np.asarray(page.asarray())
        extra = page.extrasamples
        photometric, colormap = tifffile.PHOTOMETRIC(page.photometric).name, page.colormap
    if page.axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if photometric == "PALETTE":
        return pixels if indices else _tiff_colours(pixels, np.asarray(colormap))
    if photometric == "MINISWHITE" and not indices and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    if photometric == "SEPARATED":
        return _decode_pillow(path, data, indices)
    alphas = sum(int(kind) in _TIFF_ALPHA for kind in extra)
    return pixels[..., : 3 if photometric in ("RGB", "YCBCR") else pixels.shape[2] - alphas] if pixels.ndim == 3 else pixels


def _tiff_colours(indices: Array, colormap: Array) -> Array:
    """A TIFF palette has 16 bits a colour."""
    table = (colormap.T >> 8).astype(np.uint8)
    grey = bool((table[:, 0] == table[:, 1]).all() and (table[:, 1] == table[:, 2]).all())
    return table[indices][..., 0] if grey else table[indices]
