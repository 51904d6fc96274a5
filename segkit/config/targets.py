"""`_target_`: which names a config may turn into objects, and how.

Configs come from strangers, and so do checkpoints, whose metadata rebuild networks through `instantiate`. So a name must lie
in an allowed package, and what it names must be a class or function defined in one: no way around through an imported `os`.
Only classes, except in the user's own packages: some functions download, import or read whatever they are given.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any, ForwardRef, cast, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from segkit.config import messages
from segkit.config.aliases import keyword_hint, renamed
from segkit.system.errors import Problem, SegkitError, nearest
from segkit.system.shell import override

Keys = tuple[str, ...]
"""The way to a node in a config."""
NEVER_YAML = {"Tensor", "Module", "Parameter", "ndarray"}
ANY_CLASS = ConfigDict(arbitrary_types_allowed=True)
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
    """Whether a config may name it: in an allowed package, or in one of the user's own that `allow` lists.

    Entries of ALLOWED that end in a dot are packages, the others exact names.
    """
    return any(name.startswith(entry) if entry.endswith(".") else name == entry for entry in ALLOWED) or _is_own(name, allow)


def _is_own(name: str, allow: Sequence[str]) -> bool:
    return any(name == extra or name.startswith(f"{extra}.") for extra in allow)


class Refused(SegkitError):
    """A target that cannot be used: why, and what to type instead."""

    def __init__(self, what: str, fix: str = "") -> None:
        self.what, self.fix = what, fix
        super().__init__(f"{what};   {fix}" if fix else what)


def target_nodes(value: Any, path: Keys = ()) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Every node that names a `_target_`, at any depth, with its path."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield path, value
        for key, inner in value.items():
            yield from target_nodes(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from target_nodes(inner, (*path, str(i)))


def check_name(node: Mapping[str, Any], where: str, allow: Sequence[str] = (), ours: bool = False) -> list[Problem]:
    """Find what is wrong with a node before anything is imported: a target that is not allowed, or Hydra's further keys beside it.

    With `ours` a target of other people's packages is out of place.
    """
    target, hidden = str(node["_target_"]), [key for key in node if str(key).startswith("_") and key != "_target_"]
    problems = [Problem(f"{where}.{key}", "is not supported beside _target_: write plain keywords") for key in hidden]
    if not is_allowed(target, allow):
        problems.append(Problem(where, f"{target} is outside the allowed packages", _way_in(target, allow)))
    elif ours and not target.startswith("segkit.") and not _is_own(target, allow):
        problems.append(Problem(where, f"{target} is no metric and no step of post-processing"))
    return problems


def check_call(
    node: Mapping[str, Any], where: str, allow: Sequence[str] = (), supplied: Collection[str] = (), offered: Collection[str] = ()
) -> list[Problem]:
    """Find what is wrong with the keywords of a node, by the signature of its target, which is imported for that.

    segkit itself passes the `supplied` keywords, and the `offered` ones to a target that takes them.
    """
    target = str(node["_target_"])
    try:
        build = find(target, allow)
    except Refused as refused:
        return [Problem(where, refused.what, refused.fix)]
    parameters, is_open = _parameters(build)
    name, ours = target.rpartition(".")[2], {*supplied, *offered}
    problems = []
    for key, value in node.items():
        at = f"{where}.{key}"
        if key == "_target_":
            continue
        if key in supplied or (key in offered and key in parameters):
            problems.append(Problem(at, "follows from the rest of the config: leave it out"))
        elif key in parameters:
            problems += _check_value(value, _type(parameters[key], build), at)
        elif not is_open:
            hint = keyword_hint(target, key, f"{where}.") or nearest(key, set(parameters) - ours, f"{where}.")
            problems.append(Problem(at, f"{name} takes no {key}; {hint}" if hint else f"{name} takes no {key}"))
    for key, parameter in parameters.items():
        if parameter.default is Parameter.empty and key not in node and key not in ours:
            problems.append(Problem(f"{where}.{key}", f"is needed by {name}", f"add  +{where}.{key}=VALUE"))
    refused_keys = [] if is_open else [key for key in supplied if key not in parameters]
    if refused_keys:
        problems.append(Problem(where, f"{target} must take {', '.join(refused_keys)}: segkit passes it"))
    return problems


def keywords_of(target: str, allow: Sequence[str] = ()) -> list[str]:
    """The keywords that a target takes; none where it may not be named or does not exist."""
    try:
        return list(_parameters(find(target, allow))[0])
    except Refused:
        return []


def _parameters(build: Callable[..., Any]) -> tuple[dict[str, Parameter], bool]:
    """The parameters that can be given by keyword, and whether there are further ones (**kwargs)."""
    try:
        found = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # written in C, without a signature
        return {}, True
    by_name = {p.name: p for p in found if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)}
    return by_name, any(p.kind is Parameter.VAR_KEYWORD for p in found)


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


def _way_in(target: str, allow: Sequence[str] = ()) -> str:
    """The line to type: a name in the allowed part of a package, or permission for the user's own package."""
    package = target.split(".")[0]
    inside = [prefix for prefix in ALLOWED if prefix.startswith(f"{package}.")]
    if inside:
        return f"allowed are  {', '.join(f'{entry}*' if entry.endswith('.') else entry for entry in inside)}"
    own = package not in sys.stdlib_module_names
    return f"add  {override('allow_targets', [*allow, package])}" if own else ""


