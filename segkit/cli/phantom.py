"""`segkit phantom`: write a synthetic data set in the layout of a source."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.config.targets import instantiate
from segkit.data.phantoms.base import write
from segkit.data.sources import is_own, source_name
from segkit.system.errors import SegkitError
from segkit.system.files import check_writable
from segkit.system.progress import console
from segkit.system.shell import override

if TYPE_CHECKING:
    from segkit.config.commands import Phantom


def command(cfg: Phantom) -> int:
    """Write `cfg.n` images in the layout of `cfg.data.source` to a new folder, all of them or none."""
    output = Path(cfg.output).expanduser().absolute()
    fresh = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    if not output.is_file():
        check_writable(output.parent, "choose another  output=FOLDER")
    source = instantiate(cfg.data.source, allow=cfg.allow_targets, root=fresh)
    try:
        write(source, fresh, cfg.n, cfg.seed)
        done = _put(fresh, output)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    console.print(f"{done} {cfg.n} synthetic images in {output}  (seed {cfg.seed})", markup=False)
    choice = source_name(cfg.data.source) if is_own(cfg.data.source) else "NAME"
    console.print(f"train on them with:  segkit train data={choice} {override('data.root', str(cfg.output))}", markup=False)
    return 0


def _put(fresh: Path, output: Path) -> str:
    """Move `fresh` to `output`, unless the very same files lie there already."""
    if output.exists() and not output.is_dir():
        raise SegkitError(f"output={output} is a file;   name a folder")
    if output.is_dir() and any(output.iterdir()):
        if _contents(output) == _contents(fresh):
            return "already there:"
        raise SegkitError(f"output={output} is not empty and holds something else;   name a new folder, or empty this one")
    if output.is_dir():
        output.rmdir()
    fresh.replace(output)
    return "wrote"


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
