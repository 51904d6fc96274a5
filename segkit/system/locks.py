"""Locks on files, by which processes on every machine that shares a folder exclude each other; the kernel frees them with their process."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from segkit.system.errors import SegkitError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

UNSUPPORTED = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
BUSY = frozenset({errno.EAGAIN, errno.EACCES})


class NoLocks(SegkitError):
    """The file system has no locks."""

    def __init__(self, path: Path, error: OSError | None = None) -> None:
        reason = error.strerror if error else "this system has none"
        what = f"{path.parent}: no file locks here ({reason}), by which the processes of a sweep share its trials"
        super().__init__(f"{what};   choose a folder on another disk:  output_dir=FOLDER")


def flock(file: IO[str], path: Path, wait: bool = True) -> None:
    """Lock an open file for this process and those forked from it. Raises `NoLocks`, or `BlockingIOError` rather than wait."""
    if fcntl is None:
        raise NoLocks(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in UNSUPPORTED:
            raise NoLocks(path, error) from error
        raise


def opened(path: Path) -> IO[str]:
    """The file of a lock. Raises `SegkitError` where its folder is gone: a new one would hold nothing else."""
    try:
        return path.open("w")
    except FileNotFoundError as error:
        raise SegkitError(f"{path.parent} has been deleted or moved while it was in use;   start again") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Exclude all other processes, on every machine that shares the folder."""
    with opened(path) as file:
        flock(file, path)
        yield


def try_lock(path: Path, seconds: float = 0.0) -> IO[str] | None:
    """The open file that holds the lock while this process, or one forked from it, keeps it open; None if locked for over `seconds`."""
    file, until = opened(path), time.monotonic() + seconds
    while True:
        try:
            flock(file, path, wait=False)
            return file
        except BlockingIOError:
            if time.monotonic() >= until:
                file.close()
                return None
        except BaseException:
            file.close()
            raise
        time.sleep(0.05)


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock; assumed where this cannot be found out."""
    try:
        lock = try_lock(path) if path.exists() else None
    except (OSError, NoLocks):
        return True
    if lock:
        lock.close()
    return path.exists() and lock is None


def own(path: Path) -> IO[str] | None:
    """The open file that holds the lock for this process alone: forked loader processes, which outlive a kill, do not inherit it.

    None while another process holds it. On a file system without locks nothing is locked.
    """
    file = path.open("a")
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            file.close()
            return None
        if error.errno not in UNSUPPORTED:
            file.close()
            raise
    return file
