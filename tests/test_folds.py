"""Folds as one table, and the script that measures the presets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from segkit.config import door
from segkit.errors import SegkitError
from segkit.folds import out_of_fold
from tests.conftest import REPOSITORY

HEADER = "case,group,subset,class,n_truth_px,n_pred_px,dice\n"


def table(folder: Path, name: str, *rows: tuple[str, float]) -> Path:
    path = folder / f"{name}.csv"
    path.write_text(HEADER + "".join(f"{case},{case},val,head,9,9,{dice}\n" for case, dice in rows))
    return path


def test_folds_together_are_the_mean_over_all_their_cases(tmp_path: Path) -> None:
    """Not the mean of the folds' means: these have 3 cases and 1."""
    folds = [table(tmp_path, "a", ("1", 0.9), ("2", 0.8), ("3", 0.7)), table(tmp_path, "b", ("4", 0.2))]
    line = out_of_fold(folds).summary().line("dice")
    assert line.n == 4
    assert line.mean == pytest.approx((0.9 + 0.8 + 0.7 + 0.2) / 4)


def test_a_case_that_two_folds_judge_is_refused(tmp_path: Path) -> None:
    folds = [table(tmp_path, "a", ("1", 0.9), ("2", 0.8)), table(tmp_path, "b", ("2", 0.2))]
    with pytest.raises(SegkitError, match=r"2 .* validated twice .*a\.csv.*b\.csv"):
        out_of_fold(folds)


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", REPOSITORY / "scripts/results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["results"] = module
    spec.loader.exec_module(module)
    return module


def test_every_command_of_the_results_is_one_that_segkit_takes(results: ModuleType) -> None:
    commands = [command for result in results.RESULTS for command in result.commands("DATA")]
    assert {command for command, *_ in commands} == {"train", "evaluate", "phantom"}
    for command, *overrides in commands:
        door.check(command, overrides)  # raises ProblemsFound where it does not
