"""Seeded damage of a file: what a bad disk, half a download, a wrong tool or an attacker makes of it."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pydicom

Random = np.random.Generator
Mutation = Callable[[Random, bytes], bytes]

INTEGERS = (0, 1, 2, 255, 65535, 10**7, 2**31 - 1, 2**32 - 1)
NUMBERS = (0.0, -1.0, 1e7, 1e38, float("nan"), float("inf"))
WORDS = (b"0", b"-1", b"1", b"9999999", b"4294967296", b"1e400", b"nan", b"inf", b"", b"abc", b"\xff\xfe", b"2 3 4")
NODES = (None, -1, 0, 10**7, 1e308, float("nan"), float("inf"), "", "text", "../../etc/passwd", [], {}, [[]], True)
HEADER = 400
"""Bytes at the start of a file in which most formats keep what they say about the rest."""


# any file


def flip(random: Random, data: bytes, end: int | None = None) -> bytes:
    """One to eight bits."""
    changed = bytearray(data)
    for place in random.integers(0, min(end or len(data), len(data)), random.integers(1, 9)):
        changed[place] ^= 1 << int(random.integers(8))
    return bytes(changed)


def flip_header(random: Random, data: bytes) -> bytes:
    return flip(random, data, HEADER)


def truncate(random: Random, data: bytes) -> bytes:
    return data[: int(random.integers(1, len(data)))]


def truncate_the_end(random: Random, data: bytes) -> bytes:
    return data[: -int(random.integers(1, min(40, len(data) - 1)))]


def truncate_and_pad(random: Random, data: bytes) -> bytes:
    """As a download that is interrupted leaves it where the place was reserved before."""
    cut = truncate(random, data)
    return cut + bytes(len(data) - len(cut))


def append(random: Random, data: bytes) -> bytes:
    return data + random.bytes(int(random.integers(1, 3000)))


def empty(random: Random, data: bytes) -> bytes:
    return b""


def extreme(random: Random, data: bytes) -> bytes:
    """A number of the header."""
    is_float, order = random.integers(3) == 0, random.choice(["<", ">"])
    code = str(random.choice(list("fd" if is_float else "BHIQ")))
    limit = 2 ** (8 * struct.calcsize(code)) - 1
    number = float(random.choice(NUMBERS)) if is_float else min(int(random.choice(INTEGERS)), limit)
    packed = struct.pack(f"{order}{code}", number)
    at = int(random.integers(0, max(1, min(HEADER, len(data)) - len(packed)))) & ~1
    return data[:at] + packed + data[at + len(packed) :]


GENERIC: tuple[Mutation, ...] = (flip, flip_header, truncate, truncate_the_end, truncate_and_pad, append, empty, extreme, extreme)


# fields of a format


def png_field(random: Random, data: bytes) -> bytes:
    """A field of the first chunk, whose checksum is right again."""
    fields = [*struct.unpack(">IIBBBBB", data[16:29])]
    index = int(random.integers(7))
    fields[index] = int(random.choice([0, 1, 3, 6, 7, 16, 10**7])) % (2**32 if index < 2 else 256)
    head = b"IHDR" + struct.pack(">IIBBBBB", *fields)
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def jpeg_early_end(random: Random, data: bytes) -> bytes:
    """The end of a JPEG, but half of it is missing in front of that."""
    return data[: int(random.integers(len(data) // 2, len(data) - 8))] + b"\xff\xd9"


def tiff_field(random: Random, data: bytes) -> bytes:
    """The type, the number or the value of an entry of the first directory."""
    (place,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[place : place + 2])
    entry = place + 2 + 12 * int(random.integers(count))
    at, code = [(2, "H"), (4, "I"), (8, "I"), (8, "I"), (8, "I")][int(random.integers(5))]
    number = int(random.choice(INTEGERS)) & (0xFFFF if code == "H" else 0xFFFFFFFF)
    return data[: entry + at] + struct.pack(f"<{code}", number) + data[entry + at + struct.calcsize(code) :]


_NIFTI = (*((40 + 2 * i, "h") for i in range(8)), (70, "h"), (72, "h"), *((76 + 4 * i, "f") for i in range(8)), (108, "f"))
_NIFTI += ((112, "f"), (116, "f"), (123, "B"), (252, "h"), (254, "h"), *((280 + 4 * i, "f") for i in range(12)))


def nifti_field(random: Random, data: bytes) -> bytes:
    at, code = _NIFTI[int(random.integers(len(_NIFTI)))]
    number = float(random.choice(NUMBERS)) if code == "f" else int(random.choice([0, 1, 2, 3, 4, 7, 8, 16, 127]))
    number = -1 if code == "h" and random.integers(6) == 0 else number
    packed = struct.pack(f"<{code}", number)
    return data[:at] + packed + data[at + len(packed) :]


_DICOM = {
    "Rows": (0, 1, 65535),
    "Columns": (0, 1, 65535),
    "BitsAllocated": (0, 1, 8, 32, 64),
    "BitsStored": (0, 1, 32),
    "SamplesPerPixel": (0, 3),
    "NumberOfFrames": (0, -1, 2, 10**7),
    "PixelRepresentation": (0, 7),
    "PhotometricInterpretation": ("", "RGB", "PALETTE COLOR", "MONOCHROME1", "NONSENSE"),
    "SOPClassUID": ("", "1.2.3"),
    "SeriesInstanceUID": ("", "1.2.3"),
}


def dicom_field(random: Random, data: bytes) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    name = str(random.choice(list(_DICOM)))
    setattr(dataset, name, _DICOM[name][int(random.integers(len(_DICOM[name])))])
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


# text


def _text_end(data: bytes) -> int:
    """Where the text of a header ends, and numbers begin."""
    found = re.search(rb"\n\n|ElementDataFile = LOCAL\n|\x00{3}", data)
    return found.end() if found else len(data)


def word(random: Random, data: bytes) -> bytes:
    """A word or number of a text header or table."""
    places = list(re.finditer(rb"[\w.+-]+", data[: _text_end(data)]))
    chosen = places[int(random.integers(len(places)))]
    return data[: chosen.start()] + WORDS[int(random.integers(len(WORDS)))] + data[chosen.end() :]


def number(random: Random, data: bytes) -> bytes:
    places = list(re.finditer(rb"(?<![\w.])[+-]?[\d.]+(?![\w.])", data[: _text_end(data)]))
    chosen = places[int(random.integers(len(places)))]
    return data[: chosen.start()] + WORDS[int(random.integers(7))] + data[chosen.end() :]


def line(random: Random, data: bytes) -> bytes:
    """A line of a text header or table is missing, or there twice."""
    end = _text_end(data)
    lines = data[:end].splitlines(keepends=True)
    index = int(random.integers(len(lines)))
    lines[index : index + 1] = [lines[index]] * int(random.choice([0, 2]))
    return b"".join(lines) + data[end:]


def node(random: Random, data: bytes) -> bytes:
    """A value somewhere in a JSON document."""
    document = json.loads(data)
    places = list(_places(document))
    parent, key = places[int(random.integers(len(places)))]
    if random.integers(5) == 0:
        del parent[key]
    else:
        parent[key] = NODES[int(random.integers(len(NODES)))]
    return json.dumps(document).encode()


def _places(document: object) -> list[tuple[object, object]]:
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    return [place for key, value in items for place in ((document, key), *_places(value))]


BY_FORMAT: dict[str, tuple[Mutation, ...]] = {
    "png": (png_field, png_field),
    "jpg": (jpeg_early_end, jpeg_early_end),
    "tif": (tiff_field, tiff_field, tiff_field, tiff_field),
    "nii": (nifti_field, nifti_field, nifti_field, nifti_field),
    "text": (word, number, number, line),
    "npz": (),
    "dcm": (dicom_field, dicom_field, dicom_field),
    "json": (node, node, node, node),
    "csv": (word, number, number, line),
}


def mutated(random: Random, data: bytes, form: str, others: tuple[bytes, ...]) -> tuple[str, bytes]:
    """The name of the damage and the damaged file, which differs from `data`."""
    kinds = (*GENERIC, *BY_FORMAT[form])
    while True:
        if random.integers(len(kinds) + 1) == 0:
            return "other_format", others[int(random.integers(len(others)))]
        damage = kinds[int(random.integers(len(kinds)))]
        changed = damage(random, data)
        if changed != data:
            return damage.__name__, changed
