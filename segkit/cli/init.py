"""`segkit init`: a small project of the user's own, copied from the files in `segkit/cli/project`."""

from __future__ import annotations

import keyword
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from segkit.system.errors import SegkitError
from segkit.system.files import check_writable
from segkit.system.progress import console

FOLDER = Path(__file__).with_name("project")
PLACEHOLDER = "project_name"
"""In names and contents of the files: the project's package."""
TAKEN = frozenset({*sys.stdlib_module_names, *keyword.kwlist, "segkit", "tests", "conf"})
RENAMED = {"gitignore": ".gitignore"}


def main(words: Sequence[str]) -> None:
    """Write the project that the one word names. Raises `SegkitError` for a name that no package can have, or a folder in use."""
    if len(words) != 1:
        raise SegkitError("needs one name;   segkit init NAME")
    home = Path(words[0]).expanduser()
    package = home.resolve().name.replace("-", "_").lower()
    if not re.fullmatch(r"[a-z]\w*", package, re.ASCII) or package in TAKEN:
        raise SegkitError(f"{words[0]}: {package} cannot be the name of a Python package;   segkit init my_project")
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise SegkitError(f"{home} exists and is not empty;   choose another name")
    check_writable(home, "choose another place")
    for file in sorted(path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        write(file, home, package)
    console.print(f"{home} is written. Next:", markup=False)
    for line in (f"cd {shlex.quote(str(home))}", "segkit train experiment=example", "python -m pytest"):
        console.print(f"  {line}", markup=False, highlight=False)


def write(file: Path, home: Path, package: str) -> None:
    """Copy one file of the template, under the project's name."""
    parts = [RENAMED.get(part, part.replace(PLACEHOLDER, package)) for part in file.relative_to(FOLDER).parts]
    target = home.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(file.read_text(encoding="utf-8").replace(PLACEHOLDER, package), encoding="utf-8")
