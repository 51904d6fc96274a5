"""Keys that only make sense together: ends of ranges in order, numbers by axis, keys that another key switches on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segkit.config.schema import Preprocess, Split
from segkit.system.errors import Problem, ProblemsFound

KEY, FOLD = "folds", "split.fold"
LEVEL_AND_WIDTH = "level L and width W are [L-W/2, L+W/2]"
CKPT_PATH = "ckpt_path"
RESUME = ("has other names here", "resume=RUN  continues a run,  init_from=RUN  starts a new one from its weights")
NOT_NEGATIVE = ("lr", "weight_decay", "momentum", "eps")
"""Keys of an optimizer."""
BY_AXIS = ("preprocess.size", "preprocess.spacing_mm", "inference.window")
"""Keys with a number for each axis."""


def check_ranges(container: Mapping[str, Any]) -> list[Problem]:
    """What is wrong between the keys of a training's config, each of which may be right by itself."""
    preprocess = _section(container, "preprocess")
    return [
        *_window(preprocess),
        *_percentiles(preprocess),
        *_axes(container),
        *_tags(container),
        *_rates(container),
        *_elsewhere(container),
    ]


def _elsewhere(container: Mapping[str, Any]) -> list[Problem]:
    """A key of Lightning's command lines that a `+` would add as one of the user's own, and nothing would read."""
    return [Problem(CKPT_PATH, *RESUME)] if _section(container, "own").get(CKPT_PATH) is not None else []


def _rates(container: Mapping[str, Any]) -> list[Problem]:
    """No optimizer takes less than 0, but each says so only when it is built: in a sweep after the trials before it."""
    optimizer = _section(container, "optimizer")
    given = {f"optimizer.{name}": optimizer.get(name) for name in NOT_NEGATIVE}
    negative = {key: value for key, value in given.items() if isinstance(value, int | float) and value < 0 and math.isfinite(value)}
    return [
        Problem(key, f"needs at least 0, got {value:g}", f"add  {key}={-value:g}" if value > -1 else "")  # a minus before what was meant
        for key, value in negative.items()
    ]


def _tags(container: Mapping[str, Any]) -> list[Problem]:
    if container.get("tags") or not _section(container, "extras").get("enforce_tags"):
        return []
    return [Problem("tags", "is needed with extras.enforce_tags=true", "add  'tags=[dev]'")]


def _section(container: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = container.get(name)
    return found if isinstance(found, dict) else {}


def _pair(value: Any) -> tuple[float, float] | None:
    """Two numbers; all else is the schema's to refuse."""
    is_pair = isinstance(value, list) and len(value) == 2 and all(isinstance(n, int | float) for n in value)
    return (value[0], value[1]) if is_pair else None


def _window(preprocess: Mapping[str, Any]) -> list[Problem]:
    where, scale, window = "preprocess.window", preprocess.get("scale"), preprocess.get("window")
    if scale == "window" and window is None:
        what = f"is needed for preprocess.scale=window: [least, greatest]; {LEVEL_AND_WIDTH}"
        return [Problem(where, what, "level 40, width 400 (CT, soft tissue):  'preprocess.window=[-160,240]'")]
    ends = _pair(window)
    if ends is not None and ends[0] >= ends[1]:
        what = f"is [least, greatest], got {list(ends)}; {LEVEL_AND_WIDTH}"
        return [Problem(where, what, _other_window(*ends))]
    if window is not None and scale != "window":
        return [Problem(where, f"has no effect with preprocess.scale={scale}", "add  preprocess.scale=window  or  preprocess.window=null")]
    return []


def _other_window(first: float, last: float) -> str:
    """What may have been meant by a window whose ends are reversed: the same ends, or a width and its level."""
    if first == last:
        return "level 40, width 400 (CT, soft tissue):  'preprocess.window=[-160,240]'"
    turned = f"add  'preprocess.window=[{last:g},{first:g}]'"
    if first <= 0:
        return turned
    low, high = last - first / 2, last + first / 2
    return f"{turned};   if it is width {first:g} at level {last:g}:  'preprocess.window=[{low:g},{high:g}]'"


def _percentiles(preprocess: Mapping[str, Any]) -> list[Problem]:
    where, scale, ends = "preprocess.percentiles", preprocess.get("scale"), _pair(preprocess.get("percentiles"))
    if ends is None:
        return []
    if ends[0] >= ends[1]:
        fix = (
            f"add  'preprocess.percentiles=[{ends[1]:g},{ends[0]:g}]'" if ends[0] > ends[1] else "add  'preprocess.percentiles=[0.5,99.5]'"
        )
        return [Problem(where, f"is [least, greatest], two percentages from 0 to 100, got {list(ends)}", fix)]
    if scale != "percentiles" and ends != Preprocess().percentiles:
        return [Problem(where, f"has no effect with preprocess.scale={scale}", "add  preprocess.scale=percentiles")]
    return []


def _axes(container: Mapping[str, Any]) -> list[Problem]:
    """Images have two axes, volumes three."""
    dims = _section(container, "data").get("dims")
    if not isinstance(dims, int) or dims not in (2, 3):
        return []
    problems = []
    for key in BY_AXIS:
        section, _, name = key.partition(".")
        value = _section(container, section).get(name)
        if isinstance(value, list) and len(value) in (2, 3) and len(value) != dims:
            problems.append(
                Problem(key, f"has {len(value)} numbers, but data.dims={dims} has {_axes_of(dims)}", _by_axis(key, value, dims))
            )
    return problems


def _axes_of(dims: int) -> str:
    return "rows and columns" if dims == 2 else "slices, rows and columns"


def _by_axis(key: str, value: Sequence[float], dims: int) -> str:
    """The same without slices; there is no such guess for volumes."""
    if dims == 2:
        return f"add  '{key}=[{value[1]:g},{value[2]:g}]'"
    return f"add  {key}=null" if key in ("preprocess.size", "preprocess.spacing_mm") else f"add  '{key}=[32,{value[0]:g},{value[1]:g}]'"


def fold_numbers(text: str, split: Split) -> list[int]:
    """The folds that are asked for. Raises `ProblemsFound` where the split has none."""
    words = [word.strip() for word in text.strip("[]").split(",")]
    asked = sorted({int(word) for word in words if word.isdecimal()})
    if split.kind == "leave_one_out":
        what = "of split=leave_one_out are as many as the data have groups, which is not known yet"
        fix = f"write  segkit train -m … '{FOLD}=range(0,N)'  with N groups (see segkit audit)"
    elif split.kind != "kfold":
        what, fix = f"needs a split into folds, and split is {split.kind}", "add  split=kfold"
    elif text == "all":
        return list(range(split.n_folds))
    elif not all(map(str.isdecimal, words)) or not text.startswith("["):
        what, fix = f"needs all, or a list of folds, got {text!r}", f"write  {KEY}=all  or  {KEY}=[0,2]"
    elif len(asked) < 2:
        what, fix = "needs several folds", f"write  {FOLD}={asked[0]}  for one"
    elif asked[-1] >= split.n_folds:
        beyond = next(fold for fold in asked if fold >= split.n_folds)
        what, fix = f"has no fold {beyond}: there are {split.n_folds}, counted from 0", f"{KEY}=all  or another  split.n_folds"
    else:
        return asked
    raise ProblemsFound([Problem(KEY, what, fix)])
