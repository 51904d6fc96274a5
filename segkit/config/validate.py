"""A config as plain data, checked: what a run folder or a checkpoint keeps. Knows nothing of Hydra, so that opening a
checkpoint does not need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from segkit.config import messages, schema
from segkit.config.aliases import renamed
from segkit.config.schema import COMMANDS
from segkit.config.targets import check_target
from segkit.system.errors import Problem, ProblemsFound

BEFORE = {
    "train": "training starts",
    "evaluate": "evaluation starts",
    "predict": "prediction starts",
    "import": "anything is imported",
    "calibrate": "calibration starts",
    "audit": "the audit starts",
    "plan": "anything is planned",
    "phantom": "the phantom is written",
    "cache": "the cache is looked at",
    "share": "anything is written",
    "compare": "runs are compared",
    "models": "networks are counted",
    "tensorboard": "TensorBoard starts",
}
# What segkit passes when it builds the target at a path, beside the keywords of the config.
SUPPLIED = {
    ("model",): ("in_channels", "out_channels"),
    ("data", "source"): ("root",),
    ("optimizer",): ("params",),
}
OFFERED = {("model",): ("dims",), ("loss", "parts", "*"): ("mode", "classes")}
"""What it passes besides, to those that take it."""


AUTO: dict[tuple[str, str], tuple[Any, Any]] = {
    ("preprocess", "size"): ([256, 256], None),
    ("sampling", "patch"): (None, [32, 96, 96]),
}
"""What `auto` stands for where the network sees images, and where it sees volumes: these keep their size, and come in patches."""


def validate(command: str, container: Mapping[str, Any]) -> BaseModel:
    """A plain mapping, such as a run's saved config.yaml, as a checked model."""
    return checked(command, dict(container), [])


def restore(saved: Mapping[str, Any], allow: Sequence[str]) -> schema.Train:
    """A training config as a run folder or a checkpoint keeps it, maybe of an older or newer segkit.

    Keys that came later get the shipped defaults, keys that went are dropped. `allow` comes from whoever opens the file,
    never from the file itself: it decides what code may be named.
    """
    saved = cast("dict[str, Any]", renamed(dict(saved)))
    defaults = _shipped_defaults() if _lacks(saved, schema.Train) else {}
    config = validate("train", {**_complete(saved, defaults, schema.Train), "allow_targets": list(allow)})
    assert isinstance(config, schema.Train)
    return config


def _shipped_defaults() -> dict[str, Any]:
    """Composed by Hydra, which only a config of another version needs."""
    from segkit.config.compose import compose

    return compose("train").model_dump(mode="json")


def _section(field: FieldInfo) -> type[schema.Strict] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, schema.Strict) else None


def _lacks(saved: Mapping[str, Any], model: type[schema.Strict]) -> bool:
    """Whether a key of the schema is missing at any depth."""
    nested = ((saved.get(name), _section(field)) for name, field in model.model_fields.items())
    return set(model.model_fields) > set(saved) & set(model.model_fields) or any(
        _lacks(value, section) for value, section in nested if section and isinstance(value, Mapping)
    )


def _complete(saved: Mapping[str, Any], defaults: Mapping[str, Any], model: type[schema.Strict]) -> dict[str, Any]:
    """`saved` with exactly the keys of the schema; what it lacks from `defaults`."""
    out: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        value = saved.get(name, defaults.get(name))
        if (section := _section(field)) and isinstance(value, Mapping):
            value = _complete(value, defaults.get(name) or {}, section)
        out[name] = value
    return out


def checked(command: str, container: dict[str, Any], problems: list[Problem]) -> BaseModel:
    """`problems` are known ones; their keys are not complained about again."""
    container = fitted_to_dims(cast("dict[str, Any]", renamed(container, typed=True)))
    model, found = messages.fit(COMMANDS[command], container)
    known = {problem.where for problem in problems}
    problems = [*problems, *(p for p in _first_of_each(found) if p.where not in known)]
    allow = container.get("allow_targets")
    extras = [str(name) for name in allow] if isinstance(allow, list) else []
    problems += _check_targets(container, (), extras)
    if command == "predict" and container.get("input") is None and not container.get("data"):
        problems.append(
            Problem("input", "is needed", "add  input=FILE_OR_FOLDER,  or a data set in the training's layout  data.root=FOLDER")
        )
    half = any(problem.where.startswith("members.") for problem in problems)
    if command in ("evaluate", "predict", "calibrate"):
        problems[:0] = _what_is_judged(container, half)
    if problems or model is None:
        raise ProblemsFound(dict.fromkeys(problems), BEFORE[command])
    return model


def _what_is_judged(container: Mapping[str, Any], half: bool) -> list[Problem]:
    """One of the keys that say so. `half`: members are given, but not whole."""
    given = [key for key in ("ckpt", "members", "sweep", "masks") if container.get(key) or (half and key == "members")]
    if not given:
        return [Problem("ckpt", "is needed", "add  ckpt=FILE")]
    if len(given) > 1:
        return [Problem(given[-1], f"and {given[0]} exclude each other", f"leave one out: {' or '.join(given)}")]
    if container.get("where") and given != ["sweep"]:
        return [Problem("where", "chooses among the trainings of a sweep", "add  sweep=NAME")]
    if given == ["masks"] and not (container.get("data") or {}).get("source"):
        return [Problem("data", "is needed: what the masks are of", "add  data=NAME data.root=FOLDER")]
    return []


def fitted_to_dims(container: dict[str, Any]) -> dict[str, Any]:
    """With `auto` replaced by what it stands for."""
    data = container.get("data")
    volumes = isinstance(data, dict) and data.get("dims") == 3
    for (section, key), (of_images, of_volumes) in AUTO.items():
        keys = container.get(section)
        if isinstance(keys, dict) and keys.get(key) == "auto":
            container = {**container, section: {**keys, key: of_volumes if volumes else of_images}}
    return container


def _first_of_each(problems: Sequence[Problem]) -> list[Problem]:
    """Once for each key and value: `split.seed` is `seed` by interpolation, and the user can fix only one of them."""
    told = {(p.where.rpartition(".")[2], p.what): p for p in reversed(problems)}
    return [p for p in problems if told[p.where.rpartition(".")[2], p.what] is p]


def _check_targets(node: Any, path: tuple[str, ...], allow: Sequence[str]) -> list[Problem]:
    if not isinstance(node, dict):
        return []
    if isinstance(node.get("_target_"), str):
        supplied, offered = (next((names for p, names in table.items() if _matches(path, p)), ()) for table in (SUPPLIED, OFFERED))
        if path == ("model",):
            node, problems = without_weights(node)
        else:
            problems = []
        return [*problems, *check_target(node, ".".join(path), allow, supplied, offered)]
    return [problem for key, inner in node.items() for problem in _check_targets(inner, (*path, str(key)), allow)]


def without_weights(node: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """A model's node as its class wants it; what is wrong with its `weights`, which segkit loads itself."""
    given = node.get("weights")
    rest = {key: value for key, value in node.items() if key != "weights"}
    if given is None:
        return rest, []
    wanted = Problem("model.weights", "needs a path or a url, one of them", "write  'model.weights={path: FILE}'")
    if not isinstance(given, dict) or (given.get("path") is None) == (given.get("url") is None):
        return rest, [wanted]
    _, problems = messages.fit(schema.Weights, given)
    return rest, [replace(problem, where=f"model.weights.{problem.where}") for problem in problems]


def _matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(path) == len(pattern) and all(p in ("*", step) for step, p in zip(path, pattern, strict=True))
