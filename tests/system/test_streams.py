"""A stream that is closed, full, or of a poor encoding never ends a command with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PRINTS = (
    "import sys; from segkit.system import streams; streams.prepare()\n"
    "for i in range(20_000): print(i, '\\u2026 \\u2265')\n"
    "sys.stdout.flush(); print('ended', file=sys.stderr); sys.exit(bool(streams.UNWRITABLE))"
)


def run(redirection: str, code: str = PRINTS, **env: str) -> subprocess.CompletedProcess[str]:
    line = f'"{sys.executable}" -c "$CODE" {redirection}'
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env={**os.environ, "CODE": code, **env})


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = run("| head -1")
    assert (done.stdout[:1], done.stderr) == ("0", "ended\n")


def test_streams_closed_by_the_parent_are_not_taken_for_files(tmp_path: Path) -> None:
    """Descriptor 1 would be the next file that is opened."""
    done = run(f"<&- >&- 2>{tmp_path / 'err'}")
    assert done.returncode == 0
    assert (tmp_path / "err").read_text() == "ended\n"
    assert run("<&- >&- 2>&-").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_to_a_full_disk_is_one_line_and_an_exit_code() -> None:
    done = run(">/dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "segkit: standard output cannot be written: No space left on device;   choose another file",
        "ended",
    ]


def test_symbols_that_an_encoding_lacks_are_printed_as_numbers() -> None:
    done = run("| head -1", PYTHONIOENCODING="ascii")
    assert done.stdout == "0 \\u2026 \\u2265\n"
