"""Folds as one table, and the script that measures the presets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from segkit.config import compose
from segkit.config.compose import spelled_out
from segkit.config.schema import Metric
from segkit.system.errors import ProblemsFound, SegkitError
from segkit.training.sweeps.folds import best_of, numbers, out_of_fold
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


KFOLD = ("data=phantom", "split=kfold", "split.n_folds=3")


def spelled(*argv: str) -> list[str]:
    return spelled_out(argv, [word for word in argv if "=" in word])


def test_one_word_stands_for_a_multirun_over_all_folds() -> None:
    assert spelled(*KFOLD, "folds=all") == ["-m", *KFOLD, "split.fold=0,1,2"]
    assert spelled(*KFOLD, "folds=[2,0]", "seed=0,1") == ["-m", *KFOLD, "seed=0,1", "split.fold=0,2"]
    assert spelled("-m", *KFOLD, "folds=all") == ["-m", *KFOLD, "split.fold=0,1,2"]
    assert spelled("--config-dir", "conf", *KFOLD, "folds=all")[1:3] == ["--config-dir", "conf"]
    assert spelled(*KFOLD, "folds=null") == [*KFOLD, "folds=null"]


def test_the_number_of_folds_is_that_of_the_whole_config() -> None:
    """Here of the default of split=kfold."""
    assert spelled("data=phantom", "split=kfold", "folds=all")[-1] == "split.fold=0,1,2,3,4"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("data=phantom", "folds=all"), "needs a split into folds, and split is auto;   add  split=kfold"),
        (("data=phantom", "split=leave_one_out", "folds=all"), "write  segkit train -m … 'split.fold=range(0,N)'  with N groups"),
        ((*KFOLD, "folds=some"), "needs all, or a list of folds, got 'some'"),
        ((*KFOLD, "folds=0,1"), "write  folds=all  or  folds=[0,2]"),
        ((*KFOLD, "folds=[0,3]"), "has no fold 3: there are 3, counted from 0"),
        ((*KFOLD, "folds=[1]"), "write  split.fold=1  for one"),
        ((*KFOLD, "folds=all", "split.fold=1"), "and split.fold exclude each other"),
        ((*KFOLD, "folds=all", "hparams_search=fetal_head_tpe"), "leave out hparams_search=fetal_head_tpe"),
        ((*KFOLD, "folds=all", "optimizer.lrr=1"), "did you mean optimizer.lr?"),
    ],
)
def test_folds_that_there_are_not_are_refused(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(ProblemsFound) as refusal:
        spelled(*argv)
    assert message in str(refusal.value)


def test_folds_are_a_word_of_the_command_line_alone() -> None:
    with pytest.raises(ProblemsFound, match=r"folds   stands for several trainings: type it on the command line"):
        compose.compose("train", [*KFOLD, "folds=all"])


@pytest.mark.parametrize(("text", "folds"), [("choice(0, 2, 1)", [0, 2, 1]), ("0 to 4 by 2", [0, 2, 4]), ("0 to 2", [0, 1, 2])])
def test_folds_are_read_from_the_space_of_a_sweep(text: str, folds: list[int]) -> None:
    assert numbers(text) == folds


def test_of_several_tables_the_best_comes_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    summaries = {name: out_of_fold([table(tmp_path, name, ("1", dice), ("2", dice))]).summary() for name, dice in (("a", 0.5), ("b", 0.7))}
    assert best_of(summaries, Metric(monitor="dice", mode="max", cases={})) == "b"
    assert best_of(summaries, Metric(monitor="dice", mode="min", cases={})) == "a"
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["b", "a", "a", "b"]


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", REPOSITORY / "scripts/results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["results"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_command_of_the_results_is_one_that_segkit_takes(results: ModuleType) -> None:
    commands = [command for result in results.RESULTS for command in result.commands("DATA")]
    assert {command for command, *_ in commands} == {"train", "evaluate", "phantom"}
    for command, *overrides in commands:
        compose.check(command, overrides)  # raises ProblemsFound where it does not
