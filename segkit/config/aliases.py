"""Old dotted names of building blocks (aliases.yaml), and the present names in their place."""

from __future__ import annotations

from pathlib import Path

import yaml

_TABLES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
_MOVED = {f"{package}.{old}": f"{package}.{old.partition('.')[2]}" for package, names in _TABLES["moved"].items() for old in names}
ALIASES: dict[str, str] = {**_TABLES["renamed"], **{f"segkit.{old}": f"segkit.{new}" for old, new in _MOVED.items()}}
"""Old name -> present public name."""
KEYS: dict[str, str] = _TABLES["keys"]
"""Old key of a config -> present key."""
KEYWORDS: dict[str, dict[str, str]] = _TABLES["keywords"]
"""Present public name -> {old keyword: present keyword}."""
ELSEWHERE: dict[str, str] = _TABLES["elsewhere"]
"""Keyword of other libraries' networks -> key that does the same here."""
VALUES: dict[str, dict[str, str]] = _TABLES["values"]
"""Old keyword -> {old value: present value}."""
SMP, SMP_NETWORKS = "segkit.models.SMP", frozenset(f"segmentation_models_pytorch.{name}" for name in _TABLES["smp"])


def renamed(node: object, typed: bool = False) -> object:
    """A config node, at any depth, with old names of targets and their keywords replaced by the present ones.

    With `typed` a node that names a present target keeps its keywords: what is typed today must be spelled as today.
    """
    if isinstance(node, list | tuple):
        return [renamed(inner, typed) for inner in node]
    if not isinstance(node, dict):
        return node
    out = {key: renamed(value, typed) for key, value in node.items()}
    target = out.get("_target_")
    if isinstance(target, str) and target in SMP_NETWORKS:
        return of_smp(out)
    if not isinstance(target, str) or (typed and target not in ALIASES):
        return out
    present = ALIASES.get(target, target)
    keywords = KEYWORDS.get(present, {})
    values = {key: VALUES[key].get(str(value), value) if key in VALUES and key in keywords else value for key, value in out.items()}
    return {**{keywords.get(key, key): value for key, value in values.items()}, "_target_": present}


def present_name(target: str) -> str:
    return SMP if target in SMP_NETWORKS else ALIASES.get(target, target)


def of_smp(node: dict[str, object]) -> dict[str, object]:
    """A network of segmentation-models-pytorch as one of ours, with that package's own default for the encoder's weights."""
    rest = {"out_channels" if key == "classes" else key: value for key, value in node.items()}
    return {"encoder_weights": "imagenet", **rest, "_target_": SMP, "arch": str(node["_target_"]).rpartition(".")[2]}


def keyword_hint(target: str, keyword: str, prefix: str = "") -> str:
    """'did you mean loss.parts.dice.absent_classes?' for a keyword that has another name by now, or is a key of its own; else ''."""
    new = KEYWORDS.get(target, {}).get(keyword)
    whole = f"{prefix}{new}" if new else ELSEWHERE.get(keyword, "")
    return f"did you mean {whole}?" if whole else ""
