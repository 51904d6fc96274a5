"""Image and mask files as arrays. The first bytes of a file decide on its format, not its suffix.

imagecodecs reads PNG and JPEG (fast, and without a word on the terminal); Pillow reads palettes, BMP, GIF and WebP, because others
replace an index by its color; tifffile reads TIFF (`tiff.py`); `netpbm.py` PGM and its like; `volumes.py` a single slice of NIfTI,
NRRD, MHA or NumPy.
A file that is truncated or damaged is an error, never half an image: the libraries do not promise that, so the chunks of a PNG
and the end of a JPEG are checked first.

JPEG and PNG are turned as their EXIF orientation says, images and masks alike, each by its own: the grid is the one that viewers
and annotation tools show. The audit refuses pairs of which only one says so, unless sizes or `data.exif` decide. Samples of one
bit read as 0 and 255. An image holds what a viewer shows; a mask holds what is stored: the index in a palette, and the number
itself where a TIFF says that zero is white (so write tifffile and ImageJ). GIF has only palettes, whose order writers choose
freely, so the gray values of a gray GIF count as what is stored.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
from PIL import Image
from PIL.PngImagePlugin import ChunkStream

from segkit.data.io import netpbm
from segkit.data.io.base import Array, ReadError, as_image, as_read_error, read_start, refuse_bomb
from segkit.data.io.exif import UPRIGHT, orientation_in, orientation_of, shown, swaps_axes
from segkit.data.io.masks import fitted, thresholded, whole_numbers, without_alpha
from segkit.data.io.tiff import SIGNATURES, decode, read_page
from segkit.data.io.volumes import OrientedFile, VolumeFile, VolumeMask, header

KINDS = "PNG, JPG, TIFF, BMP, GIF, WebP, PGM, PPM, NIfTI, NRRD, MHA, MHD, NPY, NPZ"
_NIFTI_HEADER_LENGTHS = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")
_FORMATS = {
    "png": (b"\x89PNG\r\n\x1a\n",),
    "jpeg": (b"\xff\xd8\xff",),
    "tiff": SIGNATURES,
    "bmp": (b"BM",),
    "gif": (b"GIF8",),
    "webp": (b"RIFF",),
    "netpbm": netpbm.SIGNATURES,
    "volume": (
        *(b"\x1f\x8b", *_NIFTI_HEADER_LENGTHS),  # gzip: NIfTI
        *(b"NRRD", b"ObjectType", b"NDims", b"Comment"),  # NRRD, MHA, MHD
        *(b"\x93NUMPY", b"PK\x03\x04"),  # NPY, NPZ
    ),
}
_PNG_PALETTE, _PNG_GRAY = 3, (0, 4)
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel by color type."""
_BMP_BITS = slice(28, 30)
_JPEG_END, _JPEG_SEVERAL_ENDS = b"\xff\xd9", (b"\xff\xc2", b"\xff\xdd")
_JPEG_NOISE = b"\0" + bytes(random.Random(0).choices(range(1, 255), k=64))
"""First what makes data of a byte 255, where it has lost this; no marker."""
_PNG_AT_ONCE = 1 << 26
"""Bytes of a larger image are not kept twice."""
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True)
class ImageFile(OrientedFile):
    """The `Pixels` of an image file: (H, W, C) uint8, uint16 or float32, see `read_image`."""

    page: int | None = None
    upright: bool = True
    """False: the grid as stored, whatever the EXIF orientation says."""

    def decode(self) -> Array:
        return read_image(self.path, self.orient, self.page, self.upright)


@dataclass(frozen=True)
class MaskFile(OrientedFile):
    """The `Pixels` of a mask file: (H, W) integers or (H, W, 3) colors, see `read_mask`."""

    page: int | None = None
    threshold: float | None = None
    like: Path | None = None
    """The image to whose size the mask is brought."""
    upright: bool = True

    def decode(self) -> Array:
        mask = read_mask(self.path, self.orient, self.page, self.threshold, self.upright)
        return mask if self.like is None else fitted(self.path, mask, image_shape(self.like, self.orient, self.upright)[:2])


