"""Annotations in JSON: reading the file, the images that it names, and what sources of such files say of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

from segkit.data.case import relative
from segkit.system.errors import Problem, Severity


class JsonSource:
    """What sources of such files have in common: problems, files below root, and patients in the names of cases.

    `group` is a regular expression searched in the id of a case; its first group (or the whole match) is the patient.
    """

    def __init__(self, root: Path, group: str | None) -> None:
        self.root, self.group = Path(root), group
        self.problems: list[Problem] = []
        self._repeated: dict[str, list[Problem]] = {}

    def _file(self, where: str, name: Any, folder: Path) -> Path | None:
        """The image that a JSON file names relative to `folder`; None, and told, where it is missing or leads out of root."""
        if not isinstance(name, str) or not name:
            self._say(where, "names no image", "name it, or remove the entry")
            return None
        try:
            for path in _places(name, folder):
                if not self._is_below(path):
                    fix = "put the file itself below data.root, or set data.root to a folder above all files"
                    self._say(where, f"names {name}, which leads out of data.root to {path.resolve()}", fix)
                    return None
                if path.is_file():
                    return _tidy(path)
        except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have, a link to itself
            self._say(where, f"names {name[:80]!r}, which cannot be opened ({error})", "fix the name")
            return None
        self._say(where, f"names {name}, which is missing", f"put it into {self._shown(folder)}, or fix the name")
        return None

    def _is_below(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())

    def _pattern(self) -> re.Pattern[str] | None:
        try:
            return re.compile(self.group) if self.group else None
        except re.error as error:
            self._say("data.source.group", f"{self.group!r} is no regular expression ({error})", "e.g. '^(\\d+)_'")
            return None

    def _group_of(self, id_: str, pattern: re.Pattern[str] | None) -> str:
        match = pattern.search(id_) if pattern else None
        if pattern and match is None:
            self._say("data.source.group", f"{self.group!r} does not match {id_!r}", "every case needs a group, or none")
        return str(match.group(1) if match.re.groups else match.group(0)) if match else ""

    def _shown(self, path: Path) -> str:
        shown = relative(path, self.root)
        return str(path) if shown == "." else shown

    def _say(self, where: str, what: str, fix: str = "", severity: Severity = "error") -> None:
        self.problems.append(Problem(where, what, fix, severity))

    def _warn(self, kind: str, where: str, what: str, fix: str) -> None:
        """Warnings of one kind are told together, by `_tell_warnings`."""
        self._repeated.setdefault(kind, []).append(Problem(where, what, fix, "warning"))

    def _tell_warnings(self) -> None:
        for problems in self._repeated.values():
            more = f" (the same in {len(problems) - 1} more)" if len(problems) > 1 else ""
            self.problems.append(replace(problems[0], what=problems[0].what + more))
        self._repeated.clear()


def _places(name: str, folder: Path) -> Iterator[Path]:
    """Where the file may be: as written, and as Windows writes it. Drives of another computer say nothing, the name does."""
    windows = PureWindowsPath(name)
    if windows.drive:
        yield folder / windows.name
        return
    yield folder / name
    if "\\" in name:
        yield folder / windows.as_posix()


def _tidy(path: Path) -> Path:
    """Without `..`, if that is the same file: behind a symbolic link it need not be."""
    short = Path(os.path.normpath(path))
    return short if short.is_file() and short.samefile(path) else path
