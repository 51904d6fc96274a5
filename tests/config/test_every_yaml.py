"""Every file in conf/ composes with a command that knows its group, and everything it names is there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from segkit.config import compose
from segkit.config.commands import COMMANDS
from segkit.config.schema import Data, Train
from segkit.config.targets import find
from segkit.system.errors import ProblemsFound

FILES = sorted(compose.CONF.rglob("*.yaml"))
NEEDED = {"evaluate": ["ckpt=x"], "predict": ["ckpt=x", "input=x", "output=x"], "phantom": ["output=x"]}
NEEDED |= {"import": ["weights=x"], "share": ["ckpt=x", "output=x"], "export": ["ckpt=x", "output=x"], "calibrate": ["ckpt=x"]}
GROUPS = {command: compose.groups(command) for command in COMMANDS}
OPTIONS = [f for f in FILES if f.parent != compose.CONF and "hydra" not in f.parts and not f.name.startswith("_")]


def targets(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [target for value in node.values() for target in targets(value)]
    return []


def needed(command: str, option: Path) -> list[str]:
    """The option, and what a command asks for with it: of members a checkpoint each, in place of the only one."""
    members = [f"members.{name}.ckpt=x" for name in (yaml.safe_load(option.read_text()) or {}).get("members", {})]
    others = [key for key in NEEDED.get(command, []) if not (members and key.startswith("ckpt"))]
    return [*others, *members, f"{option.parent.relative_to(compose.CONF).as_posix()}={option.stem}"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_needs_nothing_but_what_it_asks_for(command: str) -> None:
    compose.compose(command, NEEDED.get(command, []))
    assert (compose.CONF / f"{command}.yaml").is_file()


def users(file: Path) -> list[str]:
    group = file.parent.relative_to(compose.CONF).as_posix()
    return [command for command, groups in GROUPS.items() if group in groups and file.stem in groups[group][1]]


@pytest.mark.parametrize("file", OPTIONS, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_an_option_is_offered(file: Path) -> None:
    assert users(file)


def uses() -> list[object]:
    """Each option with each command; what a training offers is composed and built by test_instantiation.py anyway."""
    pairs = [(command, file) for file in OPTIONS for command in users(file)]
    slow = {file: [pytest.mark.slow] * ("train" in users(file)) for file in OPTIONS}
    return [pytest.param(command, file, id=f"{command}-{file.parent.name}/{file.stem}", marks=slow[file]) for command, file in pairs]


@pytest.mark.parametrize(("command", "file"), uses())
def test_an_option_composes(command: str, file: Path) -> None:
    if file.stem == "comet" and not find_spec("comet_ml"):
        with pytest.raises(ProblemsFound, match="pip install comet-ml"):
            compose.compose(command, needed(command, file))
        return
    compose.compose(command, needed(command, file))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(compose.CONF).as_posix())
def test_what_is_named_is_there(file: Path) -> None:
    for target in targets(yaml.safe_load(file.read_text())):
        assert find(target, ["hydra_plugins", "segkit"], training=True), target  # raises where there is no such name


def test_defaults_of_the_schema_are_those_of_the_yaml() -> None:
    """An old config that lacks a key gets the first, a new one the second."""
    composed = compose.compose("train", ["name=null"])
    for name, field in Train.model_fields.items():
        if not field.is_required() and name not in ("name", "augment", "callbacks", "logger"):  # the last two hold what is chosen
            assert getattr(composed, name) == field.default, name
    shared = ("root", "labels", "overlap", "exclude", "dims", "neighbours", "phantom_n", "batch_size", "shuffle", "num_workers")
    for key in (*shared, "cache_gb", "disk_cache_gb"):
        assert getattr(composed.data, key) == Data.model_fields[key].default, key  # type: ignore[attr-defined]


def test_presets_tell_how_to_run_them() -> None:
    for command in ("train", "evaluate"):
        for name in GROUPS[command]["experiment"][1]:
            assert f"segkit {command} experiment={name}" in (compose.CONF / "experiment" / f"{name}.yaml").read_text()
