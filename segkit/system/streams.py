"""Standard streams that never end a command: closed ones, a pipe whose reader has gone, an encoding without the symbol."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

UNWRITABLE: set[int] = set()
"""Streams whose output is lost because their disk is full."""


class Stream(io.FileIO):
    """Output that goes nowhere once it cannot be written: whoever closes `segkit … | head` does not end the training behind it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            number = self.fileno()
            point_nowhere(number)
            if not isinstance(error, BrokenPipeError):
                UNWRITABLE.add(number)
                what = f"standard output cannot be written: {error.strerror};   choose another file"
                print(f"segkit: {what}", file=sys.stderr, flush=True)
            return len(data)


def prepare() -> None:
    """Make the streams of this process safe to print to, also those that its parent has closed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # else the next file opened would be standard output
        os.set_inheritable(number, True)
    os.close(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        known = getattr(sys, name)
        if known is not None:
            known.flush()
        setattr(sys, name, opened(number, getattr(known, "encoding", None) or "utf-8"))
    if os.environ.get("COLUMNS") == "0":  # of a terminal without a size: nothing would fit
        del os.environ["COLUMNS"]
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123  as long as the process


def has_folder() -> bool:
    """Whether the current folder exists."""
    try:
        return Path.cwd().is_dir()
    except OSError:
        return False


def opened(number: int, encoding: str) -> io.TextIOWrapper:
    """Text output to a descriptor; a symbol that the encoding lacks is printed as its number."""
    raw = Stream(number, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=raw.isatty() or number == 2)


def point_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
