"""`_target_`: which names a config may turn into objects, and how.

Configs come from strangers, and so do checkpoints, whose cards rebuild networks through `instantiate`. So a name must lie
in an allowed package, and what it names must be a class or function defined in one: no way around through an imported `os`.
Of other people's packages only classes: among their functions are some that download or import what they are told.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Never, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from segkit.config import messages
from segkit.config.aliases import keyword_hint, renamed
from segkit.config.signatures import Absent, Signature, Unreadable, signature
from segkit.system.errors import Problem, SegkitError, nearest

# Of segkit itself only the building blocks: its command line and its config machinery could be turned against the user.
ALLOWED = (
    "segkit.data.sources.",
    "segkit.models.UNet",
    "segkit.models.SMP",
    "segkit.models.MultiTaskUNet",
    "segkit.models.unet.UNet",
    "segkit.models.smp.SMP",
    "segkit.models.multitask.MultiTaskUNet",
    "segkit.losses.",
    "segkit.metrics.",
    "segkit.inference.postprocess.",
    "segkit.inference.FillHoles",
    "segkit.inference.FitEllipse",
    "segkit.inference.LargestComponents",
    "segkit.inference.MinimumSize",
    "segkit.inference.Smooth",
    "segmentation_models_pytorch.losses.",  # its networks download unless told not to: model=smp
    "torch.nn.",
    "torch.optim.",
    "albumentations.",
    "lightning.pytorch.callbacks.",
)


def is_allowed(name: str, allow: Sequence[str] = ()) -> bool:
    """Entries of ALLOWED that end in a dot are packages, the others exact names."""
    return any(name.startswith(entry) if entry.endswith(".") else name == entry for entry in ALLOWED) or _is_own(name, allow)


def _is_own(name: str, allow: Sequence[str]) -> bool:
    return any(name == extra or name.startswith(f"{extra}.") for extra in allow)


def _may_be_function(target: str, allow: Sequence[str]) -> bool:
    return target.startswith("segkit.") or _is_own(target, allow)


def keywords_of(target: str, allow: Sequence[str] = ()) -> list[str]:
    """Keywords that a target takes, as far as its source tells; nothing is imported."""
    try:
        return list(_signature(target, allow).parameters) if is_allowed(target, allow) else []
    except (Absent, Unreadable):
        return []


def check_target(
    node: Mapping[str, Any], path: str, allow: Sequence[str] = (), supplied: Collection[str] = (), offered: Collection[str] = ()
) -> list[Problem]:
    """All that is wrong with a node that has a `_target_`, nested ones included, without importing what it names.

    `supplied` are the keywords that segkit adds itself, `offered` those that it adds where the target takes them. What the
    source does not tell is left to `instantiate`.
    """
    target = str(node["_target_"])
    values = {str(key): value for key, value in node.items() if key != "_target_"}
    problems = [Problem(f"{path}.{key}", "is not supported beside _target_: write plain keywords") for key in values if key.startswith("_")]
    values = {key: value for key, value in values.items() if not key.startswith("_")}
    problems += [problem for key, value in values.items() for problem in _check_nested(value, f"{path}.{key}", allow)]
    if not is_allowed(target, allow):
        return [*problems, Problem(path, f"{target} is outside the allowed packages", _way_in(target, allow))]
    try:
        found = _signature(target, allow)
        if found.is_function and not _may_be_function(target, allow):
            return [*problems, Problem(path, f"{target} is a function; only classes of that package may be named")]
        return [*problems, *_check_call(found, target, values, path, supplied, offered)]
    except Absent as absent:
        return [*problems, Problem(path, _absent(target, absent))]
    except Unreadable:
        return problems


def _signature(target: str, allow: Sequence[str]) -> Signature:
    if allow:
        _see_working_directory()
    return signature(target)


def _see_working_directory() -> None:
    """A user's own modules lie beside the work; last in the path, so that nothing there hides an installed package."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def _check_nested(value: Any, path: str, allow: Sequence[str]) -> list[Problem]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return check_target(value, path, allow)
        return [problem for key, inner in value.items() for problem in _check_nested(inner, f"{path}.{key}", allow)]
    if isinstance(value, list | tuple):
        return [problem for i, inner in enumerate(value) for problem in _check_nested(inner, f"{path}.{i}", allow)]
    return []