def read_image(path: Path, orient: str | None = "LPS", page: int | None = None, upright: bool = True) -> Array:
    """Read an image file of any supported format.

    Args:
        path: the file; its first bytes decide on the format.
        orient: axes that the single slice in a volume format is turned to; None leaves them as they are stored.
        page: the page of a TIFF that has several, from 0; None expects one page.
        upright: whether JPEG and PNG are turned by their EXIF orientation, as viewers show them.

    Returns:
        (H, W, C) uint8, uint16 or float32: one channel for gray, RGB order for color, alpha dropped, palettes resolved.

    Raises:
        ReadError: the file is missing, damaged, truncated, no image, or too large.
    """
    return as_image(path, _decode(path, orient, page, upright, indices=False))


def read_mask(
    path: Path, orient: str | None = "LPS", page: int | None = None, threshold: float | None = None, upright: bool = True
) -> Array:
    """Read a mask file of any supported format, see `read_image`; with a `threshold`, of colors the brightest channel counts.

    Returns:
        (H, W) integers: the stored values, the index where the file has a palette; or 0 and 255. True colors stay (H, W, 3).

    Raises:
        ReadError: also where the file holds fractions, or neither one channel nor three.
    """
    mask = _decode(path, orient, page, upright, indices=True)
    if page is not None and mask.ndim != 2:
        raise ReadError(path, f"page {page} has {mask.shape[2]} channels; a mask has one")
    if threshold is not None:
        return thresholded(mask.max(axis=-1) if mask.ndim == 3 else mask, threshold)
    if mask.ndim == 3 and all(np.array_equal(mask[..., 0], mask[..., c]) for c in range(1, mask.shape[2])):
        mask = mask[..., 0]
    if mask.ndim == 3 and mask.shape[2] != 3:
        raise ReadError(path, f"a mask has one channel or three colors, this file has {mask.shape[2]}")
    return np.ascontiguousarray(whole_numbers(path, mask))


def image_shape(path: Path, orient: str | None = "LPS", upright: bool = True) -> tuple[int, int, int]:
    """Return (H, W, C) as `read_image` gives it, from the header alone. Raises `ReadError`."""
    rows, columns, channels = _stored_shape(path, orient)
    return (columns, rows, channels) if upright and swaps_axes(orientation_of(path)) else (rows, columns, channels)


def _stored_shape(path: Path, orient: str | None) -> tuple[int, int, int]:
    head = read_start(path, netpbm.HEAD)
    kind = _format_of(path, head)
    if kind == "netpbm":
        return netpbm.shape_of(path, head)
    if kind == "png":
        rows, columns, color = _png_header(path, head)
        refuse_bomb(path, rows, columns)
        if color != _PNG_PALETTE:
            return rows, columns, 1 if color in _PNG_GRAY else 3
    if kind == "volume":
        volume = header(path, orient)
        return (*volume.shape[1:], volume.channels)
    with as_read_error(path):
        if kind == "tiff":
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages.first
                refuse_bomb(path, page.imagelength, page.imagewidth)
                return page.imagelength, page.imagewidth, page.samplesperpixel
        with Image.open(path) as image:
            return image.height, image.width, _channels_of(image)


def _channels_of(image: Image.Image) -> int:
    """As `read_image` reads them: a palette of grays and one bit are gray, all that is neither is RGB."""
    if image.mode == "P":
        return 1 if _is_gray(image) else 3
    return 1 if image.mode in ("1", "L", "LA", "I;16", "I", "F") else 3


def _is_gray(image: Image.Image) -> bool:
    palette = image.getpalette() or []
    return palette[0::3] == palette[1::3] == palette[2::3]


