"""`segkit models`: the networks on offer, with parameters and operations. Built without memory; nothing is downloaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from typing import Any, cast, get_args

import torch
from rich.columns import Columns
from rich.table import Table
from torch import nn

from segkit.config import compose
from segkit.config.commands import Models
from segkit.config.targets import instantiate, keywords_of
from segkit.models.probe import flop_per_image
from segkit.models.segmentation import Normalizer, SegmentationModel
from segkit.models.smp import SMP, TIMM, TRANSFORMER, Architecture, encoder_names, weights_on_offer
from segkit.system.errors import SegkitError, first_line, nearest
from segkit.system.progress import console, track

MOST = 30
"""Encoders that are built and counted; of more matches only the names are listed, unless all=true."""
VOLUME = (64, 64, 64)
"""Size for networks of volumes."""


@dataclass(frozen=True)
class Row:
    name: str
    parameters: int | None = None
    flop: float | None = None
    remark: str = ""
    """Weights on offer, or why the network cannot be built."""


def command(cfg: Models) -> int:
    """The exit code: 0, or 1 where no encoder matches."""
    names = {name.lower(): name for name in get_args(Architecture)}
    if cfg.arch.lower() not in names:
        raise SegkitError(f"arch={cfg.arch} is not a valid option; available: {', '.join(names.values())}")
    cfg = cfg.model_copy(update={"arch": names[cfg.arch.lower()]})
    return encoders(cfg, cfg.pattern) if cfg.pattern else overview(cfg)


def overview(cfg: Models) -> int:
    presets = [preset(name, cfg) for name in track(compose.groups("train")["model"][1], "counting presets")]
    show("model=NAME", presets, cfg)
    architectures = [architecture_row(arch, cfg) for arch in track(get_args(Architecture), "counting architectures")]
    show("model=smp model.arch=NAME", architectures, cfg)
    n_timm = sum(name.startswith(TIMM) for name in encoder_names())
    console.print(
        f"model=smp takes {len(encoder_names()) - n_timm} encoders (model.encoder_name=NAME), and those of timm's {n_timm:,} (tu-NAME)\n"
        "that have features at several scales. To find one, with its weights:\n"
        "  segkit models resnet        segkit models 'tu-convnext*' arch=FPN",
        markup=False,
    )
    return 0


def encoders(cfg: Models, pattern: str) -> int:
    known = encoder_names()
    names = [name for name in known if matches(name, pattern)]
    if not names:
        hint = nearest(pattern.strip("*"), known) or "segkit models '*'  lists them all"
        print(f"segkit models: no encoder matches {pattern};   {hint}", file=sys.stderr)
        return 1
    if len(names) > MOST and not cfg.all:
        console.print(Columns(names, padding=(0, 2), column_first=True), soft_wrap=False)
        console.print(f"{len(names)} encoders. A narrower pattern, of at most {MOST}, shows their size and weights; all=true does for all.")
        return 0
    rows = [encoder_row(name, cfg) for name in track(names, "counting encoders")]
    show(f"model=smp model.arch={cfg.arch} model.encoder_name=NAME", rows, cfg)
    return 0


def matches(name: str, pattern: str) -> bool:
    """Upper and lower case alike; a word without wildcards may be any part of the name."""
    pattern = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    return fnmatch(name.lower(), pattern.lower())


def architecture_row(arch: Architecture, cfg: Models) -> Row:
    encoder = TRANSFORMER if arch == "DPT" else "resnet34"
    return count(arch, partial(SMP, cfg.channels, 1, arch, encoder), cfg, f"with {encoder}")


def encoder_row(name: str, cfg: Models) -> Row:
    build = partial(SMP, cfg.channels, 1, cast("Architecture", cfg.arch), name)
    device = "cpu" if name.startswith("mit_") else "meta"  # which look at values while being built
    return count(name, build, cfg, ", ".join(weights_on_offer(name)) or "no weights", device=device)


def preset(name: str, cfg: Models) -> Row:
    if name.endswith("_3d"):
        return count(name, partial(built, name, cfg.channels, 3), cfg, "volumes, " + " x ".join(map(str, VOLUME)), VOLUME)
    return count(name, partial(built, name, cfg.channels, 2), cfg)


def built(preset: str, channels: int, dims: int) -> nn.Module:
    """With one class and random weights."""
    config: Any = compose.compose("train", [f"model={preset}"])
    node = {key: value for key, value in config.model.items() if key not in ("weights", "encoder_weights")}
    known: dict[str, Any] = {"in_channels": channels, "out_channels": 1, "dims": dims}
    if "dims" not in keywords_of(str(node["_target_"]), config.allow_targets):
        del known["dims"]
    return instantiate(node, allow=config.allow_targets, **known)  # type: ignore[no-any-return]


def count(
    name: str, build: Callable[[], nn.Module], cfg: Models, remark: str = "", size: tuple[int, ...] = (), device: str = "meta"
) -> Row:
    """Parameters and operations; on the meta device without memory. `size`: that of the command, unless given."""
    size = size or (cfg.size, cfg.size)
    try:
        with torch.device(device):
            network = build()
    except Exception as error:  # a user's own preset may raise anything
        return Row(name, remark=short(str(error)))
    model = SegmentationModel(network, Normalizer("unit", dims=len(size)), "binary")
    flop = flop_per_image(model, cfg.channels, size)
    return Row(name, sum(p.numel() for p in network.parameters()), flop, remark if flop else "cannot take this size")


def short(error: str) -> str:
    """The text after the last colon of the first line: the library's own words."""
    return first_line(error, "cannot be built").rpartition(": ")[2]


def show(title: str, rows: Iterable[Row], cfg: Models) -> None:
    caption = f"GFLOP: one forward pass, {cfg.channels} x {cfg.size} x {cfg.size}"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", pad_edge=False)
    table.add_column("NAME", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("GFLOP", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in sorted(rows, key=lambda row: (not row.flop, row.flop or 0.0, row.name)):
        parameters = "-" if row.parameters is None else f"{row.parameters / 1e6:.2f} M"
        table.add_row(row.name, parameters, f"{row.flop / 1e9:.2f}" if row.flop else "-", row.remark)
    console.print(table, markup=False, soft_wrap=False)
