"""Names of files as text that every terminal, table and JSON file can hold."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]")


def readable(name: str) -> str:
    """The name of a file with the bytes that are not UTF-8 read as Latin-1, which older systems wrote."""
    return re.sub(r"[\udc80-\udcff]", lambda byte: chr(ord(byte[0]) - 0xDC00), name)


def one_line(text: str) -> str:
    """Text for a message: a line break or another control character in a file's name is written as its escape."""
    return _CONTROL.sub(lambda control: repr(control[0])[1:-1], readable(text))