def _decode(path: Path, orient: str | None, page: int | None, upright: bool, indices: bool) -> Array:
    if page is not None:
        return read_page(path, page, indices)
    data = read_start(path)
    with as_read_error(path):
        match _format_of(path, data):
            case "png":
                return shown(_decode_png(path, data, indices), orientation_in(data) if upright else UPRIGHT)
            case "jpeg":
                return shown(_decode_jpeg(path, data), orientation_in(data) if upright else UPRIGHT)
            case "netpbm":
                return netpbm.decode(path, data)
            case "tiff":
                return decode(path, io.BytesIO(data), None, indices)
            case "volume":
                volume = (VolumeMask if indices else VolumeFile)(path, orient).read()
                if len(volume) != 1:
                    raise ReadError(path, f"is a volume of {len(volume)} slices, expected one image")
                return np.asarray(volume[0])
            case kind:
                return _decode_pillow(path, data, indices, is_gif=kind == "gif")


def _format_of(path: Path, data: bytes) -> str:
    for kind, signatures in _FORMATS.items():
        if data.startswith(signatures):
            return kind
    raise ReadError(path, f"not an image ({KINDS})")


def _png_header(path: Path, data: bytes) -> tuple[int, int, int]:
    """Return rows, columns and color type."""
    if len(data) < 33:
        raise ReadError(path, "truncated")
    width, height, _, color = struct.unpack(">IIBB", data[16:26])
    return height, width, color


def _decode_png(path: Path, data: bytes, indices: bool) -> Array:
    height, width, color = _png_header(path, data)
    refuse_bomb(path, height, width)
    if data.rfind(_PNG_END) < 0:
        raise ReadError(path, "truncated")
    chunks = io.BytesIO(data)
    chunks.seek(8)
    ChunkStream(chunks).verify()  # the checksum of every chunk
    needed = _png_chunks(path, data)
    if color == _PNG_PALETTE:
        return _decode_pillow(path, needed, indices)
    pixels = np.asarray(imagecodecs.png_decode(needed))
    return pixels if pixels.ndim == 2 else without_alpha(pixels, 1 if color in _PNG_GRAY else 3, indices)


