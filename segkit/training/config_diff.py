"""What a config changes: its leaves against segkit's defaults, and configs against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from segkit.config import compose
from segkit.config.search_path import without_user
from segkit.training.config_hash import PLACE_KEYS, flat, is_below

ABSENT = object()
"""The value of a key that a config lacks."""
NAMES = ("name",)
Change = tuple[str, Any, Any]
"""A key, the default, and the value; either may be ABSENT."""


@cache
def defaults() -> dict[str, Any]:
    """The leaves of `segkit train` without a word typed, where the user has no configs."""
    with without_user():
        return dict(flat(compose.compose("train").model_dump(mode="json")))


def changes(config: Mapping[str, Any]) -> list[Change]:
    """What the config of a run sets otherwise than the defaults do, without what only says where it runs."""
    ours = differences([defaults(), dict(flat(config))])
    return [(key, usual, value) for key, (usual, value) in ours.items()]


def differences(leaves: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Key -> its value in each of several configs, flat, where these are not all the same; in the order of the last ones."""
    keys = dict.fromkeys(key for one in reversed(leaves) for key in one)
    values = {key: [one.get(key, ABSENT) for one in leaves] for key in keys if not is_below(key, (*PLACE_KEYS, *NAMES))}
    return {key: found for key, found in values.items() if any(known(value) != known(found[0]) for value in found[1:])}


def known(value: Any) -> Any:
    """The value; none at all is the same as null."""
    return None if value is ABSENT else value


def shown(value: Any) -> str:
    """A value for a table, as it is typed; empty where there is none."""
    if value is ABSENT:
        return ""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return ", ".join(map(shown, value)) if isinstance(value, list | tuple) else str(value)
