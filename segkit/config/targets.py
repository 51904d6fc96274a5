"""`_target_`: which names a config may turn into objects, and how.

Configs come from strangers, and so do checkpoints, whose metadata rebuild networks through `instantiate`. So a name must lie
in an allowed package, and what it names must be a class or function defined in one: no way around through an imported `os`.
What a checkpoint is opened with (network, metrics, post-processing) comes from few packages, and of them only classes: some functions
download, import or read whatever they are given. What only training needs is never built from a checkpoint, so there more packages may be
named, and their functions. The user's own packages, which `allow` lists, may be named everywhere.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from segkit.config import messages
from segkit.config.aliases import present_name, renamed
from segkit.system.errors import SegkitError, nearest
from segkit.system.shell import override

Keys = tuple[str, ...]
"""The way to a node in a config."""
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
    "segmentation_models_pytorch.losses.",  # its networks are those of segkit.models.SMP by another name: see aliases.yaml
    "torch.nn.",
    "torch.optim.",
    "albumentations.",
    "lightning.pytorch.callbacks.",
)
IN_TRAINING = (
    *ALLOWED,
    "lightning.fabric.plugins.",
    "lightning.fabric.strategies.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.plugins.",
    "lightning.pytorch.profilers.",
    "lightning.pytorch.strategies.",
    "segkit.training.callbacks.",
    "segkit.training.loggers.",
    "timm.optim.",
    "timm.scheduler.",
    "torchmetrics.",
)
"""For what only training needs, functions of these packages included."""
ARGS, PARTIAL, RECURSIVE, CONVERT = "_args_", "_partial_", "_recursive_", "_convert_"
BESIDE = {PARTIAL: (True, False), RECURSIVE: (True, False), CONVERT: ("all", "partial", "object")}
"""Hydra's keys beside `_target_`, and their values. What is built gets plain lists and dicts, which is what `_convert_: all` means."""


def is_allowed(name: str, allow: Sequence[str] = (), training: bool = False) -> bool:
    """Whether a config may name it: in an allowed package, or in one of the user's own that `allow` lists.

    Entries that end in a dot are packages, the others exact names. With `training` for what only training needs.
    """
    packages = IN_TRAINING if training else ALLOWED
    return any(name.startswith(entry) if entry.endswith(".") else name == entry for entry in packages) or is_own(name, allow)


def is_own(name: str, allow: Sequence[str]) -> bool:
    return any(name == extra or name.startswith(f"{extra}.") for extra in allow)


class Refused(SegkitError):
    """A target that cannot be used: why, and what to type instead."""

    def __init__(self, what: str, fix: str = "") -> None:
        self.what, self.fix = what, fix
        super().__init__(f"{what};   {fix}" if fix else what)


def target_nodes(value: Any, path: Keys = (), built: bool = False) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Every node that names a `_target_`, at any depth, with its path; with `built` not those that a target gets as they are written."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield path, value
            if built and value.get(RECURSIVE) is False:
                return
        for key, inner in value.items():
            yield from target_nodes(inner, (*path, str(key)), built)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from target_nodes(inner, (*path, str(i)), built)


def keywords_of(target: str, allow: Sequence[str] = (), training: bool = False) -> list[str]:
    """The keywords that a target takes; none where it may not be named or does not exist."""
    try:
        return list(parameters_of(find(present_name(target), allow, training))[0])
    except Refused:
        return []


def parameters_of(build: Callable[..., Any]) -> tuple[dict[str, Parameter], bool]:
    """The parameters that can be given by keyword, and whether there are further ones (**kwargs)."""
    try:
        found = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # written in C, without a signature
        return {}, True
    by_name = {p.name: p for p in found if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)}
    return by_name, any(p.kind is Parameter.VAR_KEYWORD for p in found)


