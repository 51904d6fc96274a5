"""A config as plain data, checked: what a run folder or a checkpoint keeps. Knows nothing of Hydra, so that opening a
checkpoint does not need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pydantic import BaseModel

from segkit.config import messages, schema
from segkit.config.aliases import renamed
from segkit.config.commands import COMMANDS
from segkit.config.groups import check_groups, present, with_folder
from segkit.config.ranges import check_ranges
from segkit.config.signatures import check_call, check_name
from segkit.config.targets import PARTIAL, Keys, descends, target_nodes
from segkit.system.errors import Problem, ProblemsFound, raise_errors
from segkit.system.plain import excess

STARTS = {"train": "training", "evaluate": "evaluation", "predict": "prediction", "calibrate": "calibration", "export": "the export"}
MOST_IDS, MOST_VALUES = 1_000_000, 5_000
"""Values in a section of a config: only `data` may list cases."""
Names = tuple[str, ...]
CALLS: dict[Keys, tuple[Names, Names]] = {
    ("model",): (("in_channels", "out_channels"), ("dims",)),
    ("data", "source"): (("root",), ()),
    ("optimizer",): (("params",), ()),
    ("scheduler", "target"): (("optimizer",), ()),
    ("loss", "parts", "*"): ((), ("mode", "classes")),
    ("metric", "torchmetrics", "*"): ((), ("task", "num_classes", "num_labels", "ignore_index", "input_format")),
}
"""Path of a target -> what segkit passes when it builds it, beside the keywords of the config, and what besides to those that take it."""
ONLY_TRAINING = frozenset({"augment", "callbacks", "logger", "loss", "module", "optimizer", "scheduler", "trainer"})
"""Sections that nobody needs who uses a checkpoint."""
UNUSED: dict[str, Any] = {
    "optimizer": {"_target_": "unknown"},
    "augment": {"transforms": {}},
    "loss": {"parts": {}, "weights": {}, "deep_supervision": None},
}
"""In place of sections that every training has."""
DATAMODULE, MODULE = "segkit.data.SegmentationData", "segkit.training.SegmentationModule"
"""The `_target_` of `data` and `module` where these are segkit's own."""
BASES = {"data": "segkit.data.datamodule.SegmentationData", "module": "segkit.training.module.SegmentationModule"}
TO_DATAMODULE = ("prepared", "config", "device", "seen")
TO_BASE = ("model", "loss", "metrics", "config", "metadata")
TO_MODULE = ("model", "network", "loss", "metrics", "optimizer", "scheduler", "config", "metadata")
"""What segkit passes to an own DataModule that descends from its own; to an own LightningModule, of what that takes."""
AUTO: dict[tuple[str, str], tuple[Any, Any]] = {
    ("preprocess", "size"): ([256, 256], None),
    ("sampling", "patch"): (None, [32, 96, 96]),
}
"""Values that `auto` stands for where the network sees images, and where it sees volumes: these keep their size, and come in patches."""


def before(command: str) -> str:
    """The end of the headline over the problems of a config."""
    return f"{STARTS.get(command, f'segkit {command}')} starts"


def validate(command: str, container: Mapping[str, Any]) -> BaseModel:
    """A plain mapping, such as a run's saved config.yaml, as a checked model."""
    return _checked(command, _settled(container), [], [])


def restore(saved: Mapping[str, Any], allow: Sequence[str]) -> schema.Train:
    """A training config as a run folder or a checkpoint keeps it, maybe of an older or newer segkit.

    Keys that it lacks get the schema's defaults; keys that segkit no longer has are dropped. `allow` comes from whoever opens the
    file, never from the file itself: it decides what code may be named.
    """
    config = validate("train", {**_of_today(saved), "allow_targets": list(allow)})
    assert isinstance(config, schema.Train)
    return config


def opened(saved: Mapping[str, Any], allow: Sequence[str]) -> schema.Train:
    """A checkpoint's training config for whoever uses the checkpoint.

    Nothing is asked of sections that only training needs: another segkit, or packages that are absent here, may have filled them.
    Metrics and data set are looked at where they are built.
    """
    container = {**_of_today(saved), "allow_targets": list(allow)}
    model, problems = _fit_used(container)
    used: dict[str, Any] = {key: container[key] for key in ("model", "inference") if key in container}
    nodes, wrong = _targets(used)
    problems += [*wrong, *_check_names(nodes, allow)]
    if problems or model is None:
        raise ProblemsFound(dict.fromkeys(problems), before("train"))
    raise_errors(_check_calls(used, allow), before("train"))
    return model


