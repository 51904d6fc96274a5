"""`segkit plan`: from a data set's fingerprint to a preset that trains without an edit, every choice with its reason.

The rules follow nnU-Net (Isensee et al., Nature Methods 2021) where it has one, with budgets for the machine at hand. What
is written is a short YAML that a person can read and change.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.markup import escape

from segkit.config import compose, schema
from segkit.data.audit.audit import Looked, look
from segkit.data.labels import sided
from segkit.data.planning import Fingerprint, fingerprint
from segkit.data.sources import source_name
from segkit.system.errors import SegkitError, raise_errors
from segkit.system.files import CACHE, write_text_atomic
from segkit.system.hardware import choose_device
from segkit.system.progress import console

FEWEST_SLICES = 12
"""A volume of fewer slices has little to say in its third dimension."""
ANISOTROPIC = 3.0
"""Slices so many times thicker than their pixels are better seen one by one (nnU-Net's threshold)."""
THINNEST = 5.0
"""Pixels that the smallest structure should measure on the network's grid."""
BYTES_A_PIXEL = 64
"""Of memory per pixel of the input and channel of the first level, in bf16: 34 to 50 are kept for the backward pass (measured), and
gradients are on their way."""


@dataclass(frozen=True)
class Machine:
    """What a training may use. `pixels` of input that a step works on at once, and the widths that it bears."""

    device: str
    memory_gb: float
    pixels: int
    widths: tuple[int, ...]
    steps: int
    """Of a training, about as long as one waits."""

    @classmethod
    def of(cls, accelerator: Any, memory_gb: float | None) -> Machine:
        device = choose_device(accelerator)
        if device == "cpu":
            free = psutil.virtual_memory().available / 2e9 if memory_gb is None else memory_gb
            return cls("cpu", free, 8 * 192 * 192, (16, 32, 64, 128, 256), 2500)
        import torch

        free = torch.cuda.mem_get_info()[0] / 1e9 if memory_gb is None and device == "cuda" else memory_gb or 8.0
        return cls(device, free, 16 * 512 * 512, (32, 64, 128, 256, 512), 25_000)


@dataclass(frozen=True)
class Choice:
    """A key of the preset, its value, and why."""

    key: str
    value: Any
    why: str


def plan(seen: Fingerprint, machine: Machine, classes: Sequence[str]) -> list[Choice]:
    """All choices, in the order of the preset."""
    choices = [*_dims(seen), *_grid(seen, machine), *_intensity(seen)]
    decided = {choice.key: choice.value for choice in choices}
    patch = decided.get("sampling.patch")
    size = patch or decided["preprocess.size"]
    spacing = decided.get("preprocess.spacing_mm") or seen.spacing_mm or (1.0,) * seen.dims
    pool = _pool(size, spacing, len(machine.widths) - 1)
    widths = machine.widths[: len(pool) + 1]
    batch, why = _batch(size, widths, seen, machine)
    per_image = _patches_per_image(seen, size) if patch else 1
    choices += _sampling(seen, per_image if patch else None)
    choices.append(Choice("model.widths", list(widths), f"{len(widths)} levels: the deepest is {_times(_deepest(size, pool))} pixels"))
    if any(s != 2 for step in pool for s in step):
        choices.append(Choice("model.pool", pool, "an axis is halved while it is long and not much coarser than the finest"))
    choices.append(Choice("data.batch_size", batch, why))
    choices += _augment(classes)
    steps = max(1, round(0.8 * seen.n) * per_image // batch)
    epochs = min(300, max(20, math.ceil(machine.steps / steps)))
    choices.append(Choice("trainer.max_epochs", epochs, f"about {epochs * steps} steps of {batch}"))
    return choices


def _dims(seen: Fingerprint) -> list[Choice]:
    if seen.dims == 2:
        kind = f"slices, {seen.slices_per_volume:.0f} a volume" if seen.is_sliced else "images"
        return [Choice("data.dims", 2, kind)]
    return [Choice("data.dims", 3, f"volumes of {_times(seen.shape)}" + (f" at {_times(seen.spacing_mm)} mm" if seen.spacing_mm else ""))]


def sees_slices(seen: Fingerprint) -> str:
    """Why volumes had better be seen slice by slice; empty where not."""
    if seen.dims == 3 and seen.shape[0] < FEWEST_SLICES:
        return f"only {seen.shape[0]} slices a volume"
    if seen.dims == 3 and seen.spacing_mm and seen.spacing_mm[0] / min(seen.spacing_mm[1:]) > ANISOTROPIC:
        return f"slices are {seen.spacing_mm[0] / min(seen.spacing_mm[1:]):.1f} times thicker than their pixels"
    return ""


def _grid(seen: Fingerprint, machine: Machine) -> Iterator[Choice]:
    """Where the network sees an image: whole, smaller, or in patches."""
    if seen.dims == 3:
        yield from _respaced(seen)
        yield Choice("preprocess.size", None, "volumes keep their own grid")
        patch = _shrunk(seen.shape, machine.pixels // 2)
        whole = all(p >= s for p, s in zip(patch, seen.shape, strict=True))
        why = "the median volume" if whole else f"half of what a step can work on, shaped like {_times(seen.shape)}"
        yield Choice("sampling.patch", list(patch), why)
        return
    budget = machine.pixels // 8
    rows, columns = seen.shape
    if rows * columns <= budget:
        yield from _whole(seen, _multiple(seen.shape, 16), "the median size")
        return
    shrink = math.sqrt(rows * columns / budget)
    smallest = min((d for d in seen.diameter_px.values() if d), default=math.inf) / shrink
    if smallest >= THINNEST:
        size = _multiple((round(rows / shrink), round(columns / shrink)), 16)
        yield from _whole(seen, size, f"{shrink:.1f} times smaller; the smallest structure still measures {smallest:.0f} pixels")
        return
    yield from _respaced(seen)
    yield Choice("preprocess.size", None, f"{shrink:.1f} times smaller, the smallest structure would measure {smallest:.1f} pixels")
    side = 16 * round(math.sqrt(budget) / 16)
    yield Choice("sampling.patch", [min(side, 16 * math.ceil(n / 16)) for n in seen.shape], "patches at full resolution instead")


def _respaced(seen: Fingerprint) -> Iterator[Choice]:
    """Not of whole images that are brought to one size: that would undo it."""
    if seen.spacing_mm and seen.spacing_spread > 1.1:
        why = f"pixel sizes differ up to {seen.spacing_spread:.2f} times; this is their median"
        yield Choice("preprocess.spacing_mm", list(seen.spacing_mm), why)


def _whole(seen: Fingerprint, size: tuple[int, ...], why: str) -> Iterator[Choice]:
    yield Choice("preprocess.size", list(size), why)
    if seen.aspect_spread > 1.1:
        yield Choice("preprocess.fit", "pad", f"shapes differ (columns to rows by {seen.aspect_spread:.2f} times): none is distorted")


def _intensity(seen: Fingerprint) -> Iterator[Choice]:
    if seen.is_ct:
        low, high = (round(v) for v in seen.foreground)
        yield Choice("preprocess.scale", "window", "Hounsfield units mean the same in every scan")
        yield Choice("preprocess.window", [low, max(high, low + 1)], "0.5 to 99.5 % of the intensities inside structures")
        yield Choice("preprocess.normalize", "dataset", "one mean and SD for all")
    elif seen.dtype == "uint8" and seen.dims == 2 and not seen.is_sliced:
        yield Choice("preprocess.normalize", "dataset", "8-bit images: one mean and SD for all")
    else:
        yield Choice("preprocess.scale", "percentiles", f"{seen.dtype}, of no fixed meaning: 0.5 to 99.5 % become 0 to 1")
        yield Choice("preprocess.normalize", "volume", "then mean 0, SD 1 over each volume")


def _pool(size: Sequence[int], spacing: Sequence[float], most: int) -> list[list[int]]:
    """By level and axis: an axis is halved while it is at least 8 long and not twice as coarse as the finest."""
    lengths, now = list(size), list(spacing)
    pool: list[list[int]] = []
    while len(pool) < most:
        step = [2 if n >= 8 and mm < 2 * min(now) else 1 for n, mm in zip(lengths, now, strict=True)]
        if max(step) == 1 and pool:
            break
        pool.append(step)
        lengths = [math.ceil(n / s) for n, s in zip(lengths, step, strict=True)]
        now = [mm * s for mm, s in zip(now, step, strict=True)]
    return pool


def _deepest(size: Sequence[int], pool: Sequence[Sequence[int]]) -> list[int]:
    return [math.ceil(n / math.prod(step[axis] for step in pool)) for axis, n in enumerate(size)]


def _batch(size: Sequence[int], widths: Sequence[int], seen: Fingerprint, machine: Machine) -> tuple[int, str]:
    bytes_an_image = math.prod(size) * widths[0] * BYTES_A_PIXEL
    by_memory = int(0.5 * machine.memory_gb * 1e9 / bytes_an_image)
    by_work = machine.pixels // math.prod(size)
    most = min(by_memory, by_work, max(2, seen.n // 5))
    batch = max(n for n in (2, 3, 4, 6, 8, 12, 16, 24, 32) if n <= max(2, most))
    return batch, f"{batch * bytes_an_image / 1e9:.1f} GB of {machine.memory_gb:.0f} GB on this {machine.device}"


def _patches_per_image(seen: Fingerprint, patch: Sequence[int]) -> int:
    return min(16, max(1, round(math.prod(seen.shape) / math.prod(patch))))


def _sampling(seen: Fingerprint, per_image: int | None) -> Iterator[Choice]:
    if per_image is not None:
        yield Choice("sampling.patches_per_image", per_image, "an epoch shows about every pixel once")
        rare = [name for name, share in seen.pixel_share.items() if 0 < share < 0.001]
        if rare:
            yield Choice("sampling.foreground", 0.67, f"less than a pixel in a thousand is {', '.join(rare)}")
    elif seen.empty > 0.5:
        yield Choice("sampling.weights", "foreground", f"{seen.empty:.0%} of the images show no structure")


def _augment(classes: Sequence[str]) -> Iterator[Choice]:
    if name := sided(classes):
        yield Choice("augment.transforms.flip", None, f"{name} has a side, which a mirrored image would get wrong")


def _shrunk(shape: Sequence[int], budget: int) -> tuple[int, ...]:
    """As large a patch as the budget allows, never beyond the image: the longest axis gives way first, in steps of 8."""
    patch = [8 * math.ceil(n / 8) for n in shape]
    while math.prod(patch) > budget and max(patch) > 16:
        patch[patch.index(max(patch))] -= 8
    return tuple(patch)


def _multiple(shape: Sequence[int], n: int) -> tuple[int, ...]:
    return tuple(n * max(1, math.ceil(s / n)) for s in shape)


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{n:g}" for n in numbers)


# the preset


def preset(name: str, cfg: schema.Plan, seen: Fingerprint, machine: Machine, choices: Sequence[Choice]) -> str:
    """The YAML, with its story on top and a reason beside every key."""
    choice = cfg.choice or source_name(cfg.data.source)
    volumes = seen.dims == 3
    head = [
        "# @package _global_",
        f"# {name}: proposed by segkit plan for {seen.n} labelled cases in {seen.groups} groups.",
        f"# Median size {_times(seen.shape)}, {seen.channels} channel{'s' * (seen.channels > 1)}, {seen.dtype}.",
        f"# Classes by share of all pixels: {', '.join(f'{k} {v:.2%}' for k, v in seen.pixel_share.items())}.",
        f"#   segkit train experiment={name}",
        "defaults:",
        f"  - override /data: {choice}",
        "  - override /model: unet_light" if machine.device == "cpu" else "  - override /model: unet",
        f"  - override /augment: {'light' if volumes else 'medical'}",
        f"name: {name}",
    ]
    given = [Choice(f"data.{key}", value, "") for key, value in _given(cfg.data, choice).items()]
    given += [Choice(f"split.{key}", value, "") for key, value in _typed_split(cfg).items()]
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


SECTIONS = ("data", "split", "preprocess", "sampling", "augment", "model", "trainer")


def _line(rest: str, one: Choice) -> list[str]:
    """`a.b` becomes two lines. Values in YAML's flow style, which JSON is a part of."""
    *outer, key = rest.split(".")
    lines = [f"{'  ' * (i + 1)}{part}:" for i, part in enumerate(outer)]
    value = yaml.safe_dump(one.value, default_flow_style=True, width=10_000, allow_unicode=True).strip().removesuffix("\n...")
    text = f"{'  ' * (len(outer) + 1)}{key}: {value}"
    return [*lines, f"{text:<44} # {one.why}" if one.why else text]


def _typed_split(cfg: schema.Plan) -> dict[str, Any]:
    """What was typed about the split."""
    plain = compose.compose("train", [f"seed={cfg.seed}"]).model_dump(mode="json")["split"]
    return {key: value for key, value in cfg.split.model_dump(mode="json").items() if value != plain[key]}


def _given(data: schema.Data, choice: str) -> dict[str, Any]:
    """What was typed beyond the data set's own YAML."""
    plain = compose.compose("train", [f"data={choice}"]).model_dump(mode="json")["data"]
    typed = data.model_dump(mode="json")
    changed = {key: value for key, value in typed.items() if value != plain[key] and key != "source"}
    source = {key: value for key, value in typed["source"].items() if plain["source"].get(key) != value}
    if changed.get("root"):
        changed["root"] = str(Path(changed["root"]).expanduser().absolute())
    return {**({"source": source} if source else {}), **changed}


# the command


def command(cfg: schema.Plan) -> int:
    """`segkit plan`: look at every file, propose, write. Exit code 1 where the data has errors."""
    looked = sound(cfg)
    seen = fingerprint(looked.labelled, looked.facts)
    why = sees_slices(seen)
    if why and _is_typed(cfg, "dims"):
        console.print(f"volumes stay volumes, as data.dims=3 wants it, though there are {why}", markup=False)
    elif why:
        console.print(f"volumes are seen slice by slice: {why}", markup=False)
        cfg = cfg.model_copy(update={"data": cfg.data.model_copy(update={"dims": 2})})
        looked = sound(cfg)
        seen = fingerprint(looked.labelled, looked.facts)
    machine = Machine.of(cfg.accelerator, cfg.memory_gb)
    choices = plan(seen, machine, looked.labelled.labels.classes)
    name = cfg.name or _name(looked)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise SegkitError(f"name={name}: letters, digits, _ and - only, since it becomes a file and is typed")
    path = Path(cfg.output).expanduser() / f"{name}.yaml"
    if path.exists() and not cfg.overwrite:
        raise SegkitError(f"{path} is there already;   choose another  name=...  or add  overwrite=true")
    text = preset(name, cfg, seen, machine, choices)
    write_text_atomic(path, text)
    width = max(len(f"{c.key}={json.dumps(c.value)}") for c in choices)
    for one in choices:
        console.print(f"  {f'{one.key}={json.dumps(one.value)}':<{width}}   {escape(one.why)}", highlight=False)
    console.print(f"written to {path};   read it, change what you like, then   segkit train experiment={name}", markup=False)
    return 0


def _is_typed(cfg: schema.Plan, key: str) -> bool:
    """Whether a key of the data differs from its YAML."""
    return key in _given(cfg.data, cfg.choice or source_name(cfg.data.source))


def sound(cfg: schema.Plan) -> Looked:
    looked = look(cfg.data, cfg.split, cfg.seed, cfg.allow_targets, CACHE)
    raise_errors(looked.problems, before="anything is planned")
    return looked


def _name(looked: Looked) -> str:
    """Of the folder that holds the data, as a file name."""
    place = looked.manifest.name if looked.manifest.is_phantom else looked.manifest.root.name
    return re.sub(r"[^A-Za-z0-9_-]+", "_", place).strip("_") or looked.manifest.name
