"""Sweeps on disk: `outputs/EXPERIMENT/sweeps/NAME/`, known by its sweep.json, with a run folder a trial."""

from __future__ import annotations

from pathlib import Path

from segkit.system.errors import SegkitError, nearest


def find_sweep(text: str, output_dir: Path = Path("outputs")) -> Path:
    """The folder that NAME, EXPERIMENT/NAME or a path means. Raises `SegkitError` where there is none, or several."""
    if (Path(text).expanduser() / "sweep.json").exists():
        return Path(text).expanduser()
    known = {f"{folder.parents[1].name}/{folder.name}": folder for folder in all_sweeps(output_dir)}
    found = [name for name in known if text in (name, name.partition("/")[2])]
    if len(found) > 1:
        raise SegkitError(f"{len(found)} sweeps are called {text};   say which: {', '.join(found)}")
    if not found:
        names = [*known, *(name.partition("/")[2] for name in known)]
        hint = nearest(text, names) or (f"there is {', '.join(known)}" if known else f"there is none in {output_dir}")
        raise SegkitError(f"there is no sweep {text}; {hint}")
    return known[found[0]]


def all_sweeps(output_dir: Path) -> list[Path]:
    return sorted(path.parent for path in output_dir.glob("*/sweeps/*/sweep.json"))
