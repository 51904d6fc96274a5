"""Overrides as a user types them: quoted for Hydra's grammar, and then for the shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

_PLAIN = re.compile(r"[A-Za-z_/.*@?|+%][\w\-/.*@?|+%:]*", re.ASCII)
"""Text that Hydra takes as it is. What begins with a digit could be a number, and 012 would lose its zero."""
_WORDS = ("null", "true", "false", "inf", "nan")
_SAFE = re.compile(r"[\w\-/.@+%:,=]*", re.ASCII)
"""Text in which no shell sees anything special."""


def override(key: str, value: str | bool | float | Sequence[str | float] | Mapping[str, str] | None) -> str:
    """`key=value`, complete, as typed in a shell: `"data.source.group='^(\\d+)_'"`."""
    return argument(key, _value(value))


def argument(key: str, text: str) -> str:
    """The same of a value that is written in Hydra's grammar already, such as `[0,1]` or `{0: background}`."""
    if _SAFE.fullmatch(text):
        return f"{key}={text}"
    if "'" not in text:
        return f"{key}='{text}'"
    typed = f"{key}={text}"
    return shlex.quote(typed) if re.search(r'["$`!]|\\\\|\\$', typed) else f'"{typed}"'


def _value(value: str | bool | float | Sequence[str | float] | Mapping[str, str] | None) -> str:
    if isinstance(value, str):
        return _plain(value, "'")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_plain(word, chr(34))}" for name, word in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(_plain(word, '"') if isinstance(word, str) else f"{word}" for word in value) + "]"
    return "null" if value is None else str(value).lower()


def _plain(text: str, mark: str) -> str:
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else quoted(text, mark)


def quoted(text: str, mark: str) -> str:
    """Text between quotes of Hydra's grammar: backslashes count only before a quote, and `${` would be an interpolation."""
    escaped = re.sub(rf"(\\*)({mark}|$)", lambda found: found[1] * 2 + ("\\" + mark) * bool(found[2]), text)
    return f"{mark}{escaped.replace('${', chr(92) + '${')}{mark}"
