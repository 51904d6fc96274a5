"""The keywords of a config's `_target_` nodes, checked against the signatures of what they name, before anything is built."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from inspect import Parameter
from typing import Any, ForwardRef, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from segkit.config import messages
from segkit.config.aliases import keyword_hint
from segkit.config.targets import ARGS, BESIDE, CONVERT, PARTIAL, Refused, find, is_allowed, is_own, parameters_of, target_nodes, way_in
from segkit.system.errors import Problem, nearest

NEVER_YAML = {"Tensor", "Module", "Parameter", "ndarray"}
ANY_CLASS = ConfigDict(arbitrary_types_allowed=True)


def check_name(node: Mapping[str, Any], where: str, allow: Sequence[str] = (), ours: bool = False, training: bool = False) -> list[Problem]:
    """Find what is wrong with a node before anything is imported: a target that is not allowed, or Hydra's further keys beside it.

    With `ours` a target of other people's packages is out of place. `training`: only training needs it.
    """
    target = str(node["_target_"])
    problems = [problem for key in node if str(key).startswith("_") for problem in _check_beside(str(key), node[key], f"{where}.{key}")]
    if ours and target.startswith("torchmetrics."):
        problems.append(Problem(where, f"{target} measures all pixels, not case by case", of_all_pixels(target, where)))
    elif not is_allowed(target, allow, training):
        problems.append(Problem(where, f"{target} is outside the allowed packages", way_in(target, allow, training)))
    elif ours and not target.startswith("segkit.") and not is_own(target, allow):
        problems.append(Problem(where, f"{target} is no metric and no step of post-processing"))
    return problems


def of_all_pixels(target: str, where: str) -> str:
    """What to type for a metric over all pixels that stands where those by case belong."""
    return f"write  '+metric.torchmetrics.{where.rpartition('.')[2]}={{_target_: {target}}}'"


def _check_beside(key: str, value: Any, where: str) -> list[Problem]:
    """What is wrong with one of Hydra's keys."""
    if key == "_target_" or (key == ARGS and isinstance(value, list | tuple)):
        return []
    if key == ARGS:
        return [Problem(where, f"needs a list, got {value!r}")]
    if key not in BESIDE:
        return [Problem(where, f"is no key beside _target_; these are {', '.join((ARGS, *BESIDE))}")]
    why = "lists and mappings are always handed over as plain ones: " if key == CONVERT else ""
    words = " or ".join(str(one).lower() for one in BESIDE[key])
    return [] if value in BESIDE[key] else [Problem(where, f"{why}must be {words}, got {str(value).lower()}")]


def check_call(
    node: Mapping[str, Any],
    where: str,
    allow: Sequence[str] = (),
    supplied: Collection[str] = (),
    offered: Collection[str] = (),
    training: bool = False,
) -> list[Problem]:
    """Find what is wrong with the keywords of a node, by the signature of its target, which is imported for that.

    segkit itself passes the `supplied` keywords, and the `offered` ones to a target that takes them.
    """
    target = str(node["_target_"])
    try:
        build = find(target, allow, training)
    except Refused as refused:
        return [Problem(where, refused.what, refused.fix)]
    parameters, is_open = parameters_of(build)
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    by_place, problems = _by_place(node.get(ARGS) or (), build, where)
    problems += _check_keywords(target, build, {**by_place, **given}, where, supplied, offered)
    if not (node.get(PARTIAL) and not supplied):
        known = {*given, *by_place, *supplied, *offered}
        missing = [key for key, one in parameters.items() if one.default is Parameter.empty and key not in known]
        name = target.rpartition(".")[2]
        problems += [Problem(f"{where}.{key}", f"is needed by {name}", f"add  +{where}.{key}=VALUE") for key in missing]
    refused_keys = [] if is_open else [key for key in supplied if key not in parameters]
    if refused_keys:
        problems.append(Problem(where, f"{target} must take {', '.join(refused_keys)}: segkit passes it"))
    return problems


def _by_place(values: Sequence[Any], build: Callable[..., Any], where: str) -> tuple[dict[str, Any], list[Problem]]:
    """The values of `_args_` under the names of their parameters, and what is wrong with their number."""
    try:
        found = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return {}, []
    places = [one for one in found if one.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    too_many = len(values) > len(places) and not any(one.kind is Parameter.VAR_POSITIONAL for one in found)
    problems = [Problem(f"{where}.{ARGS}", f"holds {len(values)} values; at most {len(places)} are taken")] if too_many else []
    named = zip(places, values, strict=False)
    return {one.name: value for one, value in named if one.kind is Parameter.POSITIONAL_OR_KEYWORD}, problems


def _check_keywords(
    target: str, build: Callable[..., Any], given: Mapping[str, Any], where: str, supplied: Collection[str], offered: Collection[str]
) -> list[Problem]:
    parameters, is_open = parameters_of(build)
    problems = []
    for key, value in given.items():
        at = f"{where}.{key}"
        if key in supplied or (key in offered and key in parameters):
            problems.append(Problem(at, "follows from the rest of the config: leave it out"))
        elif key in parameters:
            problems += _check_value(value, _type(parameters[key], build), at)
        elif not is_open:
            name, others = target.rpartition(".")[2], set(parameters) - {*supplied, *offered}
            hint = keyword_hint(target, key, f"{where}.") or nearest(key, others, f"{where}.")
            problems.append(Problem(at, f"{name} takes no {key}; {hint}" if hint else f"{name} takes no {key}"))
    return problems


def _type(parameter: Parameter, build: Callable[..., Any]) -> Any:
    """The type of a parameter, from its annotation or else its default; Any where neither says."""
    kind, default = parameter.annotation, parameter.default
    function: Any = build.__init__ if inspect.isclass(build) else build
    names = {**vars(sys.modules[build.__module__]), **getattr(inspect.unwrap(function), "__globals__", {})}
    try:
        while isinstance(kind, str | ForwardRef):
            kind = eval(kind if isinstance(kind, str) else kind.__forward_arg__, names)
    except Exception:  # a name that exists only for type checkers
        return Any
    if kind is not Parameter.empty:
        return kind | None if default is None and kind is not Any else kind
    if isinstance(default, bool):
        return bool | None
    if isinstance(default, int | float):
        return float | None
    return str | None if isinstance(default, str) else Any


def _check_value(value: Any, kind: Any, where: str) -> list[Problem]:
    """Built objects stand in for nodes later, so a value that holds one is not checked."""
    if any(True for _ in target_nodes(value)):
        return []
    if (odd := next(not_finite(value), None)) is not None:
        return [Problem(where, f"needs a finite number, got {odd}")]
    if kind is Any:
        return []
    try:
        text = json.dumps(value, default=str)
        TypeAdapter(kind, config=ANY_CLASS).validate_json(text, strict=True)
    except ValidationError as error:
        if messages.is_about_objects(error):
            names = {getattr(one, "__name__", "") for one in (kind, *get_args(kind))}
            what = "cannot be given in a config: it is no number, text or list"
            return [Problem(where, what)] if names & NEVER_YAML else []
        return messages.describe(error, json.loads(text), at=where)
    except (PydanticUserError, TypeError, AttributeError):  # an annotation that pydantic has no idea of
        return []
    return []


def not_finite(value: Any) -> Iterator[float]:
    """Every NaN and infinity at any depth: a saved config, which is JSON, cannot hold them, so its checkpoint could not be opened."""
    if isinstance(value, float) and not math.isfinite(value):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from not_finite(inner)
