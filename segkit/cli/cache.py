"""`segkit cache`: show what is kept below output_dir/.cache, and free it with `clear=true`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from segkit.config import commands
from segkit.system.files import CACHE
from segkit.system.progress import console

KINDS = {"arrays": "decoded images", "facts-": "case statistics", "phantom-": "phantoms"}
"""By the prefix of their names; nothing else in the folder is removed."""


def command(cfg: commands.Cache) -> int:
    folder = Path(cfg.output_dir) / CACHE.name
    kept = {what: _kept_in(folder, prefix) for prefix, what in KINDS.items()}
    for what, paths in kept.items():
        n = sum(len(list(path.iterdir())) if path.name == "arrays" else 1 for path in paths)
        console.print(f"  {what:<16} {n:>7}   {size_of(paths) / 1e9:8.3f} GB", highlight=False)
    everything = [path for paths in kept.values() for path in paths]
    if not cfg.clear:
        console.print(f"in {folder};   free it with  segkit cache clear=true  (all is made again when it is needed)", markup=False)
        return 0
    before = size_of(everything)
    for path in everything:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    console.print(f"freed {(before - size_of(everything)) / 1e9:.3f} GB in {folder}", markup=False)
    return 0


def _kept_in(folder: Path, prefix: str) -> list[Path]:
    """Entries of one kind, also half-written ones."""
    return [path for path in folder.glob("*") if path.name.lstrip(".").startswith(prefix)]


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of files and of everything below folders; links are not followed."""
    total = 0
    for path in paths:
        if path.is_symlink():
            continue
        total += size_of(path.iterdir()) if path.is_dir() else path.stat().st_size if path.is_file() else 0
    return total
