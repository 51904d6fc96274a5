"""Rules that all readers share: file suffixes, `ReadError`, size limits, JSON, tables. `masks.py` has those of masks."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segkit.data.labels import Array as Array
from segkit.system.errors import SegkitError, few, first_line
from segkit.system.text import one_line

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pbm", ".pgm", ".ppm", ".pnm"})
VOLUME_SUFFIXES = frozenset({".nii", ".nii.gz", ".nrrd", ".seg.nrrd", ".mha", ".mhd", ".nhdr", ".npy", ".npz"})
_DOUBLE = (".nii.gz", ".seg.nrrd")
MAX_PIXELS = 10**9
"""A larger image is taken for a decompression bomb."""
_MEMORY_ADDRESS = re.compile(r" *<[\w.]+ object at 0x[0-9a-f]+>")
_TRUNCATED = (
    *("truncated", "failed to read", "not enough", "unexpected end", "ended before", "greater than file size"),
    *("less than expected", "end of file", "no such pixel", "actual length", "bytes, got"),
)
"""How the decoders describe a file that ends too early."""


class ReadError(SegkitError):
    """A file that cannot be read, and why.

    Args:
        path: the file.
        reason: continues the sentence that `path` begins, such as 'is missing', 'zero bytes', 'not an image', 'truncated'.
    """

    def __init__(self, path: Path | str, reason: str = "") -> None:
        reason = _printable(reason, "?")  # bytes of a damaged file, in one line
        shown = one_line(str(path))
        super().__init__(f"{shown}: {reason}" if reason else shown)
        self.path, self.reason = Path(path), reason

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadError, (self.path, self.reason)


def _printable(text: str, instead: str) -> str:
    return "".join(letter if letter.isprintable() else instead for letter in text)


@dataclass(frozen=True)
class File(ABC):
    """Base of the `Pixels` that are read from one file. A subclass implements `decode`, and may let any error of a library pass."""

    path: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> Array:
        """Return what `decode` does. Raises `ReadError`, whatever a decoder raises."""
        with as_read_error(self.path):
            return self.decode()

    @abstractmethod
    def decode(self) -> Array:
        """Read the array, see `Pixels.read`."""


def stem(path: Path) -> str:
    """Return the file name without its suffix; `.nii.gz` is one suffix, and `.seg.nrrd`."""
    return path.name.removesuffix(suffix_of(path.name))


def suffix_of(name: str) -> str:
    """Return `.nii.gz`, `.seg.nrrd`, or the part of the name from its last dot on."""
    double = next((suffix for suffix in _DOUBLE if name.lower().endswith(suffix)), "")
    return name[-len(double) :] if double else os.path.splitext(name)[1]  # noqa: PTH122 (a third faster)


@contextmanager
def as_read_error(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a damaged file into a `ReadError`."""
    try:
        yield
    except ReadError:
        raise
    except FileNotFoundError:
        raise ReadError(path, "is missing") from None
    except MemoryError as error:
        raise ReadError(path, "does not fit into memory") from error
    except Exception as error:
        raise ReadError(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be opened ({error.strerror})"
    text = _MEMORY_ADDRESS.sub("", first_line(error))
    if "MAX_IMAGE_PIXELS" in text or isinstance(error, Image.DecompressionBombError):
        return "far too large: a decompression bomb?"
    return f"truncated ({text})" if any(word in text.lower() for word in _TRUNCATED) else f"damaged ({text})"


def read_start(path: Path, length: int = -1) -> bytes:
    """Return the first `length` bytes of a file, or all. Raises `ReadError`, also where there are none."""
    with as_read_error(path), path.open("rb") as file:
        data = file.read(length)
    if not data:
        raise ReadError(path, "zero bytes")
    return data


def as_image(path: Path, pixels: Array) -> Array:
    """Return (H, W) as (H, W, 1) and other shapes unchanged, in uint8, uint16 or float32 and contiguous."""
    if pixels.dtype.kind not in "buif":
        raise ReadError(path, f"holds numbers of type {pixels.dtype}; expected gray values")
    if not pixels.size:
        raise ReadError(path, f"holds no pixels ({' x '.join(map(str, pixels.shape))})")
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    native = pixels.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):  # beyond float32 it becomes infinite, which the audit counts
        return np.ascontiguousarray(pixels, native if native in (np.uint8, np.uint16) else np.float32)


def refuse_bomb(path: Path, height: int, width: int) -> None:
    """Raise `ReadError` where a header claims no pixels, or more than `MAX_PIXELS`."""
    if height < 1 or width < 1:
        raise ReadError(path, f"holds no pixels ({height} x {width})")
    if height * width > MAX_PIXELS:
        raise ReadError(path, f"claims {height} x {width} pixels, more than a gigapixel: a decompression bomb?")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises `ReadError`."""
    data = read_start(path)
    try:
        text = data.decode("utf-8-sig")
        return json.loads(text)
    except UnicodeDecodeError:
        raise ReadError(path, "is not JSON: it is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        if not text.strip():
            raise ReadError(path, "is empty") from None
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        raise ReadError(path, f"is {'truncated' if cut else 'not JSON'} ({error.msg}, line {error.lineno})") from None
    except (RecursionError, ValueError) as error:  # a number of thousands of digits
        raise ReadError(path, f"cannot be read ({error})") from error


def read_table(path: Path, needed: Sequence[str] = ()) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read a table as spreadsheets write it: commas, semicolons or tabs; UTF-8, UTF-16 or Latin-1.

    Returns:
        The names of its columns in lower case, and the rows that are not empty: the number of the line, and cells by column.

    Raises:
        ReadError: the file is missing or no table, or a column that is `needed` is missing.
    """
    with as_read_error(path):
        data = path.read_bytes()
    lines = io.StringIO(_decoded(path, data), newline="")
    reader = csv.reader(lines, delimiter=max(",;\t", key=lines.readline().count))
    lines.seek(0)
    try:
        header = [" ".join(_printable(name, " ").split()).lower() for name in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise ReadError(path, f"is not a table of comma-separated values ({error})") from error
    if missing := [name for name in needed if name not in header]:
        found = f"its columns are {few([name[:40] for name in header])}" if any(header) else "the table is empty"
        raise ReadError(path, f"has no column {' and no column '.join(missing)}; {found}")
    blank = [""] * len(header)
    return header, [(line, dict(zip(header, [*cells, *blank], strict=False))) for line, cells in rows if any(cells)]


def _decoded(path: Path, data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if b"\0" in data:
        raise ReadError(path, "is not a table of comma-separated values (it is no text)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
