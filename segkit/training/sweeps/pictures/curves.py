"""curves.png: the validation curves of all trials; what was pruned thin and grey, the best one strong."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from segkit.data.labels import Array
from segkit.training.plots import COLOURS, TRAIN, VAL, has_values
from segkit.training.sweeps.names import shown
from segkit.training.sweeps.pictures.history import FAILED, PRUNED
from segkit.training.sweeps.pictures.parallel import shorten
from segkit.training.sweeps.results import Sweep, Trial

OTHERS = tuple(colour for colour in COLOURS if colour != VAL)
STYLES = {"pruned": (PRUNED, 0.7), "failed": (FAILED, 0.7), "running": ("#009e73", 1.1), "broken off": ("#009e73", 0.7)}


def draw_curves(sweep: Sweep) -> Figure | None:
    """A panel for each metric that trials are judged by; None where nothing has been validated yet."""
    if not sweep.metrics:
        return None
    figure = Figure(figsize=(8.5, 1.2 + 3.2 * len(sweep.metrics)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(sweep.metrics), 1, sharex=True, squeeze=False)[:, 0]
    best = sweep.ranked[0] if sweep.ranked and sweep.objectives else None
    colours = dict(zip([t.number for t in sweep.ranked[1:]], OTHERS if len(sweep.ranked) <= len(OTHERS) else (), strict=False))
    for axis, name in zip(axes, sweep.metrics, strict=True):
        draw_panel(axis, sweep, f"val/{name}", best, colours)
        axis.set_ylabel(name)
    axes[-1].set_xlabel("epoch")
    figure.legend(handles=entries(sweep, best, colours), loc="outside lower left", frameon=False, fontsize=8)
    figure.suptitle(sweep.summary, x=0.01, ha="left", fontsize=10)
    return figure


def draw_panel(axis: Axes, sweep: Sweep, column: str, best: Trial | None, colours: dict[int, str]) -> None:
    """Lines in groups, as single ones would take long by the hundreds."""
    others = [trial for trial in sweep.ranked if trial is not best]
    shades, alpha = [colours.get(t.number, TRAIN) for t in others], 0.9 if colours else max(0.15, min(0.7, 20 / (len(others) + 1)))
    axis.add_collection(LineCollection([line(t, column) for t in others], colors=shades, linewidths=1.1, alpha=alpha))
    for state, (colour, width) in STYLES.items():
        axis.add_collection(LineCollection([line(t, column) for t in sweep.of(state)], colors=colour, linewidths=width, alpha=0.6))
    if best:
        axis.add_collection(LineCollection([line(best, column)], colors=VAL, linewidths=2.6, zorder=4))
    single = [line(t, column)[0] for t in sweep.trials if len(line(t, column)) == 1]  # one epoch makes no line
    axis.plot(*np.array(single).reshape(-1, 2).T, ".", color=PRUNED, markersize=4)
    axis.autoscale()
    axis.grid(True, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def line(trial: Trial, column: str) -> Array:
    """(n, 2): the epochs that were validated, and their values."""
    if not has_values(trial.columns, column):
        return np.empty((0, 2))
    known = np.isfinite(trial.columns[column])
    return np.stack([trial.columns["epoch"][known], trial.columns[column][known]], axis=1)


def entries(sweep: Sweep, best: Trial | None, colours: dict[int, str]) -> list[Line2D]:
    found = [Line2D([], [], color=VAL, linewidth=2.6, label=shorten(f"best: {described(sweep, best)}", 110))] if best else []
    named = [t for t in sweep.ranked if t.number in colours]
    found += [Line2D([], [], color=colours[t.number], linewidth=1.1, label=shorten(described(sweep, t), 110)) for t in named]
    n_others = len(sweep.ranked) - len(found)
    found += [Line2D([], [], color=TRAIN, linewidth=1.1, label=f"{n_others} finished")] if n_others else []
    counts = [(state, sum(bool(trial.columns) for trial in sweep.of(state))) for state in STYLES]
    return [*found, *(Line2D([], [], color=STYLES[s][0], linewidth=STYLES[s][1], label=f"{n} {s}") for s, n in counts if n)]


def described(sweep: Sweep, trial: Trial) -> str:
    keys = " ".join(f"{sweep.keys[key]}={shown(text)}" for key, text in trial.keys.items())
    return f"trial {trial.number}  {keys}"