def _fit_used(container: dict[str, Any]) -> tuple[schema.Train | None, list[Problem]]:
    """The model; sections that only training needs are left out where they are wrong."""
    model, problems = messages.fit(schema.Train, _settled(container))
    bad = {problem.where.partition(".")[0] for problem in problems} & ONLY_TRAINING
    if not bad:
        return model, problems
    kept = {key: value for key, value in container.items() if key not in bad}
    return messages.fit(schema.Train, _settled({**kept, **{key: UNUSED[key] for key in bad if key in UNUSED}}))


def fit_sections(saved: Mapping[str, Any]) -> tuple[schema.Train | None, list[Problem]]:
    """A saved training config as `restore` gives it, or what is wrong with its keys; what its targets name is not looked at."""
    return messages.fit(schema.Train, _of_today(saved))


def _of_today(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and names as today's segkit has them. Raises ProblemsFound where there is too much of it."""
    for name, section in saved.items():
        if too_much := excess(section, MOST_IDS if name == "data" else MOST_VALUES):
            raise ProblemsFound([Problem(str(name)[:60], too_much)], before("train"))
    return _known(present(cast("dict[str, Any]", renamed(dict(saved)))), schema.Train)


def _known(saved: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The keys of `saved` that the schema has, at any depth."""
    kept = {name: saved[name] for name in model.model_fields if name in saved}
    sections = {name: messages.section(model, [name]) for name, value in kept.items() if isinstance(value, Mapping)}
    return {name: _known(value, inner) if (inner := sections.get(name)) else value for name, value in kept.items()}


def checked(command: str, container: dict[str, Any], known: Sequence[Problem]) -> BaseModel:
    """The model of a config. `known` problems refuse it, too; their keys, given but not understood, are reported once.

    Raises:
        ProblemsFound: All that is wrong with segkit's own keys and the names of targets; where that is nothing, all that is wrong
            with the keywords of the targets, which takes seconds of imports.
    """
    container = _settled(container)
    between = [*check_ranges(container), *check_groups(container)] if command in ("train", "import") else []
    return _checked(command, container, known, between)


def _checked(command: str, container: dict[str, Any], known: Sequence[Problem], between: Sequence[Problem]) -> BaseModel:
    """See `checked`. `between`: what is wrong between keys; a saved config may hold what older versions let pass."""
    model, found = messages.fit(COMMANDS[command], container)
    problems = _first_of_each([*found, *between])
    extras = allowed_by(container)
    nodes, wrong = _targets(container)
    problems += [*wrong, *_check_names(nodes, extras)]
    if command == "predict" and container.get("input") is None and not container.get("data"):
        problems.append(
            Problem("input", "is needed", "add  input=FILE_OR_FOLDER,  or a data set in the training's layout  data.root=FOLDER")
        )
    half = any(problem.where.startswith("members.") for problem in (*known, *problems))
    if command in ("evaluate", "predict", "calibrate"):
        problems[:0] = _what_is_evaluated(container, half)
    unread = {problem.where for problem in known}
    problems = [*known, *(problem for problem in problems if problem.where not in unread)]
    if problems or model is None:
        raise ProblemsFound(dict.fromkeys(problems), before(command))
    raise_errors(_check_calls(container, extras), before(command))
    return model


def _what_is_evaluated(container: Mapping[str, Any], half: bool) -> list[Problem]:
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


def _settled(container: Mapping[str, Any]) -> dict[str, Any]:
    """With keys under their present names, without `auto`, and with the own DataModule and LightningModule told from segkit's."""
    return with_own_classes(fitted_to_dims(present(cast("dict[str, Any]", renamed(dict(container), typed=True)))))


def with_own_classes(container: dict[str, Any]) -> dict[str, Any]:
    """`module: null` stands for segkit's own. An own DataModule is named by `data.target`, its keywords are `data.options`; of a class
    that descends from segkit's, only those that segkit's `data` has not."""
    if container.get("module") == {"_target_": MODULE}:
        container = {**container, "module": None}
    data = container.get("data")
    if not isinstance(data, dict) or "_target_" not in data:
        return container
    target, rest = data["_target_"], {key: value for key, value in data.items() if key != "_target_"}
    if target == DATAMODULE:
        return {**container, "data": rest}
    ours = schema.Data.model_fields if descends(target, BASES["data"], allowed_by(container)) else {}
    options = {key: value for key, value in rest.items() if key not in ours}
    return {**container, "data": {**{key: rest[key] for key in rest if key in ours}, "target": target, "options": options}}


def allowed_by(container: Mapping[str, Any]) -> list[str]:
    allow = container.get("allow_targets")
    return [str(name) for name in allow] if isinstance(allow, list) else []


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
    last = {(p.where.rpartition(".")[2], p.what): p for p in reversed(problems)}
    return [p for p in problems if last[p.where.rpartition(".")[2], p.what] is p]


def _targets(container: Mapping[str, Any], built: bool = False) -> tuple[list[tuple[Keys, dict[str, Any]]], list[Problem]]:
    """The nodes with a `_target_`, as their classes want them; what is wrong with a model's weights, which segkit loads itself."""
    model, problems = without_weights(container.get("model"))
    data = container.get("data")
    whole = {**container, "model": model, "own": None}  # nobody builds what is there
    if isinstance(data, dict) and data.get("target"):
        whole["data"] = {**(data.get("options") or {}), "_target_": data["target"], "source": data.get("source")}
    nodes = ((path, dict(node)) for path, node in target_nodes(whole, built=built))
    return [(path, {key: node[key] for key in node if (*path, key) != ("data", "source")}) for path, node in nodes], problems


def is_ours(path: Keys) -> bool:
    """Whether only segkit has what belongs there, or the user's own packages: metrics by case and post-processing."""
    return path[0] == "inference" or path[:2] in (("metric", "cases"), ("metric", "volumes"))


def only_training(path: Keys) -> bool:
    """Whether a target is needed to train, and never where a checkpoint is used."""
    return path[0] in ONLY_TRAINING or (path[0] == "metric" and not is_ours(path))


def _check_names(nodes: Sequence[tuple[Keys, Mapping[str, Any]]], allow: Sequence[str]) -> Iterator[Problem]:
    """What is wrong with targets before anything is imported."""
    places = {path for path, _ in nodes}
    for path, node in nodes:
        yield from check_name(node, ".".join(path), allow, is_ours(path), only_training(path))
        is_inner = any(path[:n] in places for n in range(len(path)))
        if node.get(PARTIAL) is True and not is_inner and not _calls(path)[0]:
            yield Problem(".".join((*path, PARTIAL)), "has no place here: what is named is built at once", "leave it out")


def _check_calls(container: Mapping[str, Any], allow: Sequence[str]) -> Iterator[Problem]:
    for path, node in _targets(container, built=True)[0]:
        own = _calls_of_own(path[0], node, allow) if path in (("data",), ("module",)) else None
        where = "scheduler" if path == ("scheduler", "target") else ".".join(path)
        yield from check_call(with_folder(path, node, allow), where, allow, *(own or _calls(path)), only_training(path))


def _calls_of_own(section: str, node: Mapping[str, Any], allow: Sequence[str]) -> tuple[Names, Names]:
    """As `CALLS`, for a DataModule or LightningModule of the user's."""
    is_below_ours = descends(str(node["_target_"]), BASES[section], allow)
    if section == "data":
        return ((), TO_DATAMODULE if is_below_ours else ())
    return ((), TO_BASE if is_below_ours else tuple(key for key in TO_MODULE if key not in node))


def _calls(path: Keys) -> tuple[Names, Names]:
    return CALLS.get((*path[:2], "*") if len(path) == 3 and (*path[:2], "*") in CALLS else path, ((), ()))


def without_weights(node: Any) -> tuple[Any, list[Problem]]:
    """A model's node as its class wants it; what is wrong with its `weights`, which segkit loads itself."""
    if not isinstance(node, dict):
        return node, []
    given = node.get("weights")
    rest = {key: value for key, value in node.items() if key != "weights"}
    if given is None:
        return rest, []
    if not isinstance(given, dict) or (given.get("path") is None) == (given.get("url") is None):
        return rest, [Problem("model.weights", "needs a path or a url, one of them", "write  'model.weights={path: FILE}'")]
    _, problems = messages.fit(schema.Weights, given)
    return rest, [replace(problem, where=f"model.weights.{problem.where}") for problem in problems]
