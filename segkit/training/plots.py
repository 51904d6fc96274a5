"""Learning curves: of one run from its metrics.csv, and of all trials of a tuning, a panel a stage."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from segkit.data.labels import PALETTE, Array
from segkit.metrics.base import known_as
from segkit.system.errors import SegkitError
from segkit.system.files import atomic_path
from segkit.system.plain import reading

Columns = Mapping[str, Array]
TRAIN, VAL, GRAY = "#0072b2", "#d55e00", "#666666"
YELLOW = (240, 228, 66)
COLORS = tuple("#{:02x}{:02x}{:02x}".format(*color) for color in PALETTE if color != YELLOW)
"""Colors of the palette that are visible on white."""
DPI = 130
FEW = 40
"""Up to so many epochs, each is marked with a dot."""
LINES: dict[str, Literal["--", "-"]] = {"train/loss": "--", "val/loss": "-"}


def curves(metrics_csv: Path, out: Path, monitor: str = "dice", mode: str = "max") -> None:
    """Write a PNG of losses, validation metrics and learning rate; the best epoch of `val/<monitor>` is marked."""
    save(draw_curves(read_columns(metrics_csv), f"val/{monitor}", mode), out)


def save(figure: Figure, out: Path) -> None:
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def read_columns(path: Path) -> dict[str, Array]:
    """Column -> values by epoch (float64); blanks, NaN and infinities are NaN. A repeated epoch counts once."""
    rows = {}
    if path.is_file():
        with reading(path), path.open(newline="", encoding="utf-8") as file:
            rows = {row["epoch"]: row for row in csv.DictReader(file, restval="") if row.get("epoch")}
    if not rows:
        raise SegkitError(f"{path}: no metrics; has the run finished an epoch?")
    names = [name for name in next(iter(rows.values())) if name]
    with reading(path):
        table = np.array([[float(row[name].strip() or "nan") for name in names] for row in rows.values()])  # (epochs, columns)
    table[np.isinf(table)] = np.nan
    table = table[np.argsort(table[:, names.index("epoch")], kind="stable")]
    return dict(zip(names, table.T, strict=True))


def draw_curves(columns: Columns, monitor: str, mode: str) -> Figure:
    """One panel a unit: losses, scores between 0 and 1, everything else, the learning rate."""
    scores, others = metric_names(columns)
    unit = "mm" if all(name.split("/")[1].endswith("_mm") for name in others) else ""
    panels = [("loss", loss_names(columns)), ("score", scores), (unit, others), ("learning rate", ["lr"])]
    panels = [(label, names) for label, names in panels if any(has_values(columns, name) for name in names)]
    heights = [1.0 if label == "learning rate" else 2.2 for label, _ in panels]
    figure, axes = stacked((7.5, 0.9 + 1.25 * sum(heights)), heights, title(columns), sharex=True)
    best, monitor = best_row(columns, monitor, mode), known_as(monitor, columns)
    for axis, (label, names) in zip(axes, panels, strict=True):
        draw_panel(axis, columns, names, label)
        mark_best(axis, columns, best, monitor, names)
        legend(axis)
    figure.align_ylabels(axes)
    return figure


def stacked(size: tuple[float, float], heights: Sequence[float], text: str, sharex: bool = False) -> tuple[Figure, Sequence[Axes]]:
    """A figure of `size` inches with a title and one panel over the other, by epochs."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, sharex=sharex, squeeze=False, height_ratios=heights)[:, 0]
    axes[-1].set_xlabel("epoch")
    figure.suptitle(text, x=0.01, ha="left", fontsize=10)
    return figure, list(axes)


def loss_names(columns: Columns) -> list[str]:
    """`train/loss` and `val/loss`, then what they are made of."""
    names = [name for name in columns if name.startswith(("train/", "val/loss"))]
    return sorted(names, key=lambda name: name not in ("train/loss", "val/loss"))


def metric_names(columns: Columns) -> tuple[list[str], list[str]]:
    """Names of validation metrics that stay between 0 and 1, and of the others (mm)."""
    names = [n for n in columns if n.startswith("val/") and not n.startswith("val/loss") and has_values(columns, n)]
    scores = [n for n in names if np.nanmin(columns[n]) >= 0 and np.nanmax(columns[n]) <= 1 and not n.endswith("_mm")]
    return scores, [n for n in names if n not in scores]


def draw_panel(axis: Axes, columns: Columns, names: Sequence[str], label: str) -> None:
    colors = cycle(COLORS)
    for name in names:
        if has_values(columns, name):
            is_part = name not in ("train/loss", "val/loss", "lr") and (label == "loss" or name.count("/") > 1)
            color = {"train/loss": TRAIN, "val/loss": VAL, "lr": GRAY}.get(name) or next(colors)
            marker = "o" if len(columns["epoch"]) <= FEW else None
            width, size = (0.8, 2) if is_part else (1.7, 3.5)
            draw_line(axis, columns, name, label=short(name, label), color=color, linewidth=width, marker=marker, markersize=size)
    axis.set_ylabel(label)
    scale(axis, [columns[name] for name in names], label)


