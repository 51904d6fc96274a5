"""The curves of all trials of a tuning in one picture: a panel a stage, a colour a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segkit.data.labels import Array
from segkit.system.files import atomic_path
from segkit.training.plots import COLOURS, DPI, FEW, GREY, has_values, legend, scale

LINES: dict[str, Literal["--", "-"]] = {"train/loss": "--", "val/loss": "-"}


@dataclass(frozen=True)
class Curve:
    """A trial: its columns by epoch as `read_columns` gives them, or nothing where it never got that far."""

    label: str
    columns: Mapping[str, Array]
    is_best: bool = False


@dataclass(frozen=True)
class Panel:
    stage: str
    curves: Sequence[Curve]


def draw(panels: Sequence[Panel], out: Path, title: str = "") -> None:
    """Write a PNG of training (dashed) and validation loss (solid); the best of several trials is thick."""
    heights = [max(2.0, 0.45 + 0.17 * len(panel.curves)) for panel in panels]
    figure = Figure(figsize=(8.5, 0.8 + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        draw_panel(axis, panel)
    axes[-1].set_xlabel("epoch")
    figure.align_ylabels(axes)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    styles = [Line2D([], [], color=GREY, linestyle=line, label=name.replace("/", " ")) for name, line in LINES.items()]
    figure.legend(handles=styles, loc="upper right", ncols=2, frameon=False, fontsize=8)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def draw_panel(axis: Axes, panel: Panel) -> None:
    series = []
    for curve, colour in zip(panel.curves, colours(len(panel.curves)), strict=True):
        wide = 2.6 if curve.is_best and len(panel.curves) > 1 else 1.2
        label = f"{curve.label}, best" if wide > 2 else curve.label
        axis.plot([], [], color=colour, linewidth=wide, label=label)  # in the legend also where there is no curve
        for name, line in LINES.items():
            if has_values(curve.columns, name):
                draw_line(axis, curve.columns, name, colour, line, wide)
                series.append(curve.columns[name])
    axis.set_title(panel.stage, loc="left", fontsize=10)
    axis.set_ylabel("loss", fontsize=8)
    if series:
        scale(axis, series, "loss")
    legend(axis)


def draw_line(axis: Axes, columns: Mapping[str, Array], name: str, colour: str, line: str, width: float) -> None:
    known = np.isfinite(columns[name])
    epochs = columns["epoch"][known]
    marker = ("o" if name == "val/loss" else "x") if known.sum() <= FEW else None
    axis.plot(epochs, columns[name][known], line, color=colour, linewidth=width, marker=marker, markersize=3.5, alpha=0.85)


def colours(n: int) -> list[str]:
    """Apart where there are few trials; from dark to light in their order where there are many."""
    if n <= len(COLOURS):
        return list(COLOURS[:n])
    shades = colormaps["viridis"](np.linspace(0, 0.9, n))
    return ["#{:02x}{:02x}{:02x}".format(*(int(255 * part) for part in shade[:3])) for shade in shades]