def way_in(target: str, allow: Sequence[str] = (), training: bool = False) -> str:
    """The line to type: a name in the allowed part of a package, or permission for the user's own package."""
    package = target.split(".")[0]
    inside = [prefix for prefix in (IN_TRAINING if training else ALLOWED) if prefix.startswith(f"{package}.")]
    if inside:
        return f"allowed are  {', '.join(f'{entry}*' if entry.endswith('.') else entry for entry in inside)}"
    own = package not in sys.stdlib_module_names
    return f"add  {override('allow_targets', [*allow, package])}" if own else ""


def find(target: str, allow: Sequence[str] = (), training: bool = False) -> Callable[..., Any]:
    """The class or function that `target` names, imported. Raises `Refused` unless a config may name it."""
    module_name, _, name = target.rpartition(".")
    if not is_allowed(target, allow, training) or not all(map(str.isidentifier, target.split("."))) or not module_name:
        raise Refused(f"{target} is outside the allowed packages", way_in(target, allow, training))
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
    function = inspect.isroutine(found)
    if function and not is_own(target, allow) and (not training or "._" in target or target.startswith("segkit.")):
        raise Refused(f"{target} is a function; only classes of that package may be named")
    if not (function or inspect.isclass(found)):
        raise Refused(f"{target} is neither a class nor a function")
    if not is_allowed(f"{found.__module__}.{found.__name__}", allow, training):
        raise Refused(f"{target} is defined in {found.__module__}, outside the allowed packages")
    build: Callable[..., Any] = found
    return build


def descends(target: Any, base: str, allow: Sequence[str] = ()) -> bool:
    """Whether a target is a class below `base`, the dotted name of a class of segkit."""
    try:
        found = find(str(target), allow)
    except Refused:
        return False
    return any(f"{cls.__module__}.{cls.__qualname__}" == base for cls in getattr(found, "__mro__", ()))


def instantiate(node: Mapping[str, Any], section: str = "", *, allow: Sequence[str] = (), training: bool = False, **supplied: Any) -> Any:
    """Build what a node names: `target(*_args_, **keywords of the node, **supplied)`, nested nodes first.

    With `_partial_: true` the result is a `functools.partial`, unless there are `supplied` keywords: these complete it, so it is called.
    Safe against hostile nodes: only a class or function that is defined in an allowed package is built.

    Args:
        node: `_target_` and its keywords.
        section: Where the config has it, for messages.
        allow: The user's own packages that may be named.
        training: Whether only training needs it: functions, and more packages, may be named.
        **supplied: Further keywords.

    Raises:
        SegkitError: The target is not allowed or cannot be imported, or refuses its keywords.
    """
    node = cast("dict[str, Any]", renamed(dict(node)))
    target = str(node.get("_target_"))
    build = find(target, allow, training)
    given = {key: value if node.get(RECURSIVE) is False else _built(value, allow, training) for key, value in node.items()}
    places = given.get(ARGS) or ()
    keywords = {str(key): value for key, value in given.items() if key not in ("_target_", ARGS, *BESIDE)}
    if node.get(PARTIAL) and not supplied:
        return partial(build, *places, **keywords)
    try:
        return build(*places, **keywords, **supplied)
    except SegkitError:
        raise
    except Exception as error:
        if is_own(target, allow) and not isinstance(error, TypeError | ValueError):
            raise  # the traceback shows the user where
        raise SegkitError(f"{section and section + ': '}{target}: {refusal(error, keywords)}") from error


def refusal(error: Exception, keywords: Mapping[str, Any]) -> str:
    """Why a class refuses its keywords; of albumentations, which prints pydantic's text, in segkit's words."""
    if not isinstance(error.__cause__, ValidationError):
        return str(error)
    return "; ".join(f"{problem.where} {problem.what}" for problem in messages.describe(error.__cause__, keywords))


def _built(value: Any, allow: Sequence[str], training: bool) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return instantiate(value, allow=allow, training=training)
        return {key: _built(inner, allow, training) for key, inner in value.items()}
    return [_built(inner, allow, training) for inner in value] if isinstance(value, list | tuple) else value