def draw_line(axis: Axes, columns: Columns, name: str, **style: Any) -> None:
    known = np.isfinite(columns[name])
    axis.plot(columns["epoch"][known], columns[name][known], alpha=0.85, **style)


def scale(axis: Axes, series: Sequence[Array], label: str) -> None:
    """Logarithmic where losses span more than a decade and a half; few digits on small learning rates."""
    values = np.concatenate(series)
    values = values[np.isfinite(values)]
    if label == "loss" and values.min() > 0 and values.max() / values.min() > 30:
        axis.set_yscale("log")
    elif label == "learning rate":
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useOffset=False)
        axis.set_ylim(bottom=0)
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.tick_params(labelsize=8)


def mark_best(axis: Axes, columns: Columns, best: int | None, monitor: str, names: Sequence[str]) -> None:
    """A dotted line through all panels at the best epoch; a ring and the number where the monitored value is drawn."""
    if best is None:
        return
    epoch = columns["epoch"][best]
    axis.axvline(epoch, color=GRAY, linewidth=0.9, linestyle=":", zorder=1)
    if monitor in names:
        value = columns[monitor][best]
        text = f"best {monitor.removeprefix('val/')} {value:.4g}, epoch {epoch:.0f}"
        axis.plot([epoch], [value], "o", markersize=8, markerfacecolor="none", color="black", label=text)


def best_row(columns: Columns, monitor: str, mode: str) -> int | None:
    """The row where the column of a monitored value is best; None where it has no value."""
    monitor = known_as(monitor, columns)
    if not has_values(columns, monitor):
        return None
    return int(np.nanargmax(columns[monitor]) if mode == "max" else np.nanargmin(columns[monitor]))


def has_values(columns: Columns, name: str) -> bool:
    return name in columns and bool(np.isfinite(columns[name]).any())


def legend(axis: Axes) -> None:
    """Beside the panel, where it hides no curve."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, fontsize=8)


def short(name: str, label: str) -> str:
    if label == "loss":
        return name.replace("/", " ").replace("_", " ")
    return "" if label == "learning rate" else name.removeprefix("val/").replace("/", ", ")


def title(columns: Columns) -> str:
    n = len(columns["epoch"])
    text = f"{n} epoch" if n == 1 else f"{n} epochs"
    if has_values(columns, "seconds"):
        text += f", {duration(float(np.nansum(columns['seconds'])))}"
    return text


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Curve:
    """A trial: its columns by epoch as `read_columns` gives them, empty where it has finished no epoch."""

    label: str
    columns: Columns
    is_best: bool = False


def trial_curves(stages: Mapping[str, Sequence[Curve]], out: Path, title: str = "") -> None:
    """Write a PNG of training (dashed) and validation loss (solid), a panel a stage; the best of several trials is thick."""
    heights = [max(2.0, 0.45 + 0.17 * len(trials)) for trials in stages.values()]
    figure, axes = stacked((8.5, 0.8 + sum(heights)), heights, title)
    for axis, (stage, trials) in zip(axes, stages.items(), strict=True):
        axis.set_title(stage, loc="left", fontsize=10)
        draw_stage(axis, trials)
    figure.align_ylabels(axes)
    styles = [Line2D([], [], color=GRAY, linestyle=line, label=name.replace("/", " ")) for name, line in LINES.items()]
    figure.legend(handles=styles, loc="upper right", ncols=2, frameon=False, fontsize=8)
    save(figure, out)


def draw_stage(axis: Axes, trials: Sequence[Curve]) -> None:
    """Few trials have distinct colors, many a scale from dark to light."""
    n = len(trials)
    colors = COLORS[:n] if n <= len(COLORS) else colormaps["viridis"](np.linspace(0, 0.9, n))
    for curve, color in zip(trials, colors, strict=True):
        is_best = curve.is_best and n > 1
        style = {"color": color, "linewidth": 2.6 if is_best else 1.2}
        axis.plot([], [], label=f"{curve.label}, best" if is_best else curve.label, **style)  # in the legend also where there is no curve
        for name, line in LINES.items():
            if has_values(curve.columns, name):
                marker = ("o" if name == "val/loss" else "x") if np.isfinite(curve.columns[name]).sum() <= FEW else None
                draw_line(axis, curve.columns, name, linestyle=line, marker=marker, markersize=3.5, **style)
    axis.set_ylabel("loss", fontsize=8)
    if series := [curve.columns[name] for curve in trials for name in LINES if has_values(curve.columns, name)]:
        scale(axis, series, "loss")
    legend(axis)
