"""history.png: what each trial has reached in the order in which they were made, and the best so far."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segkit.training.plots import GREY, TRAIN, VAL, legend
from segkit.training.sweeps.results import Sweep

PRUNED, FAILED = "#999999", "#c00000"


def draw_history(sweep: Sweep) -> Figure | None:
    """A panel an objective; None where nothing has been measured yet."""
    names = [name for i, name in enumerate(sweep.objectives) if np.isfinite([sweep.score(t, i)[0] for t in sweep.trials]).any()]
    if not names:
        return None
    figure = Figure(figsize=(8.5, 0.8 + 2.6 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(axes, names, strict=True):
        draw_panel(axis, sweep, name)
    axes[-1].set_xlabel("trial")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.suptitle(sweep.summary, x=0.01, ha="left", fontsize=10)
    return figure


def draw_panel(axis: Axes, sweep: Sweep, name: str) -> None:
    index, mode = list(sweep.objectives).index(name), sweep.objectives[name]
    size = 5 if len(sweep.trials) <= 100 else 3
    finished = sweep.of("finished")
    numbers, values = [t.number for t in finished], np.array([t.values[index] for t in finished])
    if finished:
        best = (np.maximum if mode == "max" else np.minimum).accumulate(values)
        axis.step([*numbers, sweep.trials[-1].number], [*best, best[-1]], where="post", color=VAL, linewidth=1.7, label="best so far")
        axis.plot(numbers, values, "o", color=TRAIN, markersize=size, alpha=0.8, markeredgewidth=0, label="finished")
    for states, marker, colour in ((("pruned",), "x", PRUNED), (("running", "broken off"), "^", "#009e73")):
        known = [(t.number, sweep.score(t, index)[0]) for t in sweep.of(*states)]
        if np.isfinite([value for _, value in known]).any():
            label = f"{' or '.join(states)}: best epoch"
            axis.plot(*zip(*known, strict=True), marker, color=colour, markersize=size, markeredgewidth=1.2, label=label)
    failed = [t.number for t in sweep.of("failed")]
    if failed:
        edge = axis.get_xaxis_transform()  # height 0 is the lower edge, whatever the values
        axis.plot(failed, [0] * len(failed), "|", color=FAILED, ms=11, mew=1.8, label="failed", transform=edge, clip_on=False, zorder=5)
    axis.set_ylabel(f"{name} ({mode})")
    axis.grid(True, axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, color=GREY)
    legend(axis)