def _png_chunks(path: Path, data: bytes) -> bytes:
    """Return the PNG without chunks that do not matter here, of which libpng prints remarks (a color profile, say), and with its rows
    decompressed: counting them has done so, and the decoder need not do it again.

    Raises `ReadError` where the pixels are not as many as the header claims: libpng leaves out what is too much.
    """
    width, height, bits, color, compression, filtering, interlace = struct.unpack(">IIBBBBB", data[16:29])
    if color not in _PNG_SAMPLES or compression or filtering or interlace > 1:
        raise ReadError(path, "damaged (its header names a color type or a method that PNG does not have)")
    packed, palette, place = [], b"", 8
    while place < len(data) and data[place + 4 : place + 8] != b"IEND":
        start, end = place + 8, place + 8 + int.from_bytes(data[place : place + 4])
        match data[place + 4 : start]:
            case b"acTL" if (frames := int.from_bytes(data[start : start + 4])) > 1:
                raise ReadError(path, f"holds {frames} frames, expected one")
            case b"IDAT":
                packed.append(data[start:end])
            case b"PLTE" if color == _PNG_PALETTE:
                palette = data[place : end + 4]
        place = end + 4
    rows, found = _png_rows(b"".join(packed), claimed := height * (1 + -(-width * bits * _PNG_SAMPLES[color] // 8)))
    if not interlace and found != claimed:
        amount = "more" if found > claimed else "fewer"
        raise ReadError(path, f"damaged (its header claims {height} x {width} pixels, and {amount} follow)")
    checksum = imagecodecs.deflate_crc32(rows, zlib.crc32(b"IDAT"))
    return b"".join((data[:33], palette, len(rows).to_bytes(4), b"IDAT", rows, checksum.to_bytes(4), _PNG_END))


def _png_rows(packed: bytes, claimed: int) -> tuple[bytes, int]:
    """The zlib stream of a PNG, without compression where its length is the claimed one; and its length, at most one more than that.

    libdeflate takes half the time of zlib, which says what is wrong.
    """
    with suppress(imagecodecs.DeflateError):
        rows = imagecodecs.deflate_decode(packed, out=claimed) if claimed <= _PNG_AT_ONCE else b""
        if len(rows) == claimed:
            return bytes(imagecodecs.deflate_encode(rows, level=0)), claimed
    return packed, len(zlib.decompressobj().decompress(packed, claimed + 1))


def _decode_jpeg(path: Path, data: bytes) -> Array:
    """Gray (H, W) or RGB (H, W, 3), not rotated by EXIF."""
    with Image.open(io.BytesIO(data)) as image:
        refuse_bomb(path, image.height, image.width)
        if data.rstrip(b"\0\r\n ")[-2:] != _JPEG_END:
            image.load()  # bytes follow the end, or the end is missing: Pillow is strict and finds out which
        if image.mode not in ("L", "RGB"):
            return _decode_opencv(path, data)
    pixels = np.asarray(imagecodecs.jpeg8_decode(data))
    if np.ptp(pixels[-8:, -8:].reshape(-1, pixels.size // pixels.shape[0] // pixels.shape[1]), axis=0).max() == 0:
        _check_jpeg_end(path, data, pixels)
    return pixels


def _check_jpeg_end(path: Path, data: bytes, pixels: Array) -> None:
    """Raise `ReadError` where blocks are missing in front of the end: libjpeg repeats the last gray value in their place, as in pictures
    whose last block is flat, which alone are tried.

    Whatever is put in front of the end becomes the missing blocks, and is never looked at where none are missing. JPEG XL, which takes
    ten times as long, takes apart strictly what has several ends: scans (progressive), or intervals between restarts.
    """
    missing = ReadError(path, "truncated or damaged (its last blocks are missing)")
    end = data.rfind(_JPEG_END)
    if not any(marker in data for marker in _JPEG_SEVERAL_ENDS):
        if not np.array_equal(pixels, imagecodecs.jpeg8_decode(data[:end] + _JPEG_NOISE + data[end:])):
            raise missing
        return
    try:
        imagecodecs.jpegxl_encode_jpeg(data)
    except imagecodecs.JpegxlError:
        raise missing from None


def _decode_opencv(path: Path, data: bytes) -> Array:
    """Gray (H, W), or RGB (H, W, 3), also of CMYK."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ReadError(path, "damaged (the pixels cannot be decoded)")
    return pixels if pixels.ndim == 2 else pixels[..., 2::-1]


def _decode_pillow(path: Path, data: bytes, indices: bool, is_gif: bool = False) -> Array:
    """Palette images: the index of each pixel, or its color. The index of a gray GIF means nothing, its gray value counts."""
    with Image.open(io.BytesIO(data)) as image:
        refuse_bomb(path, image.height, image.width)
        if getattr(image, "n_frames", 1) > 1:
            raise ReadError(path, f"holds {image.n_frames} frames, expected one")  # type: ignore[attr-defined]
        if image.mode == "1":
            if data.startswith(b"BM") and int.from_bytes(data[_BMP_BITS], "little") != 1:
                return _decode_opencv(path, data)  # black and white in bytes or half bytes, which Pillow takes for bits
            return np.asarray(image).astype(np.uint8) * np.uint8(255)
        if image.mode == "RGBA":
            return without_alpha(np.asarray(image), 3, indices)
        is_gray = image.mode != "P" or _is_gray(image)
        if image.mode == "P" and not (indices and not (is_gif and is_gray)):
            colors = np.asarray(image.convert("RGB"))
            return colors[..., 0] if is_gray else colors
        return np.asarray(image if image.mode in ("P", "L") else image.convert("RGB"))
