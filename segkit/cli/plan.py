"""`segkit plan`: propose a preset for a data set, as a short YAML with a reason beside every key."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape

from segkit.config import commands, compose
from segkit.config.schema import Preprocess
from segkit.data.audit.audit import AuditResult, inspect
from segkit.data.planning import Choice, Fingerprint, Machine, Measure, fingerprint, needs_slices, plan, times
from segkit.data.round_trip import round_trip
from segkit.data.sources import source_name
from segkit.system.errors import SegkitError, raise_errors
from segkit.system.files import cache_folder, check_writable, write_text_atomic
from segkit.system.progress import console

SECTIONS = ("data", "split", "preprocess", "sampling", "augment", "model", "trainer")


def preset(name: str, cfg: commands.Plan, seen: Fingerprint, machine: Machine, choices: Sequence[Choice]) -> str:
    """The YAML: what it was made from on top, a reason beside every key."""
    volumes = seen.dims == 3
    head = [
        "# @package _global_",
        f"# {name}: proposed by segkit plan for {seen.n} labelled cases in {seen.groups} groups.",
        f"# Median size {times(seen.shape)}, {seen.channels} channel{'s' * (seen.channels > 1)}, {seen.dtype}.",
        f"# Classes by share of all pixels: {', '.join(f'{k} {v:.2%}' for k, v in seen.pixel_share.items())}.",
        f"#   segkit train experiment={name}",
        "defaults:",
        f"  - override /data: {_choice(cfg)}",
        "  - override /model: unet_light" if machine.device == "cpu" else "  - override /model: unet",
        f"  - override /augment: {'light' if volumes else 'medical'}",
        f"name: {name}",
    ]
    given = [Choice(key, value, "") for key, value in _typed(cfg).items()]
    decided = {c.key for c in choices}
    lines: list[str] = []
    section = ""
    for one in sorted([*(c for c in given if c.key not in decided), *choices], key=lambda c: SECTIONS.index(c.key.split(".")[0])):
        top, _, rest = one.key.partition(".")
        if top != section:
            lines.append(f"{top}:")
            section = top
        lines += _line(rest, one)
    return "\n".join([*head, *lines]) + "\n"


def _line(rest: str, one: Choice) -> list[str]:
    """`a.b` becomes two lines. Values in YAML's flow style, which JSON is a part of."""
    *outer, key = rest.split(".")
    lines = [f"{'  ' * (i + 1)}{part}:" for i, part in enumerate(outer)]
    value = yaml.safe_dump(one.value, default_flow_style=True, width=10_000, allow_unicode=True).strip().removesuffix("\n...")
    text = f"{'  ' * (len(outer) + 1)}{key}: {value}"
    return [*lines, f"{text:<44} # {one.why}" if one.why else text]


def _choice(cfg: commands.Plan) -> str:
    return cfg.choice or source_name(cfg.data.source)


def _typed(cfg: commands.Plan) -> dict[str, Any]:
    """The keys of data and split that differ from the data set's own YAML."""
    plain = compose.compose("train", [f"data={_choice(cfg)}", f"seed={cfg.seed}"]).model_dump(mode="json")
    typed = cfg.model_dump(mode="json", include={"data", "split"})
    source, own_source = typed["data"]["source"], plain["data"]["source"]
    typed["data"]["source"] = {key: value for key, value in source.items() if own_source.get(key) != value} or own_source
    if root := typed["data"]["root"]:
        typed["data"]["root"] = str(Path(root).expanduser().absolute())
    return {f"{top}.{key}": value for top in typed for key, value in typed[top].items() if value != plain[top][key]}


def command(cfg: commands.Plan) -> int:
    """Read every file, choose, and write the preset. Raises ProblemsFound where the data has errors."""
    check_writable(Path(cfg.output).expanduser(), "choose another  output=FOLDER")
    cfg, result, seen = _fingerprint(cfg)
    machine = Machine.of(cfg.accelerator, cfg.memory_gb)
    choices = plan(seen, machine, result.labelled.labels.classes, measure_of(result))
    name = cfg.name or _name(result)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise SegkitError(f"name={name}: use only letters, digits, _ and -, since it becomes a file name")
    path = Path(cfg.output).expanduser() / f"{name}.yaml"
    if path.exists() and not cfg.overwrite:
        raise SegkitError(f"{path} exists;   choose another  name=...  or add  overwrite=true")
    write_text_atomic(path, preset(name, cfg, seen, machine, choices))
    width = max(len(f"{c.key}={json.dumps(c.value)}") for c in choices)
    for one in choices:
        console.print(f"  {f'{one.key}={json.dumps(one.value)}':<{width}}   {escape(one.why)}", highlight=False)
    console.print(f"written to {path};   read it, change what you like, then   segkit train experiment={name}", markup=False)
    return 0


def measure_of(result: AuditResult) -> Measure:
    """Sends masks of the data set to a grid and back."""
    return lambda size, fit: round_trip(result.labelled, result.statistics, Preprocess(size=size, fit=fit))


def _fingerprint(cfg: commands.Plan) -> tuple[commands.Plan, AuditResult, Fingerprint]:
    """The config, with data.dims=2 where volumes are better processed slice by slice, and the data set seen so."""
    result = _inspect(cfg)
    seen = fingerprint(result.labelled, result.statistics)
    why = needs_slices(seen)
    if not why:
        return cfg, result, seen
    if "data.dims" in _typed(cfg):
        console.print(f"volumes stay volumes, because data.dims=3 is set, although there are {why}", markup=False)
        return cfg, result, seen
    console.print(f"volumes are processed slice by slice: {why}", markup=False)
    cfg = cfg.model_copy(update={"data": cfg.data.model_copy(update={"dims": 2})})
    result = _inspect(cfg)
    return cfg, result, fingerprint(result.labelled, result.statistics)


def _inspect(cfg: commands.Plan) -> AuditResult:
    result = inspect(cfg.data, cfg.split, cfg.seed, cfg.allow_targets, cache_folder())
    raise_errors(result.problems, before="anything is planned")
    return result


def _name(result: AuditResult) -> str:
    """Name of the folder that holds the data, as a file name."""
    place = result.manifest.name if result.manifest.is_phantom else result.manifest.root.name
    return re.sub(r"[^A-Za-z0-9_-]+", "_", place).strip("_") or result.manifest.name
