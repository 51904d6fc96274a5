"""Experiment planning: the fingerprint of a data set, and the choices that follow from it, each with its reason.

The rules follow nnU-Net (Isensee et al., Nature Methods 2021) where it has one, with budgets for the machine at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import psutil

from segkit.data.case import Manifest
from segkit.data.labels import sided
from segkit.data.quantiles import PERCENTILES
from segkit.data.round_trip import RoundTrip
from segkit.data.statistics import Statistics
from segkit.system.hardware import choose_device

LOW, HIGH = PERCENTILES.index(0.5), PERCENTILES.index(99.5)
CT_AIR = -500
"""Hounsfield units; images of other modalities hardly go below zero."""
MIN_SLICES = 12
"""A volume of fewer slices gains little from a third dimension."""
ANISOTROPIC = 3.0
"""Slices so many times thicker than their pixels are better processed one by one (nnU-Net's threshold)."""
THINNEST = 5.0
"""Pixels that the smallest structure should measure on the network's grid."""
THIN = 3.0
"""The same of the thickness of the thinnest one."""
FAITHFUL = 0.95
"""Dice of a mask with itself, sent to the network's grid and back, below which no network can be good."""
BYTES_A_PIXEL = 64
"""Memory per pixel of the input and channel of the first level, in bf16: 34 to 50 bytes are kept for the backward pass (measured),
plus gradients."""


Fit = Literal["stretch", "pad"]
Measure = Callable[[tuple[int, ...], Fit], RoundTrip]
"""What the masks lose on a grid of this size."""


@dataclass(frozen=True)
class Fingerprint:
    """A data set in numbers. Medians are over the labelled cases; shapes and spacings by axis, (slices,) rows, columns."""

    n: int
    groups: int
    dims: int
    is_sliced: bool
    """2-D images that are slices of volumes."""
    slices_per_volume: float
    shape: tuple[int, ...]
    aspect_spread: float
    """Largest over smallest ratio of columns to rows."""
    spacing_mm: tuple[float, ...]
    """Empty unless it is known for all."""
    spacing_spread: float
    """Largest over smallest spacing of the axis that varies most."""
    channels: int
    dtype: str
    is_ct: bool
    foreground: tuple[float, float]
    """0.5 and 99.5 % of the raw intensities inside structures, medians over cases."""
    pixel_share: Mapping[str, float]
    """Share of all pixels, by class."""
    diameter_px: Mapping[str, float]
    """Diameter of a disc or ball of the median size of the class, where it occurs."""
    empty: float
    """Share of cases without any structure."""


def fingerprint(manifest: Manifest, statistics: Statistics) -> Fingerprint:
    """Summarize the labelled cases that can be read."""
    cases = [case for case in manifest if case.masks and not statistics[case.id].errors]
    seen = [statistics[case.id] for case in cases]
    shapes = np.array([f.shape for f in seen])
    counts = [f.class_pixels(manifest.labels) for f in seen]
    pixels = sum(math.prod(f.shape) for f in seen)
    spacings = np.array([case.pixel_mm for case in cases]) if all(case.pixel_mm for case in cases) else np.zeros((0, manifest.dims))
    aspects = shapes[:, -1] / shapes[:, -2]
    inside = [f.foreground_quantiles[0] for f in seen if f.foreground_quantiles]
    volumes = [case.volume for case in cases if case.volume]
    return Fingerprint(
        n=len(cases),
        groups=len({case.group_or_id for case in cases}),
        dims=manifest.dims,
        is_sliced=bool(volumes),
        slices_per_volume=len(volumes) / max(1, len(set(volumes))),
        shape=tuple(int(v) for v in np.median(shapes, axis=0)),
        aspect_spread=float(aspects.max() / aspects.min()),
        spacing_mm=tuple(round(float(v), 4) for v in np.median(spacings, axis=0)) if len(spacings) else (),
        spacing_spread=float((spacings.max(axis=0) / spacings.min(axis=0)).max()) if len(spacings) else 1.0,
        channels=seen[0].channels,
        dtype=" and ".join(sorted({f.dtype for f in seen})),
        is_ct=bool(np.median([f.quantiles[0][0] for f in seen if f.quantiles] or [0]) < CT_AIR),
        foreground=(_median([q[LOW] for q in inside]), _median([q[HIGH] for q in inside])),
        pixel_share={name: sum(c[name] for c in counts) / max(1, pixels) for name in manifest.labels.classes},
        diameter_px={name: _diameter([c[name] for c in counts if c[name]], manifest.dims) for name in manifest.labels.classes},
        empty=sum(not any(c.values()) for c in counts) / max(1, len(counts)),
    )


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0


def _diameter(pixels: Sequence[int], dims: int) -> float:
    """Diameter of a disc of the median area, or a ball of the median volume."""
    size = _median(pixels)
    return float(2 * (size / math.pi) ** 0.5 if dims == 2 else 2 * (size * 3 / (4 * math.pi)) ** (1 / 3))


@dataclass(frozen=True)
class Machine:
    """What a training may use: memory, pixels of input of one step, widths of the U-Net, steps in a bearable time."""

    device: str
    memory_gb: float
    pixels: int
    widths: tuple[int, ...]
    steps: int

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


def plan(seen: Fingerprint, machine: Machine, classes: Sequence[str], measure: Measure | None = None) -> list[Choice]:
    """All choices, in the order of the preset. `measure` tells what a size keeps of the masks; without it their diameters decide."""
    choices = [*_dims(seen), *_grid(seen, machine, measure), *_intensity(seen)]
    decided = {choice.key: choice.value for choice in choices}
    patch = decided.get("sampling.patch")
    size = patch or decided["preprocess.size"]
    spacing = decided.get("preprocess.spacing_mm") or seen.spacing_mm or (1.0,) * seen.dims
    pool = _pool(size, spacing, len(machine.widths) - 1)
    widths = machine.widths[: len(pool) + 1]
    deepest = [math.ceil(n / math.prod(step[axis] for step in pool)) for axis, n in enumerate(size)]
    batch, why = _batch(size, widths, seen, machine)
    per_image = min(16, max(1, round(math.prod(seen.shape) / math.prod(size)))) if patch else 1
    choices += _sampling(seen, per_image if patch else None)
    choices.append(Choice("model.widths", list(widths), f"{len(widths)} levels: the deepest is {times(deepest)} pixels"))
    if any(s != 2 for step in pool for s in step):
        choices.append(Choice("model.pool", pool, "an axis is halved while it is long and not much coarser than the finest"))
    choices.append(Choice("data.batch_size", batch, why))
    if name := sided(classes):
        choices.append(Choice("augment.transforms.flip", None, f"{name} has a side, which a mirrored image would get wrong"))
    steps = max(1, round(0.8 * seen.n) * per_image // batch)
    epochs = min(300, max(20, math.ceil(machine.steps / steps)))
    choices.append(Choice("trainer.max_epochs", epochs, f"about {epochs * steps} steps of {batch}"))
    return choices


def _dims(seen: Fingerprint) -> list[Choice]:
    if seen.dims == 2:
        kind = f"slices, {seen.slices_per_volume:.0f} a volume" if seen.is_sliced else "images"
        return [Choice("data.dims", 2, kind)]
    return [Choice("data.dims", 3, f"volumes of {times(seen.shape)}" + (f" at {times(seen.spacing_mm)} mm" if seen.spacing_mm else ""))]


def needs_slices(seen: Fingerprint) -> str:
    """Why volumes are better processed slice by slice; empty where they are not."""
    if seen.dims == 3 and seen.shape[0] < MIN_SLICES:
        return f"only {seen.shape[0]} slices a volume"
    if seen.dims == 3 and seen.spacing_mm and seen.spacing_mm[0] / min(seen.spacing_mm[1:]) > ANISOTROPIC:
        return f"slices are {seen.spacing_mm[0] / min(seen.spacing_mm[1:]):.1f} times thicker than their pixels"
    return ""


def _grid(seen: Fingerprint, machine: Machine, measure: Measure | None) -> Iterator[Choice]:
    """What the network gets of an image: all of it, a smaller version, or patches."""
    if seen.dims == 3:
        yield from _of_volumes(seen, machine)
        return
    budget = machine.pixels // 8
    rows, columns = seen.shape
    if rows * columns <= budget:
        yield from _whole(seen, _multiple(seen.shape, 16), "the median size")
        return
    shrink = math.sqrt(rows * columns / budget)
    size = _multiple((round(rows / shrink), round(columns / shrink)), 16)
    is_kept, why = _kept(seen, shrink, measure and measure(size, _fit(seen)))
    if is_kept:
        yield from _whole(seen, size, f"{shrink:.1f} times smaller; {why}")
        return
    yield from _respaced(seen)
    yield Choice("preprocess.size", None, f"{shrink:.1f} times smaller, {why}")
    side = 16 * round(math.sqrt(budget) / 16)
    yield Choice("sampling.patch", [min(side, 16 * math.ceil(n / 16)) for n in seen.shape], "patches at full resolution instead")


def _of_volumes(seen: Fingerprint, machine: Machine) -> Iterator[Choice]:
    yield from _respaced(seen)
    yield Choice("preprocess.size", None, "volumes keep their own grid")
    patch = _shrunk(seen.shape, machine.pixels // 2)
    whole = all(p >= s for p, s in zip(patch, seen.shape, strict=True))
    why = "the median volume" if whole else f"half of what a step can work on, shaped like {times(seen.shape)}"
    yield Choice("sampling.patch", list(patch), why)


def _kept(seen: Fingerprint, shrink: float, there: RoundTrip | None) -> tuple[bool, str]:
    """Whether images so many times smaller keep the structures, and how well."""
    sizes = there.thickness_px if there else {name: d / shrink for name, d in seen.diameter_px.items() if d}
    smallest = min(sizes.values(), default=math.inf)
    measured = f"the {'thinnest' if there else 'smallest'} structure measures {smallest:.1f} pixels"
    if there is None or not there.dice:
        return smallest >= THINNEST, measured
    name = min(there.dice, key=lambda one: there.dice[one])
    what = f"masks sent there and back keep Dice {there.dice[name]:.2f} with themselves ({name}, lowest tenth of {there.n} cases)"
    return there.dice[name] >= FAITHFUL and smallest >= THIN, f"{what}; {measured}"


def _respaced(seen: Fingerprint) -> Iterator[Choice]:
    """One pixel size for all; not for whole images, which are resized afterwards."""
    if seen.spacing_mm and seen.spacing_spread > 1.1:
        why = f"pixel sizes differ up to {seen.spacing_spread:.2f} times; this is their median"
        yield Choice("preprocess.spacing_mm", list(seen.spacing_mm), why)


def _fit(seen: Fingerprint) -> Fit:
    return "pad" if seen.aspect_spread > 1.1 else "stretch"


def _whole(seen: Fingerprint, size: tuple[int, ...], why: str) -> Iterator[Choice]:
    yield Choice("preprocess.size", list(size), why)
    if _fit(seen) == "pad":
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


def _batch(size: Sequence[int], widths: Sequence[int], seen: Fingerprint, machine: Machine) -> tuple[int, str]:
    bytes_an_image = math.prod(size) * widths[0] * BYTES_A_PIXEL
    by_memory = int(0.5 * machine.memory_gb * 1e9 / bytes_an_image)
    by_work = machine.pixels // math.prod(size)
    most = min(by_memory, by_work, max(2, seen.n // 5))
    batch = max(n for n in (2, 3, 4, 6, 8, 12, 16, 24, 32) if n <= max(2, most))
    return batch, f"{batch * bytes_an_image / 1e9:.1f} GB of {machine.memory_gb:.0f} GB on this {machine.device}"


def _sampling(seen: Fingerprint, per_image: int | None) -> Iterator[Choice]:
    if per_image is not None:
        yield Choice("sampling.patches_per_image", per_image, "an epoch shows about every pixel once")
        rare = [name for name, share in seen.pixel_share.items() if 0 < share < 0.001]
        if rare:
            yield Choice("sampling.foreground", 0.67, f"less than a pixel in a thousand is {', '.join(rare)}")
    elif seen.empty > 0.5:
        yield Choice("sampling.weights", "foreground", f"{seen.empty:.0%} of the images show no structure")


def _shrunk(shape: Sequence[int], budget: int) -> tuple[int, ...]:
    """As large a patch as the budget allows, never beyond the image: the longest axis gives way first, in steps of 8."""
    patch = [8 * math.ceil(n / 8) for n in shape]
    while math.prod(patch) > budget and max(patch) > 16:
        patch[patch.index(max(patch))] -= 8
    return tuple(patch)


def _multiple(shape: Sequence[int], n: int) -> tuple[int, ...]:
    return tuple(n * max(1, math.ceil(s / n)) for s in shape)


def times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{n:g}" for n in numbers)
