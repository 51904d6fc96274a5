"""Files of weights from the web, once: resumed where a line breaks, checked, and kept in the cache.

The cache is SEGKIT_CACHE, else ~/.cache/segkit. A resumed download asks for the rest only if the file is still the same one:
`If-Range` with the server's own mark (RFC 9110, section 13.1.5).
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from segkit.models.weights.files import is_web_page
from segkit.system.errors import SegkitError, first_line
from segkit.system.files import flush_to_disk, sha256_of
from segkit.system.progress import track

if sys.platform != "win32":
    import fcntl

CHUNK = 2**20
TIMEOUT_SECONDS = 30.0
RANGE_NOT_SATISFIABLE, PARTIAL = 416, 206


def fetch(url: str, sha256: str | None = None) -> Path:
    """The local copy of `url` (http, https or file) in the cache; not fetched again while its hash is right.

    SegkitError says where to put the file by hand. A part of it is kept to go on from, a wrong file is removed.
    """
    path = place(url)
    if _is_there(path, sha256):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegkitError(f"{path.parent} cannot be written to: {error.strerror};   say another folder with  SEGKIT_CACHE=DIR") from error
    with _one_at_a_time(path):
        if not _is_there(path, sha256):
            _fetch(url, sha256, path)
    return path


def _is_there(path: Path, sha256: str | None) -> bool:
    return path.is_file() and (sha256 is None or sha256_of(path) == sha256.lower())


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """The jobs of a sweep may all start by fetching the same file; the others wait for the first."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        if sys.platform != "win32":
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(url: str, sha256: str | None, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        total = _download(url, part)
    except (OSError, HTTPException, ValueError) as error:
        raise SegkitError(f"{url} cannot be had: {first_line(error)}{_by_hand(path, sha256)}") from error
    _check(part, url, total, sha256, path)
    flush_to_disk(part)
    part.replace(path)
    _mark(part).unlink(missing_ok=True)


def place(url: str) -> Path:
    """Where in the cache a URL belongs. Different URLs have different places, whatever the files are called."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "file"):
        raise SegkitError(f"{url}: http, https and file addresses can be fetched;   give a path for a file")
    last = re.sub(r"[^\w.-]", "_", unquote(parts.path).rpartition("/")[2]).lstrip(".")[-100:] or "weights"
    cache = Path(os.environ.get("SEGKIT_CACHE") or Path.home() / ".cache" / "segkit").expanduser()
    return cache / "weights" / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{last}"


def _download(url: str, part: Path) -> int | None:
    """Append to `part`, or write it anew. The whole length, as far as the server tells."""
    there = part.stat().st_size if part.is_file() else 0
    mark = _mark(part).read_text() if _mark(part).is_file() else ""
    headers = {"User-Agent": "segkit"} | ({"Range": f"bytes={there}-", "If-Range": mark} if there and mark else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as response:
            goes_on = "Range" in headers and response.status == PARTIAL
            return _write(response, part, there if goes_on else 0)
    except HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE or "Range" not in headers:
            raise
    part.unlink()  # as long as the file, or longer: not a part of it
    return _download(url, part)


def _write(response: HTTPResponse, part: Path, start: int) -> int | None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    _mark(part).write_text(_validator(response))
    name = part.name.removesuffix(".part")
    with part.open("ab" if start else "wb") as file:
        for chunk in track(_chunks(response), f"downloading {name}, MiB", -(-(total - start) // CHUNK) if total else None):
            file.write(chunk)
    return total


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    while chunk := response.read(CHUNK):
        yield chunk


def _validator(response: HTTPResponse) -> str:
    """A strong mark of the file's state; '' where the server gives none, then nothing is resumed."""
    etag = response.headers.get("ETag", "")
    return response.headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag


def _mark(part: Path) -> Path:
    return part.with_name(f"{part.name}.mark")


def _check(part: Path, url: str, total: int | None, sha256: str | None, path: Path) -> None:
    """SegkitError unless all of it came, and it is what was meant."""
    size = part.stat().st_size
    if total is not None and size < total:
        raise SegkitError(f"{url} broke off after {size:,} of {total:,} bytes;   run it again to go on from there")
    with part.open("rb") as file:
        is_page = is_web_page(file.read(512))
    found = sha256_of(part)
    if is_page or (sha256 is not None and found != sha256.lower()):
        part.unlink()
        _mark(part).unlink(missing_ok=True)
    if is_page:
        raise SegkitError(f"{url} answers with a web page, not weights: the download needs a login or has moved{_by_hand(path, sha256)}")
    if sha256 is not None and found != sha256.lower():
        raise SegkitError(f"{url} gives a file with sha256 {found}, not {sha256.lower()}; it was removed")


def _by_hand(path: Path, sha256: str | None) -> str:
    must = f"; its sha256 must be {sha256.lower()}" if sha256 else ""
    return f"\n  get the file by other means and put it at  {path}{must}"
