"""Addresses of databases: as they are kept, and as they are shown."""

from __future__ import annotations

import os
import re
from pathlib import Path

IN_FRONT = re.compile(r"(://[^:/]*):[^@]*@(?:[^/?]*@)?")
"""user:password@, a password with / or @ that should have been written %2F or %40 as well."""
BEHIND = re.compile(r"([?&][^=&]*(?:password|passwd|pwd)=)[^&]*", re.IGNORECASE)


def without_password(text: str) -> str:
    """`text` with *** for the password of an address in it."""
    return BEHIND.sub(r"\1***", IN_FRONT.sub(r"\1:***@", text))


def absolute(storage: str | None) -> str | None:
    """The same journal file, or SQLite's, from any working directory; any other address as it is."""
    if storage is None:
        return None
    if "://" not in storage:
        return _absolute(storage)
    scheme, _, file = storage.partition(":///")
    is_file = scheme.startswith("sqlite") and file and not file.startswith(("/", ":memory:", "file:"))
    return f"{scheme}:///{_absolute(file)}" if is_file else storage


def _absolute(path: str) -> str:
    return str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111  Path's own stops at a ~ that is no user
