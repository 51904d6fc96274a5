"""Presets, the files of `conf/experiment`: of which kind one is, and which commands take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import OmegaConf

from segkit.config.commands import COMMANDS
from segkit.system.errors import Problem

GROUP = "experiment"
TRAINING, EVALUATING = ("train", "import"), ("evaluate", "predict")
"""Presets, in conf/experiment: what a training is, and which checkpoints are evaluated together. Each command takes its own kind."""


def misplaced(command: str, overrides: Sequence[str], loader: ConfigLoader) -> Problem | None:
    """The preset of the other kind that a command was given, and what to type instead."""
    given = [value for key, _, value in (text.partition("=") for text in overrides) if key.lstrip("+") == GROUP]
    name = next((name for name in given if not fits(command, name, loader)), None)
    if name is None:
        return None
    if command in EVALUATING:
        return Problem(GROUP, f"{name} is a preset of training", "leave it out: ckpt=RUN carries it already")
    members = [f"members.{member}.ckpt=RUN" for member in content(name, loader).get("members") or {}]
    return Problem(GROUP, f"{name} trains nothing", " ".join([f"segkit evaluate {GROUP}={name}", *members]))


def fits(command: str, name: str, loader: ConfigLoader) -> bool:
    """Whether a command takes a preset: it does not where that sets what only commands of the other kind know."""
    others = TRAINING if command in EVALUATING else EVALUATING if command in TRAINING else ()
    theirs = {key for other in others for key in COMMANDS[other].model_fields}
    return not sections(content(name, loader)) & (theirs - set(COMMANDS[command].model_fields))


def sections(preset: dict[str, Any]) -> set[str]:
    """Sections that a preset sets, itself or by choosing an option of their group."""
    chosen = [str(key) for entry in preset.get("defaults") or [] if isinstance(entry, dict) for key in entry]
    return {*preset, *(key.removeprefix("override ").lstrip("/") for key in chosen)}


def content(name: str, loader: ConfigLoader) -> dict[str, Any]:
    """The file's content; empty where there is none, or none that can be read: that is reported elsewhere."""
    path = f"{GROUP}/{name}"
    try:
        found = next((source for source in loader.get_sources() if source.is_config(path)), None)
        node = OmegaConf.to_container(found.load_config(path).config) if found else {}
    except Exception:  # whatever YAML and OmegaConf raise
        return {}
    return {str(key): value for key, value in node.items()} if isinstance(node, dict) else {}
