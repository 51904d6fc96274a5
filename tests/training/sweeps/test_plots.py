"""The figures and the page of a sweep."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from segkit.cli.report import of_sweep
from segkit.training.sweeps import plots
from segkit.training.sweeps.plots import draw_sweep
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
    written = {path.name for path in draw_sweep(sweep)}
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


def test_the_report_of_a_sweep_is_its_page_and_a_pdf_of_the_same(sweep: Sweep, tmp_path: Path) -> None:
    page, pdf = of_sweep(sweep, tmp_path / "there/search.html", pdf=True)
    assert page.read_bytes() == (sweep.folder / "sweep.html").read_bytes()
    assert pdf.read_bytes().startswith(b"%PDF")


def labels(axes: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.lines}


def test_history_shows_the_best_so_far_what_was_pruned_and_what_failed(sweep: Sweep) -> None:
    trials = [sweep.trials[i] for i in (2, 0, 1, 12, 14)]
    renumbered = [replace(trial, number=i) for i, trial in enumerate(trials)]
    drawn = labels(plots._history(replace(sweep, trials=renumbered)))
    assert drawn["Best Value"] == pytest.approx([0.38] * 5)
    assert drawn["pruned: best epoch"] == pytest.approx([0.78])
    assert "failed" in drawn


def test_every_curve_is_drawn_and_the_best_stands_out(sweep: Sweep) -> None:
    axes = plots._curves(sweep, "dice")
    assert len(axes.lines) == 16
    assert [line.get_label() for line in axes.lines if line.get_linewidth() > 2] == ["Trial11 best"]
    assert {str(line.get_label()) for line in axes.lines if line.get_linestyle() == ":"} == {
        *("Trial12 pruned", "Trial13 pruned", "Trial14 failed", "Trial15 running")
    }


def test_numbers_of_earlier_attempts_are_left_out(sweep: Sweep) -> None:
    """A trial keeps the number of its first attempt, so numbers may have gaps."""
    axes = plots._curves(replace(sweep, trials=[sweep.trials[0], sweep.trials[3]]), "dice")
    assert [line.get_label() for line in axes.lines] == ["Trial0", "Trial3 best"]


@pytest.mark.parametrize("states", [[], ["running"], ["failed", "pruned"], ["finished"]])
def test_a_sweep_that_has_just_begun_is_drawn_as_far_as_it_goes(states: list[str], tmp_path: Path) -> None:
    home = tmp_path / "small/sweeps/s"
    home.mkdir(parents=True)
    trials = [trial(home, i, state) for i, state in enumerate(states)]
    sweep = Sweep(home, {"dice": "max"}, SPACE, trials)
    written = {path.name for path in draw_sweep(sweep)}
    assert "sweep.html" in written
    assert ("history.png" in written) == bool(states)
    assert ("parallel.png" in written) == ("finished" in states)
    assert "importance.png" not in written


def test_an_objective_that_is_no_metric_has_no_curve(sweep: Sweep) -> None:
    costly = [replace(t, values=(*t.values, 5.0 - t.number / 10) if t.values else ()) for t in sweep.trials]
    written = {path.name for path in draw_sweep(replace(sweep, objectives={"dice": "max", "parameters": "min"}, trials=costly))}
    assert written >= {"history.png", "history_parameters.png", "pareto.png", "parallel.png", "parallel_parameters.png", "curves.png"}
    assert "curves_parameters.png" not in written
    for name in written:
        assert not name.endswith(".png") or (cv2.imread(str(sweep.folder / name)) < 200).any()


def test_a_key_that_some_trials_lack_is_no_hindrance(sweep: Sweep) -> None:
    trials = [replace(t, keys={k: v for k, v in t.keys.items() if k != "model" or t.number % 3}) for t in sweep.trials]
    assert "parallel.png" in {path.name for path in draw_sweep(replace(sweep, trials=trials))}


def test_starting_a_sweep_imports_no_matplotlib() -> None:
    code = "import sys, hydra_plugins.segkit_optuna, segkit.cli.main; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
