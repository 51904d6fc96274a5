"""What a sweep looks like: `draw_sweep` leaves pictures, trials.csv and sweep.html in its folder."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.system.files import write_text_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from segkit.training.sweeps.results import Sweep

__all__ = ["draw", "draw_sweep"]


def draw_sweep(folder: Path, storage: str | None = None) -> list[Path]:
    """Of the trials so far; see `draw`. `storage` as in `reading.read_sweep`."""
    from segkit.training.sweeps.results import read_sweep

    return draw(read_sweep(folder, storage))


def draw(sweep: Sweep) -> list[Path]:
    """history.png, parallel.png, importance.png and curves.png as far as there is something to draw, then trials.csv and sweep.html.

    What has been written, the page last.
    """
    from segkit.training.sweeps.importance import importances
    from segkit.training.sweeps.pictures.curves import draw_curves
    from segkit.training.sweeps.pictures.history import draw_history
    from segkit.training.sweeps.pictures.importance import draw_importance
    from segkit.training.sweeps.pictures.parallel import draw_parallel
    from segkit.training.sweeps.plots import sweep_page

    shares = importances(sweep)
    figures = {
        "history": draw_history(sweep),
        "parallel": draw_parallel(sweep),
        "importance": draw_importance(sweep, shares),
        "curves": draw_curves(sweep),
    }
    drawn = [save(figure, sweep.folder / f"{name}.png") for name, figure in figures.items() if figure]
    write_text_atomic(sweep.folder / "trials.csv", trials_csv(sweep))
    write_text_atomic(sweep.folder / "sweep.html", sweep_page(sweep, shares, drawn))
    return [*drawn, sweep.folder / "trials.csv", sweep.folder / "sweep.html"]


def save(figure: Figure, out: Path) -> Path:
    from segkit.system.files import atomic_path
    from segkit.training.plots import DPI

    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    return out


def trials_csv(sweep: Sweep) -> str:
    """A row a trial, best first, with the values in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", *sweep.objectives, *sweep.keys, "seconds", "epochs", "folder", "reason"])
    for trial in sweep.in_order:
        values = trial.values or [""] * len(sweep.objectives)
        keys = [trial.keys.get(key, "") for key in sweep.keys]
        writer.writerow([trial.number, trial.state, *values, *keys, round(trial.seconds, 2), trial.epochs, trial.folder, trial.reason])
    return text.getvalue()
