"""importance.png: a bar a key."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from segkit.training.plots import GREY, TRAIN
from segkit.training.sweeps.importance import n_top
from segkit.training.sweeps.pictures.parallel import shorten
from segkit.training.sweeps.results import Sweep


def draw_importance(sweep: Sweep, shares: Mapping[str, Mapping[str, float]]) -> Figure | None:
    """A panel an objective; None where there is nothing to say."""
    if not shares:
        return None
    rows = [len(of_keys) for of_keys in shares.values()]
    figure = Figure(figsize=(7.0, 0.9 + sum(0.5 + 0.28 * n for n in rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[n + 1 for n in rows])[:, 0]
    for axis, (name, of_keys) in zip(axes, shares.items(), strict=True):
        keys = [shorten(key, 40) for key in of_keys]
        bars = axis.barh(range(len(keys)), list(of_keys.values()), color=TRAIN, height=0.65)
        axis.bar_label(bars, [f"{share:.2f}" for share in of_keys.values()], padding=3, fontsize=8, color=GREY)
        axis.set_yticks(range(len(keys)), keys, fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.12 * max(of_keys.values()))
        axis.set_title(name, loc="left", fontsize=10)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(bottom=False, labelbottom=False)
    n = len(sweep.of("finished"))
    figure.suptitle(f"importance: what sets the best {n_top(n)} of {n} finished trials apart (PED-ANOVA)", x=0.01, ha="left", fontsize=10)
    return figure
