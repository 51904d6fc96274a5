"""Files of weights from other machines: downloaded once, checked, and kept in a cache. A server is trusted with nothing."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from segkit.models.weights.files import CHUNK, is_web_page
from segkit.system.errors import SegkitError, first_line
from segkit.system.files import flush_to_disk, sha256_of
from segkit.system.progress import track

if sys.platform != "win32":
    import fcntl

TIMEOUT_SECONDS = 30.0
LARGEST, SLOWEST = 2**36, 1000
"""Bytes in all, and bytes a second over the whole of it."""
RANGE_NOT_SATISFIABLE, PARTIAL = 416, 206


def fetch(url: str, sha256: str | None = None) -> Path:
    """Return the local copy of a file in the cache, SEGKIT_CACHE (else ~/.cache/segkit), and download it where it is missing.

    An interrupted download is resumed, if the file is still the same one: `If-Range` with the server's own mark (RFC 9110,
    section 13.1.5).

    Args:
        url: http, https or file.
        sha256: what the file must hash to; the copy is used again while its hash is right.

    Raises:
        SegkitError: it cannot be downloaded (with the place to put the file by hand), or it is another file, which is removed.
    """
    path = place(url)
    if _is_cached(path, sha256):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegkitError(
            f"{path.parent} cannot be written to: {error.strerror};   choose another folder with  SEGKIT_CACHE=DIR"
        ) from error
    with _one_at_a_time(path):
        if not _is_cached(path, sha256):
            _fetch(url, sha256, path)
    return path


def _is_cached(path: Path, sha256: str | None) -> bool:
    return path.is_file() and (sha256 is None or sha256_of(path) == sha256.lower())


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """The jobs of a sweep may all start by downloading the same file; the others wait for the first."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        if sys.platform != "win32":
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(url: str, sha256: str | None, path: Path) -> None:
    part, mark = (path.with_name(f"{path.name}{ending}") for ending in (".part", ".part.mark"))
    must = f"; its sha256 must be {sha256.lower()}" if sha256 else ""
    by_hand = f"\n  get the file by other means and put it at  {path}{must}"
    try:
        total = _download(url, part, mark)
    except (OSError, HTTPException, ValueError) as error:
        raise SegkitError(f"{url} cannot be downloaded: {first_line(error)}{by_hand}") from error
    size = part.stat().st_size
    if total is not None and size < total:
        raise SegkitError(f"{url} was interrupted after {size:,} of {total:,} bytes;   run it again to resume")
    mark.unlink(missing_ok=True)
    with part.open("rb") as file:
        is_page = is_web_page(file.read(512))
    found = sha256_of(part)
    if is_page or (sha256 is not None and found != sha256.lower()):
        part.unlink()
    if is_page:
        raise SegkitError(f"{url} answers with a web page, not weights: the download needs a login or has moved{by_hand}")
    if sha256 is not None and found != sha256.lower():
        raise SegkitError(f"{url} gives a file with sha256 {found}, not {sha256.lower()}; it was removed")
    flush_to_disk(part)
    part.replace(path)


def place(url: str) -> Path:
    """The path of a URL in the cache. Different URLs have different paths, whatever the files are called."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SegkitError(f"{url} is no address: {error}") from error
    if parts.scheme not in ("http", "https", "file"):
        raise SegkitError(f"{url}: http, https and file addresses can be fetched;   give a path for a file")
    last = re.sub(r"[^\w.-]", "_", unquote(parts.path).rpartition("/")[2]).lstrip(".")[-100:] or "weights"
    cache = Path(os.environ.get("SEGKIT_CACHE") or Path.home() / ".cache" / "segkit").expanduser()
    return cache / "weights" / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{last}"


def _download(url: str, part: Path, mark: Path) -> int | None:
    """Append to `part`, or start it again. `mark` keeps the server's mark of the file. Returns the whole length, if it gives it."""
    have = part.stat().st_size if part.is_file() else 0
    known = mark.read_text() if mark.is_file() else ""
    headers = {"User-Agent": "segkit"} | ({"Range": f"bytes={have}-", "If-Range": known} if have and known else {})
    try:
        with answer(Request(url, headers=headers)) as response:
            start = have if "Range" in headers and response.status == PARTIAL else 0
            length, etag = response.headers.get("Content-Length"), response.headers.get("ETag", "")
            total = start + int(length) if length else None
            # a weak mark, or none, does not tell two states of the file apart: then nothing is resumed
            mark.write_text(response.headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag)
            n = -(-(total - start) // CHUNK) if total else None
            with part.open("ab" if start else "wb") as file:
                for chunk in track(arriving(response, total), f"downloading {part.stem}, MiB", n):
                    file.write(chunk)
            return total
    except HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE or "Range" not in headers:
            raise
    part.unlink()  # as long as the file, or longer: not a part of it
    return _download(url, part, mark)


def answer(request: Request) -> Any:
    """Return the response to a request. OSError where its headers have not come after a minute: a timeout alone begins with each byte."""
    came: SimpleQueue[Any] = SimpleQueue()

    def ask() -> None:
        try:
            came.put(urlopen(request, timeout=TIMEOUT_SECONDS))
        except BaseException as error:
            came.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        response = came.get(timeout=2 * TIMEOUT_SECONDS)
    except Empty:
        raise OSError(f"there was no answer within {2 * TIMEOUT_SECONDS:.0f} s") from None
    if isinstance(response, BaseException):
        raise response
    return response


def arriving(response: Any, total: int | None) -> Iterator[bytes]:
    """Yield what arrives, about `CHUNK` bytes at a time. OSError where it does not end, or hardly moves."""
    have, since, parts = 0, time.monotonic(), bytearray()
    while data := response.read1(CHUNK):
        have, parts = have + len(data), parts + data
        if max(have, total or 0) > LARGEST:
            raise OSError(f"it is larger than {LARGEST:,} bytes, or never ends")
        if (passed := time.monotonic() - since) > TIMEOUT_SECONDS and have < SLOWEST * passed:
            raise OSError(f"fewer than {SLOWEST} bytes a second arrive")
        if len(parts) >= CHUNK:
            yield bytes(parts)
            parts = bytearray()
    yield bytes(parts)
