"""The groups of named nodes, `callbacks` and `logger`: as older versions of segkit wrote them, and what does not go together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any

import yaml

from segkit.config.aliases import KEYS
from segkit.config.targets import keywords_of
from segkit.system.errors import Problem

PACKAGE = Path(__file__).resolve().parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
Config = dict[str, Any]
FOLDERS = {"callbacks": "dirpath", "logger": "save_dir"}
"""Group -> the keyword of its classes that is a folder of the run unless it is given."""
PLACES = ("dirpath", "dir", "save_dir", "root_dir", "output_dir", "offline_directory")
"""Keywords that name a folder."""
BESIDE_SCHEDULER = ("interval", "frequency", "monitor")
BY_NAME = ("name", "warmup_epochs", "warmup_fraction", "min_lr_ratio", "power", "factor", "patience")
"""Keys of a scheduler: Lightning's, and those of segkit's own ones."""
WITH_PLUS = ("callbacks.extra", "logger.tensorboard")
"""Keys that may stand alone where the config has them no longer, or not yet."""
NEED_A_LOGGER = ("LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor")
NO_RESUME = {
    "LearningRateFinder": "search the rate instead:  segkit tune  or  segkit train -m stage=lr",
    "BatchSizeFinder": "segkit finds the number itself:  data.batch_size=auto",
}
"""Callbacks that train by themselves before the training does, which no resume could repeat -> what to do."""


PACKAGES = {
    "WandbLogger": {"wandb": "wandb"},
    "MLFlowLogger": {"mlflow": "mlflow-skinny", "sqlalchemy": "sqlalchemy", "alembic": "alembic", "sqlparse": "sqlparse"},
    "CometLogger": {"comet_ml": "comet-ml"},
}
"""Logger -> the modules that it needs, and the packages that have them."""

# --- older configs ----------------------------------------------------------------------------------------------------


def present_words(words: Sequence[str]) -> list[str]:
    """Overrides, or the words of a command line, with keys under their present names."""
    return [_present_word(word) for word in words]


def _present_word(word: str) -> str:
    sign, key, rest = re.fullmatch(r"([+~]*)([^=]*)(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
    if key in WITH_PLUS and rest:
        return f"++{key}{rest}"
    for old, new in KEYS.items():
        if key.startswith(f"{old}.") or key == old:
            return f"{sign}{new}{key.removeprefix(old)}{rest}"
    return word


def present(config: Config) -> Config:
    """A config with its callbacks and loggers as today: each key a node with a `_target_`.

    A known name without one is what a preset sets for a callback that is not chosen, and is left out. In the sections of an older
    version, which had no targets, it gets its target.
    """
    is_old = "checkpoint" in _section(config, "callbacks")
    config = _with_schedule(_moved(config))
    for group in ("callbacks", "logger"):
        nodes = {name: _switched(group, name, node) for name, node in _section(config, group).items()}
        if is_old:
            nodes = {name: {**default(group, name), **node} if isinstance(node, dict) else node for name, node in nodes.items()}
        if group in config:
            config = {**config, group: {name: node for name, node in nodes.items() if not _is_unchosen(group, name, node)} or None}
    return config


def _section(config: Mapping[str, Any], name: str) -> Config:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _moved(config: Config) -> Config:
    """With what stands under an old key under its present one."""
    for old, new in KEYS.items():
        section, _, key = old.partition(".")
        if key in _section(config, section):
            value = config[section][key]
            config = {**config, section: {name: inner for name, inner in config[section].items() if name != key}}
            config = _with(config, new.split("."), value)
    return config


def _with(node: Any, path: Sequence[str], value: Any) -> Any:
    """`node` with `value` merged in at `path`."""
    if path:
        inner = node if isinstance(node, dict) else {}
        return {**inner, path[0]: _with(inner.get(path[0]), path[1:], value)}
    return {**node, **value} if isinstance(node, dict) and isinstance(value, dict) else value


def _with_schedule(config: Config) -> Config:
    """With a scheduler that is named by its class apart from Lightning's keys beside it.

    Where a preset names a class, the keys of the option below it are still there: those that the class does not take are left out.
    """
    node = _section(config, "scheduler")
    if "_target_" not in node:
        return config
    allow = config.get("allow_targets")
    taken = keywords_of(str(node["_target_"]), [str(name) for name in allow or ()], training=True)
    beside = {key: value for key, value in node.items() if key in BESIDE_SCHEDULER}
    target = {key: value for key, value in node.items() if key not in BESIDE_SCHEDULER and (key not in BY_NAME or key in taken)}
    return {**config, "scheduler": {**beside, "name": "constant", "target": target}}


def _switched(group: str, name: str, node: Any) -> Any:
    """`logger.tensorboard=true` is its node, false none."""
    return (default(group, name) or None if node else None) if isinstance(node, bool) else node


def _is_unchosen(group: str, name: str, node: Any) -> bool:
    return isinstance(node, dict) and "_target_" not in node and bool(default(group, name))


@cache
def default(group: str, name: str) -> Config:
    """The node of an option that adds one; empty where there is no such option."""
    path = CONF / group / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if re.fullmatch(r"\w+", name) and path.is_file() else {}
    node = content.get(name)
    return node if isinstance(node, dict) else {}


# --- folders ----------------------------------------------------------------------------------------------------------


def with_folder(path: Sequence[str], node: Mapping[str, Any], allow: Sequence[str], folder: str = ".") -> dict[str, Any]:
    """The node of a callback or logger with its folder, where its class wants one that is not given; any other node as it is.

    A null of a logger is as if it were left out.
    """
    if path[0] == "logger":
        node = {key: value for key, value in node.items() if value is not None}
    wanted = FOLDERS.get(path[0]) if len(path) == 2 else None
    if wanted is None or node.get(wanted) is not None or wanted not in keywords_of(str(node["_target_"]), allow, training=True):
        return dict(node)
    return {**node, wanted: folder}


def in_folder(node: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A node whose relative folders lie in `folder`, those of MLflow's store as well."""
    places = {key: str(folder / node[key]) for key in PLACES if isinstance(node.get(key), str)}
    uri = node.get("tracking_uri")
    if isinstance(uri, str) and (relative := re.fullmatch(r"(sqlite:///|file:|)(?![/~])([^:]+)", uri)):
        places["tracking_uri"] = f"{relative[1]}{folder / relative[2]}"
    return {**node, **places}


