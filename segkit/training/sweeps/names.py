"""Names for folders that people read: `lr-0.00123_widths-8-16`. No commas, equals signs or brackets, so that they can be typed
behind a key without quotes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LONGEST = 100
"""Bytes: file systems allow 255, and a letter may take four."""


def trial_name(overrides: Mapping[str, str], number: int) -> str:
    """Of the overrides; with the number of the trial where it had to be cut."""
    short = short_keys(list(overrides))
    name = "_".join(f"{short[key]}-{clean(text)}" for key, text in overrides.items())
    tail = f"_trial{number}"
    return name if len(name.encode()) <= LONGEST else name.encode()[: LONGEST - len(tail)].decode(errors="ignore") + tail


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, unless two share it. Without the plus of one that is added."""
    last = [clean(re.split(r"[./]", key.lstrip("+"))[-1]) for key in keys]
    return {key: part if last.count(part) == 1 else clean(key.lstrip("+")) for key, part in zip(keys, last, strict=True)}


def clean(text: str) -> str:
    """Numbers to five digits, everything but letters, digits, dot, minus and underscore as minus."""
    number = re.fullmatch(r"-?\d+\.\d*(e[+-]?\d+)?|-?\d+e[+-]?\d+", text, re.IGNORECASE)
    return re.sub(r"[^\w.-]+", "-", f"{float(text):.5g}" if number else text.strip("[](){}'\" "))


def shown(text: str, most: int = 40) -> str:
    """For a table: as `clean` has numbers, everything else as it was typed, if not too long."""
    short = clean(text) if re.fullmatch(r"[\d.e+-]+", text, re.IGNORECASE) else text
    return short if len(short) <= most else f"{short[: most - 1]}…"
