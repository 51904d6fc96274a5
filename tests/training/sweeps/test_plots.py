"""The pictures and the page of a sweep."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from segkit.training.sweeps.pictures import draw
from segkit.training.sweeps.pictures.curves import draw_curves
from segkit.training.sweeps.pictures.history import draw_history
from segkit.training.sweeps.pictures.parallel import choice_scale, draw_parallel, number_scale
from segkit.training.sweeps.results import Sweep, Trial

SPACE = {"optimizer.lr": "1e-05 to 0.1, log", "model": "choice(unet, <b>)"}
AXES: dict[str, BaseDistribution] = {
    "optimizer.lr": FloatDistribution(1e-5, 1e-1, log=True),
    "model": CategoricalDistribution(("unet", "<b>")),
}


def trial(home: Path, number: int, state: str, dice: float = 0.5, n_epochs: int = 4) -> Trial:
    keys = {"optimizer.lr": repr(10 ** (-5 + number % 5)), "model": ("unet", "<b>")[number % 2]}
    folder = f"trial {number}"
    (home / folder).mkdir(parents=True)
    rows = "".join(f"{epoch},1.0,{dice * (epoch + 1) / n_epochs}\n" for epoch in range(n_epochs))
    (home / folder / "metrics.csv").write_text(f"epoch,seconds,val/dice\n{rows}")
    values = (dice,) if state == "finished" else ()
    return Trial(number, state, keys, home, folder, values, "as <i>planned" if state == "failed" else "", AXES)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    home = tmp_path / "outputs/small/sweeps/s"
    states = [*["finished"] * 12, "pruned", "pruned", "failed", "running"]
    return Sweep(home, {"dice": "max"}, SPACE, [trial(home, i, state, 0.3 + 0.04 * i, 4 - i // 12) for i, state in enumerate(states)])


def test_the_page_needs_nothing_else_and_believes_no_text(sweep: Sweep) -> None:
    written = {path.name for path in draw(sweep)}
    assert written == {"history.png", "parallel.png", "importance.png", "curves.png", "trials.csv", "sweep.html"}
    page = (sweep.folder / "sweep.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=\"(https?:|/)", page)
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;" in page
    links = re.findall(r'href="([^"]+)/"', page)
    assert len(links) == 16
    assert all((sweep.folder / link.replace("%20", " ")).is_dir() for link in links)


def test_history_shows_the_best_so_far(sweep: Sweep) -> None:
    figure = draw_history(Sweep(sweep.folder, {"dice": "max"}, SPACE, list(reversed(sweep.trials[:3]))))
    assert figure
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert np.asarray(lines["best so far"].get_ydata())[:3] == pytest.approx([0.38, 0.38, 0.38])


def test_every_curve_is_drawn(sweep: Sweep) -> None:
    figure = draw_curves(sweep)
    assert figure
    drawn = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    assert sum(len(path.vertices) > 1 for c in drawn for path in c.get_paths()) == 16


def test_axes_of_parallel_coordinates() -> None:
    """Of three decades the middle is the geometric mean; a missing key leaves a gap."""
    log = number_scale("lr", np.array([1e-4, 1e-3, 1e-2, np.nan]), is_log=True)
    assert log.heights[:3] == pytest.approx([0, 0.5, 1])
    assert math.isnan(log.heights[3])
    assert [text for _, text in log.ticks] == ["0.0001", "0.001", "0.01"]
    assert number_scale("x", np.array([0.0, 1.0, 4.0])).heights == pytest.approx([0, 0.25, 1])
    assert number_scale("x", np.array([3.0, 3.0])).heights == pytest.approx([0.5, 0.5])
    choices = choice_scale("model", ["a", None, "b", "c"])
    assert choices.heights[[0, 2, 3]] == pytest.approx([1, 0.5, 0])
    assert math.isnan(choices.heights[1])


def test_lists_over_decades_are_logarithmic(tmp_path: Path) -> None:
    trials = [Trial(i, "finished", {"lr": lr, "size": size}, tmp_path, values=(0.5,)) for i, (lr, size) in enumerate(PAIRS)]
    assert Sweep(tmp_path, {"dice": "max"}, {}, trials).log_keys == {"lr"}


PAIRS = [("1e-3", "8"), ("1e-5", "16")]


@pytest.mark.parametrize("states", [[], ["running"], ["failed", "pruned"], ["finished"]])
def test_a_sweep_that_has_just_begun_is_drawn_as_far_as_it_goes(states: list[str], tmp_path: Path) -> None:
    home = tmp_path / "small/sweeps/s"
    home.mkdir(parents=True)
    trials = [trial(home, i, state) for i, state in enumerate(states)]
    sweep = Sweep(home, {"dice": "max"}, SPACE, trials)
    written = {path.name for path in draw(sweep)}
    assert "sweep.html" in written
    assert ("history.png" in written) == bool(states)
    assert ("parallel.png" in written) == ("finished" in states)
    assert "importance.png" not in written


def test_an_objective_that_is_no_metric_has_no_curve(sweep: Sweep) -> None:
    costly = [Trial(t.number, t.state, t.keys, t.home, t.folder, (*t.values, 5.0) if t.values else ()) for t in sweep.trials]
    several = Sweep(sweep.folder, {"dice": "max", "parameters": "min"}, SPACE, costly)
    figure = draw_curves(several)
    assert figure
    assert [axis.get_ylabel() for axis in figure.axes] == ["dice"]
    assert draw_parallel(several)


def test_starting_a_sweep_imports_no_matplotlib() -> None:
    code = "import sys, segkit.training.sweeps.pictures, segkit.cli.sweep; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
