"""The process of one trial, forked from a parent that has imported everything: what it prints and how it fails stays in its folder."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import psutil

from segkit.system.errors import DiskFull
from segkit.system.files import is_full

FAILED, NO_SPACE, INTERRUPTED = 1, 28, 130
STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_held() -> Iterator[None]:
    """While a trial is forked: Python forgets a signal that comes between the fork and its own first steps in the child.

    The child lets it come as soon as it can leave properly: see `run_apart`.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def identity(pid: int) -> str:
    """What tells a process from a later one of the same id, whatever happens to the clock; empty where no such process runs."""
    try:
        if sys.platform != "linux":
            return str(psutil.Process(pid).create_time())
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except (OSError, psutil.NoSuchProcess):
        return ""
    return "" if state in "ZX" else f"{boot} {fields[18]}"  # ticks from the start of the machine to that of the process


def run_apart(work: Callable[[], None], folder: Path, parent: int) -> None:
    """Leaves with 0, or with 1 and traceback.txt, or with 28 where the disk is full. Everything printed goes to console.txt."""
    try:
        die_with(parent)
        with redirected(folder / "console.txt"), leaving_traceback(folder):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            work()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BaseException as error:
        sys.exit(NO_SPACE if isinstance(error, DiskFull) or is_full(error, folder) else FAILED)


@contextmanager
def leaving_traceback(folder: Path) -> Iterator[None]:
    (folder / "traceback.txt").unlink(missing_ok=True)
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        with suppress(OSError):  # the disk may be full
            (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        raise


def die_with(parent: int) -> None:
    """On Linux the kernel sends SIGTERM when the parent dies, by kill -9 too, upon which a training writes its checkpoint.

    Elsewhere an orphan runs to its end, which the next start of the sweep finds.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(INTERRUPTED)


@contextmanager
def redirected(path: Path) -> Iterator[None]:
    """Redirect the output of this process and its children to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    with path.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for old, now in zip(before, (1, 2), strict=True):
            os.dup2(old, now)
            os.close(old)


def last_line(folder: Path) -> str:
    """The error that a trial's traceback ends with, the first line of its message; empty without a traceback."""
    path = folder / "traceback.txt"
    lines = path.read_text(encoding="utf-8").strip().splitlines() if path.exists() else []
    errors = [line for before, line in pairwise(lines) if before.startswith(" ") and not line.startswith(" ")]
    return (errors or lines or [""])[-1].strip()
