"""Files that are the old one or the new one, never half of one: write beside it, flush to disk, swap the names."""

from __future__ import annotations

import atexit
import csv
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp

from segkit.system.errors import DiskFull, SegkitError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space left, quota used up, file-size limit reached."""
NEARLY_NOTHING = 64 * 1024

CACHE = Path("outputs") / ".cache"
"""Phantoms, audits, decoded images: all can be made again at any time. A training keeps its own below its `output_dir`."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written to it becomes `path` when the block ends well.

    The name ends in `.tmp`, so the writer must be given its format. On any failure the temporary file is removed and the old one
    stays as it was; a full disk raises `DiskFull`, and a name that is too long `SegkitError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the process id alone: containers that share a folder may have the same
    start = path.name.encode(errors="ignore")[:200].decode(errors="ignore")  # a name has 255 bytes at most
    temporary = path.with_name(f".{start}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        flush_to_disk(temporary)
        temporary.replace(path)
    except BaseException as error:
        full = is_full(error, path.parent)  # asked before the removal frees what was written
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            n = len(os.fsencode(path.name))
            raise SegkitError(f"the name {path.name[:20]}…{path.name[-20:]} has {n} bytes, too many for a disk;   shorten it") from error
        if full:
            old = "the previous file is intact" if path.exists() else "nothing was kept"
            raise DiskFull(f"disk full while writing {path}; {old};   free some space and run it again") from error
        raise
    flush_to_disk(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    write_bytes_atomic(path, text.encode(errors="backslashreplace"))


def write_csv_atomic(path: Path, rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text_atomic(path, text.getvalue())


def write_bytes_atomic(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text_if_new(path: Path, text: str) -> bool:
    """Whether there was no such file. Of any number of jobs that ask at once only one hears so, and none reads half of it."""
    whole = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    write_text_atomic(whole, text)
    try:
        path.hardlink_to(whole)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: a reader may meet an empty file for a moment
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        whole.unlink()
    return True


def check_writable(folder: Path, fix: str) -> None:
    """Raise SegkitError unless files can be made in `folder`, which need not exist yet. Tried with a temporary file: permission bits
    alone do not decide it, least of all for root."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        what = f"{there} is a file" if there.is_file() else error.strerror or str(error)
        raise SegkitError(f"nothing can be written to {folder}: {what};   {fix}") from error


def cache_folder() -> Path:
    """`CACHE`; where the working folder cannot be written, a temporary folder that is removed when the process ends."""
    try:
        check_writable(CACHE, "")
    except SegkitError:
        folder = mkdtemp(prefix="segkit-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)
    return CACHE


def remove_leftovers(folder: Path) -> int:
    """Delete what killed writers left in `folder` (not below it); how many. Not while others write there."""
    leftovers = list(folder.glob(".*.tmp"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)


def flush_to_disk(path: Path) -> None:
    """fsync of a file or, so that a new name survives a power cut, of a folder (where the file system can)."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def is_full(error: BaseException, folder: Path) -> bool:
    """Some writers (torch, OpenCV) turn 'no space left' into an error of their own, so the disk is asked as well."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return isinstance(error, Exception) and shutil.disk_usage(folder).free < NEARLY_NOTHING


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Natural = tuple[tuple[int, int, str], ...]


def natural(text: str) -> Natural:
    """Sort key that puts 1 before 10: digits compare as numbers, the rest as text."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part)
