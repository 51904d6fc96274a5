"""Image and mask files as arrays. The format is told by the first bytes of a file, not by its suffix.

PNG and JPEG go through OpenCV (fast); palettes, BMP and GIF through Pillow, because OpenCV turns an index into its colour;
TIFF through tifffile (`tiff.py`), a single slice of NIfTI, NRRD, MHA or NumPy through `volumes.py`. A file that is cut off
or damaged is an error, never half an image: OpenCV does not promise that, so the chunks of a PNG and the end of a JPEG are
checked before it sees them.

EXIF orientation is ignored for images and masks alike, so that a pair can never be turned against each other: the grid is
the one on disk. Samples of one bit read as 0 and 255. Of an image, what a viewer shows is read; of a mask, what is stored:
the index in a palette, and the number itself where a TIFF says that zero is white (so write tifffile and ImageJ). GIF has
nothing but palettes, whose order writers choose as they like, so the greys of a grey GIF count as what is stored.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segkit.data.io.base import Array, File, ReadError, as_read_error, refuse_bomb, whole_numbers
from segkit.data.io.tiff import decode, one_page, page_size
from segkit.data.io.volumes import PlaneFile, PlaneMask, header

KINDS = "PNG, JPG, TIFF, BMP, GIF, NIfTI, NRRD, MHA, MHD, NPY, NPZ"

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"BM": "bmp",
    b"GIF8": "gif",
    b"\x1f\x8b": "volume",  # gzip: NIfTI
    b"\x5c\x01\0\0": "volume",  # NIfTI-1 and -2 begin with the length of their header
    b"\0\0\x01\x5c": "volume",
    b"\x1c\x02\0\0": "volume",
    b"\0\0\x02\x1c": "volume",
    b"NRRD": "volume",
    b"ObjectType": "volume",  # MHA, MHD
    b"NDims": "volume",
    b"Comment": "volume",
    b"\x93NUMPY": "volume",
    b"PK\x03\x04": "volume",  # NPZ
}
_PNG_PALETTE, _PNG_GREY = 3, (0, 4)


@dataclass(frozen=True)
class ImageFile(File):
    """The `Pixels` of an image file."""

    def read(self) -> Array:
        return read_image(self.path)


@dataclass(frozen=True)
class MaskFile(File):
    """The `Pixels` of a mask file."""

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
    return np.ascontiguousarray(whole_numbers(path, mask))


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header alone."""
    data = _read_head(path)
    kind = _kind(path, data)
    if kind == "png":
        return _png_header(path, data)[:2]
    if kind == "volume":
        return header(path).shape[1:]
    with as_read_error(path):
        if kind == "tiff":
            return page_size(path)
        with Image.open(path) as image:
            return image.height, image.width


def _decode(path: Path, indices: bool) -> Array:
    data = _read_bytes(path)
    decoder = {"png": _decode_png, "jpeg": _decode_jpeg, "tiff": _decode_tiff, "bmp": _decode_pillow, "gif": _decode_gif}
    decoder["volume"] = _decode_plane
    with as_read_error(path):
        return decoder[_kind(path, data)](path, data, indices)


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
    refuse_bomb(path, height, width)
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
        refuse_bomb(path, image.height, image.width)
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


def _decode_gif(path: Path, data: bytes, indices: bool) -> Array:
    """A grey GIF is read as grey, also where a palette stores it: which index stands for which grey is the writer's whim."""
    with Image.open(io.BytesIO(data)) as image:
        grey = image.mode == "P" and _is_grey(image.getpalette() or [])
    return _decode_pillow(path, data, indices and not grey)


def _decode_tiff(path: Path, data: bytes, indices: bool) -> Array:
    one_page(path, data)
    return decode(path, io.BytesIO(data), 0, indices)


def _decode_plane(path: Path, data: bytes, indices: bool) -> Array:

    return (PlaneMask(path) if indices else PlaneFile(path)).read()
