"""Presets are of two kinds: what a training is, and which checkpoints are judged together. Each command takes its own.

Both lie in `conf/experiment`. The kind follows from what a preset sets: members are nothing to a training, and a network
nothing to a command that opens checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import OmegaConf

from segkit.config.schema import COMMANDS
from segkit.system.errors import Problem

GROUP = "experiment"
TRAINING, JUDGING = ("train", "import"), ("evaluate", "predict")


def misplaced(command: str, overrides: Sequence[str], loader: ConfigLoader) -> Problem | None:
    """The preset of the other kind that a command was given, and what to type instead."""
    given = [value for key, _, value in (text.partition("=") for text in overrides) if key.lstrip("+") == GROUP]
    name = next((name for name in given if not fits(command, name, loader)), None)
    if name is None:
        return None
    if command in JUDGING:
        return Problem(GROUP, f"{name} is a preset of training", "leave it out: ckpt=RUN carries it already")
    members = [f"members.{member}.ckpt=RUN" for member in content(name, loader).get("members") or {}]
    return Problem(GROUP, f"{name} trains nothing", " ".join([f"segkit evaluate {GROUP}={name}", *members]))


def fits(command: str, name: str, loader: ConfigLoader) -> bool:
    """Unless it sets what this command does not know and one of the other kind does."""
    others = TRAINING if command in JUDGING else JUDGING if command in TRAINING else ()
    theirs = {key for other in others for key in COMMANDS[other].model_fields}
    return not sections(content(name, loader)) & (theirs - set(COMMANDS[command].model_fields))


def sections(preset: dict[str, Any]) -> set[str]:
    """Those that a preset sets, itself or by choosing an option of their group."""
    chosen = [str(key) for entry in preset.get("defaults") or [] if isinstance(entry, dict) for key in entry]
    return {*preset, *(key.removeprefix("override ").lstrip("/") for key in chosen)}


def content(name: str, loader: ConfigLoader) -> dict[str, Any]:
    """As the file has it; empty where there is none, or none that can be read: that is told elsewhere."""
    path = f"{GROUP}/{name}"
    try:
        found = next((source for source in loader.get_sources() if source.is_config(path)), None)
        node = OmegaConf.to_container(found.load_config(path).config) if found else {}
    except Exception:  # whatever YAML and OmegaConf raise
        return {}
    return {str(key): value for key, value in node.items()} if isinstance(node, dict) else {}
