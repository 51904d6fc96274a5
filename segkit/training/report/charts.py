"""The charts of a report: each draws into a pair of axes, for the page and the PDF alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from segkit.data.labels import Array, color_of
from segkit.metrics.base import known_as
from segkit.metrics.calibration import Calibration
from segkit.metrics.table import CaseTable
from segkit.system.page import Chart
from segkit.training.plots import (
    COLORS,
    DPI,
    GRAY,
    TRAIN,
    YELLOW,
    Columns,
    best_row,
    draw_line,
    draw_panel,
    has_values,
    loss_names,
    mark_best,
    metric_names,
    scale,
)

DARK_YELLOW = (178, 165, 0)
MOST_CLASSES = 12
"""Classes that one chart can hold; those beyond are left out, which its caption says."""


# --- learning curves ----------------------------------------------------------------------------------------------------


def curves(columns: Columns, monitor: str, mode: str) -> Iterator[Chart]:
    """Losses, scores between 0 and 1, other metrics, the learning rate: a chart each."""
    scores, others = metric_names(columns)
    for label, names in (("loss", loss_names(columns)), ("score", scores), ("other metrics", others), ("learning rate", ["lr"])):
        if any(has_values(columns, name) for name in names):
            caption = {"score": "Validation metrics by epoch", "learning rate": "Learning rate by epoch"}.get(label, f"{label} by epoch")
            room = below(0 if label == "learning rate" else sum(has_values(columns, name) for name in names) + 1)
            size = (4.7, 1.2 + room if label == "learning rate" else 2.5 + room)
            yield Chart(caption.capitalize(), partial(_curve, columns, names, label, f"val/{monitor}", mode), size, below=room)


def _curve(columns: Columns, names: Sequence[str], label: str, monitor: str, mode: str, axes: Axes) -> None:
    draw_panel(axes, columns, names, label)
    mark_best(axes, columns, best_row(columns, monitor, mode), known_as(monitor, columns), names)
    axes.set_xlabel("epoch")
    if label != "learning rate":
        _legend_below(axes)


def below(n_labels: int) -> float:
    """Room for ticks, label and a legend of so many lines below the axes, in inches."""
    return 0.5 + 0.18 * math.ceil(n_labels / 2)


def _legend_below(axes: Axes) -> None:
    """Where it takes no width, which a phone lacks."""
    if axes.get_legend_handles_labels()[0]:
        height = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.4 / height), ncols=2, frameon=False, fontsize=8, borderaxespad=0)


def several_curves(runs: Mapping[str, Columns], name: str) -> Chart:
    """One column of several runs."""
    room = below(len(runs))
    return Chart(f"{name} by epoch", partial(_several, runs, name), (4.7, 2.5 + room), below=room)


def _several(runs: Mapping[str, Columns], name: str, axes: Axes) -> None:
    series = []
    for i, (label, columns) in enumerate(runs.items()):
        if has_values(columns, column := known_as(name, columns)):
            draw_line(axes, columns, column, label=label, color=COLORS[i % len(COLORS)], marker=".", markersize=4)
            series.append(columns[column])
    scale(axes, series, "loss" if "loss" in name else "")
    axes.set(xlabel="epoch", ylabel=name)
    _legend_below(axes)


# --- cases --------------------------------------------------------------------------------------------------------------


def distribution(table: CaseTable, column: str) -> Chart:
    """Every case as a dot, a line of dots a class, with the median."""
    classes = table.classes[:MOST_CLASSES]
    values = {name: _values(table, name, column) for name in classes}
    more = f", the first {MOST_CLASSES} of {len(table.classes)} classes" if len(table.classes) > MOST_CLASSES else ""
    size, left = (4.7, 0.95 + 0.42 * len(classes)), min(1.6, 0.3 + 0.075 * max(map(len, classes), default=0))
    return Chart(f"{column} of each case; the line is the median{more}", partial(_strips, values, column), size, left)


def _values(table: CaseTable, class_name: str, column: str) -> Array:
    found = np.array([row.values.get(column, np.nan) for row in table.rows if row.class_name == class_name])
    return np.asarray(found[np.isfinite(found)])


def _strips(values: Mapping[str, Array], column: str, axes: Axes) -> None:
    for i, (color, of_class) in enumerate(zip(_colors(len(values)), values.values(), strict=True)):
        spread = np.random.default_rng(i).uniform(-0.28, 0.28, len(of_class))
        axes.plot(of_class, i + spread, "o", markersize=6, alpha=0.55, color=color, markeredgewidth=0)
        if len(of_class):
            axes.plot([np.median(of_class)] * 2, [i - 0.38, i + 0.38], color="black", linewidth=1.6)
    axes.set_yticks(range(len(values)), list(values), fontsize=8)
    axes.set(xlabel=column, ylim=(len(values) - 0.5, -0.5))
    _plain(axes)


def by_size(table: CaseTable, column: str) -> Chart:
    """The score of each structure against its size."""
    n = min(MOST_CLASSES, len(table.classes))
    room = below(n if n > 1 else 0)
    return Chart(f"{column} against the size of the structure", partial(_sizes, table, column), (4.7, 2.5 + room), below=room)


def _sizes(table: CaseTable, column: str, axes: Axes) -> None:
    classes = table.classes[:MOST_CLASSES]
    for name, color in zip(classes, _colors(len(classes)), strict=True):
        rows = [row for row in table.rows if row.class_name == name and row.n_truth_px]
        values = [row.values.get(column, np.nan) for row in rows]
        label = name if len(classes) > 1 else None
        axes.plot([row.n_truth_px for row in rows], values, "o", markersize=6, alpha=0.55, color=color, markeredgewidth=0, label=label)
    axes.set_xscale("log")
    if len({len(str(row.n_truth_px)) for row in table.rows if row.n_truth_px}) > 1:
        axes.xaxis.set_minor_formatter(NullFormatter())  # the labels of powers of ten are enough, and those between would overlap
    axes.set(xlabel="pixels of the structure in the ground truth", ylabel=column)
    _plain(axes)
    _legend_below(axes)


def _colors(n: int) -> list[str]:
    """Those of the outlines in pictures, yellow darker, which white would hide."""
    colors = [DARK_YELLOW if color == YELLOW else color for color in map(color_of, range(n))]
    return ["#{:02x}{:02x}{:02x}".format(*color) for color in colors] if n > 1 else [TRAIN]


def _plain(axes: Axes) -> None:
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


# --- probabilities ------------------------------------------------------------------------------------------------------


def reliability(calibration: Calibration) -> Chart:
    room = below(1 + min(MOST_CLASSES, len(calibration.known)))
    caption = "Reliability: how often a pixel of some probability shows the class"
    return Chart(caption, partial(_reliability, calibration), (4.0, 3.2 + room), below=room)


def _reliability(calibration: Calibration, axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.9, linestyle=":", label="perfect")
    known = dict(list(calibration.known.items())[:MOST_CLASSES])
    for (name, counts), color in zip(known.items(), _colors(len(known)), strict=True):
        mean, frequency, n = counts.reliability()
        axes.plot(mean[n > 0], frequency[n > 0], "o-", markersize=4, linewidth=1.4, color=color, label=name)
    axes.set(xlabel="predicted probability", ylabel="share of pixels of the class", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    _plain(axes)
    _legend_below(axes)


def precision_recall(calibration: Calibration) -> Chart:
    room = below(1 + min(MOST_CLASSES, len(calibration.known)))
    caption = "Precision and recall of pixels over all thresholds; the dot is 0.5"
    return Chart(caption, partial(_precision, calibration), (4.0, 3.2 + room), below=room)


def _precision(calibration: Calibration, axes: Axes) -> None:
    known = dict(list(calibration.known.items())[:MOST_CLASSES])
    for (name, counts), color in zip(known.items(), _colors(len(known)), strict=True):
        precision, recall = counts.precision_recall()
        axes.plot(recall, precision, linewidth=1.4, color=color, label=name)
        axes.plot(recall[len(recall) // 2], precision[len(recall) // 2], "o", markersize=5, color=color)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01), aspect="equal")
    _plain(axes)
    _legend_below(axes)


def rendered(charts: Sequence[Chart]) -> Array:
    """RGB uint8 (H, W, 3): charts side by side, for loggers."""
    width, height = sum(chart.size[0] for chart in charts), max(chart.size[1] for chart in charts)
    figure, start = Figure(figsize=(width, height), dpi=DPI), 0.0
    canvas = FigureCanvasAgg(figure)
    for chart in charts:
        left, bottom, wide, high = chart.place(*chart.size)
        chart.draw(figure.add_axes(((start + left) / width, bottom / height, wide / width, high / height)))
        start += chart.size[0]
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


# --- two runs -----------------------------------------------------------------------------------------------------------


def paired(differences: Sequence[float], column: str) -> Chart:
    """The differences of all cases, sorted."""
    caption = f"Difference of {column}, B - A, of each case, sorted; above 0 B is greater"
    return Chart(caption, partial(_paired, sorted(differences), column), (4.7, 2.4))


def _paired(differences: Sequence[float], column: str, axes: Axes) -> None:
    values = np.array(differences)
    axes.bar(range(len(values)), values, color=np.where(values > 0, TRAIN, "#d55e00"), width=0.9)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="cases", ylabel=f"{column}, B - A", xticks=[])
    _plain(axes)
