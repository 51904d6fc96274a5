"""`segkit phantom`: synthetic data sets, to learn with, to test with, and to try every preset on without a download.

The drawings themselves are in `phantoms/`, one file a kind of image; a source says in which layout they are written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy.typing as npt

from segkit.config.targets import instantiate
from segkit.system.errors import SegkitError
from segkit.system.progress import console

if TYPE_CHECKING:
    from segkit.config.schema import Phantom as PhantomConfig
    from segkit.data.sources import Source

Array = npt.NDArray[Any]

VERSION = 4
"""Raised whenever a drawing changes: it is part of the name of cached phantoms."""
PNG_COMPRESSION = 6


def write_png(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])
    path.write_bytes(data.tobytes())


def refuse_outside(root: Path, name: str | None) -> None:
    """Writing below `root` must stay below it."""
    if name is not None and not (root / name).resolve().is_relative_to(root.resolve()):
        raise SegkitError(f"data.source names {name}, which lies outside {root}: a phantom is written below its own folder only")


MARK = "SYNTHETIC.txt"
"""Lies in every phantom, so that results made of it say so wherever it has been copied to."""


def write(source: Source, root: Path, n: int, seed: int) -> None:
    """A marked phantom in the layout of `source`."""
    for name in ("images_name", "masks_name", "table_name"):  # names come from configs, and from the cards of strangers
        refuse_outside(root, getattr(source, name, None))
    source.write_phantom(root, n, seed)
    (root / MARK).write_text(f"{n} synthetic images drawn by segkit, seed {seed}. Not patients.\n")


def command(cfg: PhantomConfig) -> int:
    """`segkit phantom`: write a synthetic data set in the layout of `cfg.data.source`."""
    output = Path(cfg.output).expanduser().absolute()
    fresh = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    source = instantiate(cfg.data.source, allow=cfg.allow_targets, root=fresh)
    try:
        write(source, fresh, cfg.n, cfg.seed)
        said = _put(fresh, output)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    console.print(f"{said} {cfg.n} synthetic images in {output}  (seed {cfg.seed})", markup=False)
    choice = source_name(cfg.data.source) if is_own(cfg.data.source) else "NAME"
    console.print(f"train on them with:  segkit train data={choice} data.root={cfg.output}", markup=False)
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


def source_name(source: Mapping[str, Any]) -> str:
    """'hc18' for segkit's own sources, whose YAML is called like their module; a class of someone else goes by its name."""
    module, _, name = str(source["_target_"]).rpartition(".")
    return module.rpartition(".")[2] if is_own(source) else name.lower()


def is_own(source: Mapping[str, Any]) -> bool:
    return str(source["_target_"]).startswith("segkit.data.sources.")
