"""JPEG Lossless for pydicom, through imagecodecs (libjpeg-turbo): how most scanners compress, and pydicom alone cannot read it.

The names are those that a pydicom plugin has: https://pydicom.github.io/pydicom/stable/guides/decoding/decoder_plugins.html
"""

from __future__ import annotations

import imagecodecs
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import UID, JPEGLossless, JPEGLosslessSV1

DECODER_DEPENDENCIES = dict.fromkeys((JPEGLossless, JPEGLosslessSV1), ("imagecodecs",))


def is_available(syntax: str) -> bool:
    return UID(syntax) in DECODER_DEPENDENCIES and bool(imagecodecs.JPEG.available)


def decode_frame(encoded: bytes, runner: DecodeRunner) -> bytes:
    """The pixels of one frame, row by row, colours by pixel."""
    pixels = imagecodecs.jpeg_decode(encoded)
    runner.set_option("bits_allocated", pixels.itemsize * 8)
    if pixels.ndim == 3:
        runner.set_option("planar_configuration", 0)
    return bytes(pixels.tobytes())


def register() -> None:
    """Once a process: pydicom asks plugins in the order of their names, and others keep theirs."""
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if not decoder.is_available:
            decoder.add_plugin("imagecodecs", (__name__, "decode_frame"))
