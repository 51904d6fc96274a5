"""A best trial among equals is called a tie, in the console and in the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segkit.metrics.overlap import Overlap
from segkit.metrics.table import CaseTable, Row
from segkit.training.sweeps.plots import sweep_page
from segkit.training.sweeps.results import Sweep, Trial
from segkit.training.sweeps.ties import tie_line, ties


def make_sweep(home: Path, scores: dict[int, np.ndarray | float]) -> Sweep:
    """Trials with the Dice of each case, or with a mean alone."""
    trials = []
    for number, dice in scores.items():
        folder = home / f"t{number}"
        folder.mkdir()
        if isinstance(dice, np.ndarray):
            rows = [Row(f"{i}", f"{i}", "val", "x", 9, 9, {"dice": float(value), "iou": 0.0}) for i, value in enumerate(dice)]
            CaseTable.of(rows, {"overlap": Overlap()}).to_csv(folder / "cases.csv")
        trials.append(Trial(number, "finished", {"seed": f"{number}"}, home, f"t{number}", (float(np.mean(dice)),)))
    return Sweep(home, {"dice": "max"}, {"seed": "choice(0, 1, 2)"}, trials)


def test_trials_that_differ_by_chance_tie_with_the_best(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    cases = random.uniform(0.3, 0.9, 20)
    sweep = make_sweep(tmp_path, {0: cases, 1: cases + random.normal(0, 0.05, 20), 2: cases - 0.1 + random.normal(0, 0.01, 20)})
    assert sorted([sweep.ranked[0].number, *(trial.number for trial in ties(sweep))]) == [0, 1]
    assert "Tie: trials" in sweep_page(sweep, [])
    clear = make_sweep(tmp_path / "clear", {0: cases, 2: cases - 0.1}) if (tmp_path / "clear").mkdir() is None else sweep
    assert tie_line(clear) == ""
    assert "Tie" not in sweep_page(clear, [])


def test_without_case_tables_equal_digits_are_a_tie(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {0: 0.14319, 1: 0.14321, 2: 0.1431})
    assert tie_line(sweep).startswith("trials 1, 0 differ by less than")