# --- what is missing, and what does not go together --------------------------------------------------------------------


def check_groups(container: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong between callbacks and loggers, each of which may be right by itself."""
    has_logger = any(_section(container, "logger").values())
    for name, node in _section(container, "callbacks").items():
        target = str(node.get("_target_")) if isinstance(node, dict) else ""
        kind, at = target.rpartition(".")[2], f"callbacks.{name}"
        if kind in NEED_A_LOGGER and not has_logger:
            yield Problem(at, f"{kind} writes to a logger, and there is none", f"add  logger=csv  or  ~{at}")
        if target.startswith("segkit.") and node.get("monitor") and not node.get("mode"):
            yield Problem(f"{at}.mode", "is needed where another metric is monitored", f"add  {at}.mode=min  or  {at}.mode=max")
        if kind in NO_RESUME and target.startswith("lightning."):
            yield Problem(at, f"{kind} trains before the training, which no resume could repeat", NO_RESUME[kind])
    for name, node in _section(container, "logger").items():
        if isinstance(node, dict):
            yield from _check_service(f"logger.{name}", str(node.get("_target_")).rpartition(".")[2], node)


def _check_service(at: str, kind: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    """What a logger lacks: its packages, or the key of its service."""
    missing = [package for module, package in PACKAGES.get(kind, {}).items() if find_spec(module) is None]
    if missing:
        yield Problem(at, f"needs packages that are not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    elif kind == "CometLogger" and not (os.environ.get("COMET_API_KEY") or Path("~/.comet.config").expanduser().exists()):
        yield Problem(at, "Comet wants a key, which no config should hold", "export COMET_API_KEY=KEY")
    elif kind == "WandbLogger" and not node.get("offline") and not _knows_wandb():
        yield Problem(at, "Weights & Biases wants a key, which no config should hold", f"wandb login,  or add  {at}.offline=true")


def _knows_wandb() -> bool:
    """Whether wandb finds a key, or has been told that it needs none."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return True
    try:
        return any("wandb" in host for host in netrc(os.environ.get("NETRC")).hosts)
    except (OSError, NetrcParseError):
        return False
