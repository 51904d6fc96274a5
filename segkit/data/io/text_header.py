"""The text in front of an NRRD or a MetaImage, read and checked before a C++ library sees it: that trusts what a header says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path

from segkit.data.io.base import ReadError, read_start
from segkit.data.io.stored import MAX_VOXELS, check_length

MAX_HEADER = 1 << 20
"""Bytes within which a header must end."""
MAX_AXES = 8
_NRRD = b"NRRD"
_META = re.compile(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=")
_META_END = re.compile(rb"^\s*ElementDataFile\s*=[^\n]*\n?", re.MULTILINE)
_NRRD_END = re.compile(rb"\r?\n\r?\n")
_LINE = re.compile(r"\s*([^:=]+?)\s*(?::=|:|=)[ \t]*(.*?)\s*$")
_TYPES = {
    "i1": "char, signed char, int8, int8_t, met_char",
    "u1": "uchar, unsigned char, uint8, uint8_t, met_uchar",
    "i2": "short, short int, signed short, signed short int, int16, int16_t, met_short",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t, met_ushort",
    "i4": "int, signed int, int32, int32_t, met_int, met_long",
    "u4": "uint, unsigned int, uint32, uint32_t, met_uint, met_ulong",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t, met_long_long",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t, met_ulong_long",
    "f4": "float, met_float",
    "f8": "double, met_double",
}
TYPES = {name: code for code, names in _TYPES.items() for name in names.split(", ")}
"""Types of NumPy by their names in both formats."""


@dataclass(frozen=True)
class TextHeader:
    """The lines of a header."""

    path: Path
    fields: Mapping[str, str]
    """Values by key, in lower case and without its spaces."""
    end: int
    """Where the numbers begin, in bytes."""
    data: Path
    """The file with the numbers: this one, or the one beside it."""

    def integers(self, key: str, default: str = "") -> list[int]:
        """Raises `ReadError` where the value is no list of whole numbers."""
        try:
            return [int(word) for word in self.fields.get(key, default).split()]
        except ValueError:
            raise self.damaged(key) from None

    def damaged(self, key: str) -> ReadError:
        """The error of a value that cannot be."""
        return ReadError(self.path, f"damaged (its header says {key}: {self.fields.get(key, '')[:40]!r})")

    def count(self, axes: str, lengths: str) -> int:
        """The number of values in all axes. Raises `ReadError` where their number or a length cannot be."""
        number, sizes = self.integers(axes), self.integers(lengths)
        if len(number) != 1 or not 2 <= number[0] <= MAX_AXES:
            raise self.damaged(axes)
        if len(sizes) != number[0]:
            raise self.damaged(lengths)
        if min(sizes) < 1:
            raise ReadError(self.path, f"holds no voxels ({' x '.join(map(str, sizes))})")
        if prod(sizes) > MAX_VOXELS:
            raise ReadError(self.path, f"claims {' x '.join(map(str, sizes))} voxels: a decompression bomb?")
        return prod(sizes)

    def check_numbers(self, key: str, count: int) -> None:
        """Raise `ReadError` where the value, if there is one, is not `count` finite numbers."""
        try:
            numbers = [float(word) for word in self.fields.get(key, "0 " * count).split()]
        except ValueError:
            raise self.damaged(key) from None
        if len(numbers) != count or not all(map(isfinite, numbers)):
            raise self.damaged(key)

    def type(self, key: str) -> str:
        """The numbers' type for NumPy. Raises `ReadError` where it is none."""
        name = self.fields.get(key, "").lower()
        if name not in TYPES:
            raise self.damaged(key)
        return TYPES[name]

    def plain(self, claimed: int, skip: str) -> int:
        """Where `claimed` bytes of plain numbers begin in `data`, `skip` bytes behind the header. Raises `ReadError`."""
        skipped, size = self.integers(skip, "0"), self.data.stat().st_size
        if skipped == [-1]:  # the numbers are the end of the file
            check_length(self.path, claimed, min(claimed, size))
            return size - claimed
        if len(skipped) != 1 or skipped[0] < 0:
            raise self.damaged(skip)
        check_length(self.path, claimed, size - self.end - skipped[0])
        return self.end + skipped[0]


def is_nrrd(head: bytes) -> bool:
    return head.startswith(_NRRD)


def is_meta(head: bytes) -> bool:
    return _META.match(head) is not None


def text_header(path: Path) -> TextHeader | None:
    """Read the text of a header; None where the file is neither NRRD nor MetaImage. Raises `ReadError`.

    Where the numbers lie in a file of their own, that must be below the header's folder.
    """
    head = read_start(path, MAX_HEADER)
    if not (is_nrrd(head) or is_meta(head)):
        return None
    found = (_NRRD_END if is_nrrd(head) else _META_END).search(head)
    end = found.end() if found else len(head)
    lines = head[:end].decode("utf-8", "replace").splitlines()[is_nrrd(head) :]
    matches = [match for line in lines if not line.startswith("#") and (match := _LINE.match(line))]
    fields = {match[1].lower().replace(" ", ""): match[2] for match in matches}
    name = fields.get("datafile") or fields.get("elementdatafile") or "LOCAL"
    if name.upper() == "LOCAL" and not found:
        raise ReadError(path, "truncated (its header does not end)")
    return TextHeader(path, fields, end, path) if name.upper() == "LOCAL" else TextHeader(path, fields, 0, _beside(path, name))


def data_file(path: Path) -> Path | None:
    """Return the file with the voxels, where a header (.mhd, .nhdr) keeps them beside it. Only below its own folder."""
    header = text_header(path)
    return header.data if header is not None and header.data != path else None


def _beside(path: Path, name: str) -> Path:
    if name.upper().startswith("LIST") or "%" in name:
        raise ReadError(path, "its numbers lie in a list of files; save it as one file (.mha, .nrrd)")
    target = path.parent / name
    if not target.resolve().is_relative_to(path.parent.resolve()):
        raise ReadError(path, f"names {name}, which lies outside its folder")
    if not target.is_file():
        raise ReadError(path, f"names {name}, which is missing beside it")
    return target