def _way_in(target: str, allow: Sequence[str] = ()) -> str:
    """What to type: a name in the allowed part of a package, or permission for the user's own package."""
    package = target.split(".")[0]
    inside = [prefix for prefix in ALLOWED if prefix.startswith(f"{package}.")]
    if inside:
        return f"allowed are  {', '.join(f'{entry}*' if entry.endswith('.') else entry for entry in inside)}"
    own = package not in sys.stdlib_module_names
    return f"add  allow_targets=[{','.join([*allow, package])}]" if own else ""


def _absent(target: str, absent: Absent) -> str:
    if not absent.parent:
        return f"{target}: there is no package {absent.name}, neither installed nor in the working directory"
    rest = target.removeprefix(f"{absent.parent}.{absent.name}")
    hint = nearest(absent.name, absent.choices, f"{absent.parent}.")
    return f"{absent.parent} has no {absent.name}" + (f"; {hint[:-1]}{rest}?" if hint else "")


def _check_call(
    found: Signature, target: str, values: Mapping[str, Any], path: str, supplied: Collection[str], offered: Collection[str]
) -> list[Problem]:
    name, ours = target.rpartition(".")[2], {*supplied, *offered}
    problems = []
    for key, value in values.items():
        where = f"{path}.{key}"
        if key in supplied or (key in offered and key in found.parameters):
            problems.append(Problem(where, "follows from the rest of the config: leave it out"))
        elif key in found.parameters:
            problems += _check_value(value, found.parameters[key].type, where)
        elif not found.open:
            hint = keyword_hint(target, key, f"{path}.") or nearest(key, set(found.parameters) - ours, f"{path}.")
            problems.append(Problem(where, f"{name} takes no {key}; {hint}" if hint else f"{name} takes no {key}"))
    for key, parameter in found.parameters.items():
        if parameter.required and key not in values and key not in ours:
            problems.append(Problem(f"{path}.{key}", f"is needed by {name}", f"add  +{path}.{key}=VALUE"))
    refused = [] if found.open else [key for key in supplied if key not in found.parameters]
    if refused:
        problems.append(Problem(path, f"{target} must take {', '.join(refused)}: segkit passes it"))
    return problems


def _check_value(value: Any, kind: Any, where: str) -> list[Problem]:
    if kind is Any or _holds_target(value):
        return []
    if kind is Never:
        return [Problem(where, "cannot be given in a config: it is no number, text or list")]
    try:
        text = json.dumps(value, default=str)
        TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        return messages.describe(error, json.loads(text), at=where)
    except (PydanticUserError, TypeError):  # an annotation that pydantic has no idea of
        return []
    return []


def _holds_target(value: Any) -> bool:
    """Built objects stand in for such values later, so their present form says nothing about the type."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_holds_target, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_target, value))


def instantiate(node: Mapping[str, Any], *, allow: Sequence[str] = (), **supplied: Any) -> Any:
    """Build what a node names: `target(**keywords of the node, **supplied)`, nested nodes first.

    Safe against hostile nodes: SegkitError unless the target is a class or function defined in an allowed package.
    """
    node = cast("dict[str, Any]", renamed(dict(node)))
    target = str(node.get("_target_"))
    build = _import(target, allow)
    keywords = {str(key): _built(value, allow) for key, value in node.items() if key != "_target_"}
    try:
        return build(**keywords, **supplied)
    except (TypeError, ValueError) as error:
        raise SegkitError(f"{target}: {error}") from error


def _built(value: Any, allow: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return instantiate(value, allow=allow)
        return {key: _built(inner, allow) for key, inner in value.items()}
    return [_built(inner, allow) for inner in value] if isinstance(value, list | tuple) else value


def _import(target: str, allow: Sequence[str]) -> Callable[..., Any]:
    module_name, _, name = target.rpartition(".")
    if not is_allowed(target, allow) or not all(map(str.isidentifier, target.split("."))) or not module_name:
        raise SegkitError(f"{target} is outside the allowed packages;   {_way_in(target, allow)}")
    if allow:
        _see_working_directory()
    try:
        found: Any = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise SegkitError(f"{target} cannot be imported: {error}") from error
    function = inspect.isfunction(found) and _may_be_function(target, allow)
    if not (function or inspect.isclass(found)):
        raise SegkitError(f"{target} is no class" + (" or function" if _may_be_function(target, allow) else ""))
    if not is_allowed(f"{found.__module__}.{found.__name__}", allow):
        raise SegkitError(f"{target} is defined in {found.__module__}, outside the allowed packages")
    build: Callable[..., Any] = found
    return build
