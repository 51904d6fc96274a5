"""Names of sweeps and of their trials' folders, and how a sweep is found by its name. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segkit.system.errors import SegkitError, nearest

MAX_BYTES = 100
"""Longest name of a folder: file systems allow 255 bytes, and a letter may take four."""


def find_sweep(text: str, output_dir: Path = Path("outputs")) -> Path:
    """The folder that NAME, EXPERIMENT/NAME, a path, or an EXPERIMENT of one sweep means.

    Raises `SegkitError` where it is missing or ambiguous.
    """
    if (Path(text).expanduser() / "sweep.json").exists():
        return Path(text).expanduser()
    known = {f"{folder.parents[1].name}/{folder.name}": folder for folder in all_sweeps(output_dir)}
    found = [name for name in known if text in (name, name.partition("/")[2])] or [name for name in known if text == name.partition("/")[0]]
    if len(found) > 1:
        raise SegkitError(f"{len(found)} sweeps are called {text}, or of this experiment;   say which: {', '.join(found)}")
    if not found:
        names = [*known, *(name.partition("/")[2] for name in known)]
        hint = nearest(text, names) or (f"available: {', '.join(known)}" if known else f"{output_dir} holds none")
        raise SegkitError(f"there is no sweep {text}; {hint}")
    return known[found[0]]


def all_sweeps(output_dir: Path) -> list[Path]:
    """Every `outputs/EXPERIMENT/sweeps/NAME/` that has a sweep.json."""
    return sorted(path.parent for path in output_dir.glob("*/sweeps/*/sweep.json"))


def trial_name(overrides: Mapping[str, str], number: int) -> str:
    """A folder name such as `lr-0.00123_widths-8-16`, with the trial's number where it had to be cut.

    It has no commas, equals signs or brackets, so that it can be typed behind a key without quotes.
    """
    short = short_keys(list(overrides))
    name = "_".join(f"{short[key]}-{clean(text)}" for key, text in overrides.items())
    tail = f"_trial{number}"
    return name if len(name.encode()) <= MAX_BYTES else name.encode()[: MAX_BYTES - len(tail)].decode(errors="ignore") + tail


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, unless two share it; without the plus of an added key."""
    last = [clean(re.split(r"[./]", key.lstrip("+"))[-1]) for key in keys]
    return {key: part if last.count(part) == 1 else clean(key.lstrip("+")) for key, part in zip(keys, last, strict=True)}


def clean(text: str) -> str:
    """Numbers to five digits; anything but letters, digits, dot, minus and underscore becomes a minus."""
    number = re.fullmatch(r"-?\d+\.\d*(e[+-]?\d+)?|-?\d+e[+-]?\d+", text, re.IGNORECASE)
    return re.sub(r"[^\w.-]+", "-", f"{float(text):.5g}".replace("+", "") if number else text.strip("[](){}'\" "))


def shown(text: str, limit: int = 40) -> str:
    """A value for a table: numbers as in `clean`, anything else as typed, shortened to `limit` characters."""
    short = clean(text) if re.fullmatch(r"[\d.e+-]+", text, re.IGNORECASE) else text
    return short if len(short) <= limit else f"{short[: limit - 1]}…"