def find(target: str, allow: Sequence[str] = ()) -> Callable[..., Any]:
    """The class or function that `target` names, imported. Raises `Refused` unless a config may name it."""
    module_name, _, name = target.rpartition(".")
    if not is_allowed(target, allow) or not all(map(str.isidentifier, target.split("."))) or not module_name:
        raise Refused(f"{target} is outside the allowed packages", _way_in(target, allow))
    here = str(Path.cwd())
    if allow and here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # a user's own modules lie beside the work; last, so that nothing there hides an installed package
    try:
        module = importlib.import_module(module_name)
        found: Any = getattr(module, name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise Refused(f"{target}: there is no package {error.name}, neither installed nor in the working directory") from None
        raise Refused(f"{target} cannot be imported: {error}") from error
    except AttributeError:
        raise Refused(
            f"{module_name} has no {name}", nearest(name, [*dir(module), *getattr(module, "__all__", ())], f"{module_name}.")
        ) from None
    except (ImportError, SyntaxError) as error:
        raise Refused(f"{target} cannot be imported: {error}") from error
    function = inspect.isfunction(found)
    if function and not _is_own(target, allow):
        raise Refused(f"{target} is a function; only classes of that package may be named")
    if not (function or inspect.isclass(found)):
        raise Refused(f"{target} is neither a class nor a function")
    if not is_allowed(f"{found.__module__}.{found.__name__}", allow):
        raise Refused(f"{target} is defined in {found.__module__}, outside the allowed packages")
    build: Callable[..., Any] = found
    return build


def instantiate(node: Mapping[str, Any], *, allow: Sequence[str] = (), **supplied: Any) -> Any:
    """Build what a node names: `target(**keywords of the node, **supplied)`, nested nodes first.

    Safe against hostile nodes: only a class or function that is defined in an allowed package is built.

    Args:
        node: `_target_` and its keywords.
        allow: The user's own packages that may be named.
        **supplied: Further keywords.

    Raises:
        SegkitError: The target is not allowed or cannot be imported, or refuses its keywords.
    """
    node = cast("dict[str, Any]", renamed(dict(node)))
    target = str(node.get("_target_"))
    build = find(target, allow)
    keywords = {str(key): _built(value, allow) for key, value in node.items() if key != "_target_"}
    try:
        return build(**keywords, **supplied)
    except SegkitError:
        raise
    except Exception as error:
        if _is_own(target, allow) and not isinstance(error, TypeError | ValueError):
            raise  # the traceback shows the user where
        raise SegkitError(f"{target}: {refusal(error, keywords)}") from error


def refusal(error: Exception, keywords: Mapping[str, Any]) -> str:
    """Why a class refuses its keywords; of albumentations, which prints pydantic's text, in segkit's words."""
    if not isinstance(error.__cause__, ValidationError):
        return str(error)
    return "; ".join(f"{problem.where} {problem.what}" for problem in messages.describe(error.__cause__, keywords))


def _built(value: Any, allow: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return instantiate(value, allow=allow)
        return {key: _built(inner, allow) for key, inner in value.items()}
    return [_built(inner, allow) for inner in value] if isinstance(value, list | tuple) else value
