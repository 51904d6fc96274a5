"""parallel.png: parallel coordinates, a vertical axis a key and a line a trial (Inselberg, 1985). Dark lines are the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from segkit.data.labels import Array
from segkit.training.plots import GREY
from segkit.training.sweeps.names import shown
from segkit.training.sweeps.results import Sweep

FEW = 8
"""Numbers of so few different values get a tick each."""
MOST = 16
"""Texts on one axis."""
SPREAD = 0.05
"""Lines through the same point of an axis lie so far apart, the better ones above."""


@dataclass(frozen=True)
class Scale:
    """`heights` between 0 and 1 by trial, NaN where a trial has no such key; ticks as height and text."""

    label: str
    heights: Array
    ticks: Sequence[tuple[float, str]] = field(default_factory=list)
    is_spread: bool = False


def draw_parallel(sweep: Sweep) -> Figure | None:
    """None where nothing has finished or nothing is varied."""
    trials = [*sweep.of("pruned"), *reversed(sweep.ranked)]  # the best on top
    if not sweep.ranked or not sweep.keys or not sweep.objectives:
        return None
    scales = [key_scale(label, [trial.keys.get(key) for trial in trials], key in sweep.log_keys) for key, label in sweep.keys.items()]
    for i, (name, mode) in enumerate(sweep.objectives.items()):
        scales.append(number_scale(f"{name} ({mode})", np.array([t.values[i] if t.values else np.nan for t in trials])))
    figure = Figure(figsize=(min(max(7.0, 1.7 * len(scales)), 40), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    draw_lines(axis, scales, len(sweep.of("pruned")))
    for x, scale in enumerate(scales):
        draw_scale(axis, x, scale)
    axis.set_xlim(-0.25, len(scales) - 1 + 0.55)
    axis.set_ylim(-0.06, 1.06)
    axis.axis("off")
    pruned = "; grey: pruned" if sweep.of("pruned") else ""
    first = next(iter(sweep.objectives))
    figure.suptitle(f"{sweep.summary}\ncoloured by rank{f' in {first}' * (len(sweep.objectives) > 1)}, dark is best{pruned}", **LEFT)
    return figure


LEFT = {"x": 0.01, "ha": "left", "fontsize": 10}


def draw_lines(axis: Axes, scales: Sequence[Scale], n_pruned: int) -> None:
    """The pruned ones come first and end before the objectives."""
    n = len(scales[0].heights)
    offsets = SPREAD * (np.arange(n) / max(1, n - 1) - 0.5)
    heights = np.stack([s.heights + offsets * s.is_spread for s in scales], axis=1)  # (n, axes)
    lines = np.stack([np.broadcast_to(np.arange(len(scales)), heights.shape), heights], axis=2)  # (n, axes, 2)
    share = np.linspace(0.15, 1.0, max(1, n - n_pruned)) ** 1.5
    colours = [*[(0.75, 0.75, 0.75, 0.35)] * n_pruned, *colormaps["viridis_r"](share)]
    widths = [*[0.6] * n_pruned, *(0.5 + 1.3 * share if n > FEW else 1.5 + 0 * share)]
    axis.add_collection(LineCollection(list(lines), colors=colours, linewidths=widths, alpha=None if n > 60 else 0.9))


def draw_scale(axis: Axes, x: int, scale: Scale) -> None:
    axis.plot([x, x], [-0.03, 1.03], color="black", linewidth=1.0)
    axis.text(x, 1.07, shorten(scale.label, 18), ha="center", va="bottom", fontsize=9, fontweight="bold")
    paper = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    for height, text in scale.ticks[:: math.ceil(len(scale.ticks) / MOST) or 1]:
        axis.plot([x, x + 0.03], [height, height], color=GREY, linewidth=0.8)
        axis.text(x + 0.045, height, shorten(text, 20), ha="left", va="center", fontsize=7, color="black", bbox=paper)


def key_scale(label: str, texts: Sequence[str | None], is_log: bool) -> Scale:
    try:
        numbers = np.array([math.nan if text is None else float(text) for text in texts])
    except ValueError:
        return choice_scale(label, texts)
    return number_scale(label, numbers, is_log and bool(np.nanmin(numbers) > 0))


def choice_scale(label: str, texts: Sequence[str | None]) -> Scale:
    names = sorted({text for text in texts if text is not None}, reverse=True)
    place = {name: (i + 0.5) / len(names) if len(names) < 3 else i / (len(names) - 1) for i, name in enumerate(names)}
    heights = np.array([math.nan if text is None else place[text] for text in texts])
    return Scale(label, heights, [(place[name], shown(name)) for name in names], is_spread=True)


def number_scale(label: str, numbers: Array, is_log: bool = False) -> Scale:
    finite = numbers[np.isfinite(numbers)]
    low, high = float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf))
    distinct = sorted(set(finite.tolist()))
    ticks = distinct if len(distinct) <= FEW else places(low, high, is_log)
    change = np.log if is_log else np.asarray

    def height(values: Array) -> Array:
        if low == high:
            return 0.5 + 0 * values
        span: Array = (change(values) - change(low)) / (change(high) - change(low))
        return span

    marks = [(float(height(np.array(tick))), f"{tick:.3g}") for tick in ticks if low <= tick <= high]
    return Scale(label + " (log)" * is_log, height(numbers), marks, is_spread=len(distinct) <= FEW < len(finite))


def places(low: float, high: float, is_log: bool) -> list[float]:
    """Of ticks: round numbers, on a logarithmic axis of several decades these alone."""
    locator = LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)) if is_log else MaxNLocator(6)
    round_ones = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
    return round_ones if len(round_ones) > 1 else np.geomspace(low, high, 4).tolist() if is_log else [low, high]


def shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
