"""Locks of processes on files, and file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segkit.system.errors import SegkitError
from segkit.system.locks import NoLocks, is_locked, locked, own, try_lock

HOLD = "import sys; from pathlib import Path; from segkit.system.locks import *; held = {}(Path({!r})); print(bool(held), flush=True); {}"


def holder(kind: str, path: Path, then: str = "sys.stdin.read()") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD.format(kind, str(path), then)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "True\n"
    return process


@pytest.mark.parametrize(("kind", "attempt"), [("try_lock", try_lock), ("own", own)])
def test_one_process_at_a_time_until_it_is_killed(kind: str, attempt: Any, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder(kind, path)
    assert attempt(path) is None
    process.kill()
    process.wait()
    assert attempt(path)
    assert not is_locked(tmp_path / "missing")


def test_a_process_forked_from_the_owner_does_not_hold_its_lock(tmp_path: Path) -> None:
    """As loader workers, which live for seconds after a kill."""
    process = holder("own", tmp_path / "lock", "import os, time; print(os.fork() or time.sleep(60), flush=True)")
    assert process.stdout
    forked = int(process.stdout.readline())
    process.wait()
    try:
        assert own(tmp_path / "lock")
    finally:
        os.kill(forked, signal.SIGKILL)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep cannot do without; a single training can."""

    def none(*args: object) -> None:
        raise OSError(code, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(fcntl, "lockf", none)
    for attempt in (lambda: try_lock(tmp_path / "a"), lambda: locked(tmp_path / "b").__enter__()):
        with pytest.raises(NoLocks, match=r"no file locks here \(No locks available\).*output_dir=FOLDER"):
            attempt()
    (tmp_path / "c").touch()
    assert is_locked(tmp_path / "c")
    assert own(tmp_path / "d")


def test_a_folder_that_is_gone_does_not_come_back(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match="gone has been deleted or moved while it was in use"):
        try_lock(tmp_path / "gone" / "lock")
