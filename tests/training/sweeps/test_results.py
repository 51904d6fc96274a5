"""What `segkit sweep show` says of a sweep: best first, nothing left out, and only what the trials can bear."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from segkit.cli.main import main
from segkit.system.errors import SegkitError
from segkit.training.run_folder import RunFolder
from segkit.training.sweeps.plots import draw_sweep, importance
from segkit.training.sweeps.results import Sweep, Trial, read_sweep, settings
from segkit.training.sweeps.space import Space
from segkit.training.sweeps.storage import open_folder
from segkit.training.sweeps.study import Attempt, Outcome, SweepStudy, read_outcome
from tests.training.sweeps.conftest import leave_run, make_study

Make = Callable[..., Space]


def attempted(study: SweepStudy) -> Attempt:
    attempt = study.next_attempt()
    assert attempt is not None
    return attempt


def end(study: SweepStudy, attempt: Attempt, dice: float | None = None, state: str = "finished", reason: str = "") -> None:
    if dice is not None:
        leave_run(attempt, dice, state)
    outcome = read_outcome(attempt.folder, study.objectives) or Outcome("failed", reason=reason)
    study.record(attempt.number, outcome)
    attempt.lock.close()


@pytest.fixture
def folder(tmp_path: Path, make_space: Make) -> Path:
    """Two finished, one pruned, one failed, one that runs, one whose process has died."""
    folder = tmp_path / "outputs/small/sweeps/s"
    folder.mkdir(parents=True)
    study = make_study(folder, make_space("optimizer.lr=0.1,0.2,0.3,0.4,0.5,0.6"), sampler="random")
    end(study, attempted(study), 0.5)
    end(study, attempted(study), 0.7)
    end(study, attempted(study), 0.2, "pruned")
    failed = attempted(study)
    (failed.folder / "traceback.txt").write_text("ZeroDivisionError: [red]as planned")
    end(study, failed, reason="ZeroDivisionError: [red]as planned")
    dead, running = attempted(study), attempted(study)
    dead.lock.close()
    LOCKS.append(running.lock)
    return folder


LOCKS: list[object] = []


def sweep_of(objectives: dict[str, str], *trials: tuple[str, tuple[float, ...], dict[str, str]]) -> Sweep:
    keys = dict.fromkeys(key for _, _, keys in trials for key in keys)
    made = [Trial(i, state, keys, Path("nowhere"), values=values) for i, (state, values, keys) in enumerate(trials)]
    return Sweep(Path("outputs/small/sweeps/s"), objectives, dict.fromkeys(keys, ""), made)


def test_all_states_are_reported_the_best_first(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder.parents[3])
    assert main(["sweep", "show", "s"]) == 0
    out = capsys.readouterr().out
    assert "2 finished, 1 pruned, 1 failed, 1 running, 1 interrupted" in out
    rows = [line.split() for line in out.splitlines() if "lr-0." in line and "traceback" not in line]
    assert [row[:3] for row in rows[:2]] == [["1", "1", "0.7"], ["2", "0", "0.5"]]
    assert rows[2][:2] == ["2", "(0.2)"]
    assert "pruned" in rows[2]
    (reason,) = [line for line in out.splitlines() if "as planned" in line]
    assert "ZeroDivisionError: [red]as planned" in reason
    assert reason.endswith("/traceback.txt")
    assert "importance" not in out
    assert "sweep.html" in out


def test_showing_changes_nothing_in_the_study(folder: Path) -> None:
    before = (folder / "journal.log").read_bytes()
    draw_sweep(read_sweep(folder))
    assert (folder / "journal.log").read_bytes() == before
    read_sweep(folder)
    assert [t.state for t in read_sweep(folder).trials[4:]] == ["interrupted", "running"]


def test_the_table_of_all_trials_is_left_as_a_file(folder: Path) -> None:
    draw_sweep(read_sweep(folder))
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [row["dice"] for row in rows] == ["0.7", "0.5", "", "", "", ""]
    assert [row["state"] for row in rows] == ["finished", "finished", "pruned", "failed", "running", "interrupted"]
    assert all((folder / row["folder"]).is_dir() for row in rows)


def test_several_objectives_have_a_front_instead_of_ranks() -> None:
    asked = {"dice": "max", "ms_per_image": "min"}
    points = [(0.9, 9.0), (0.8, 9.5), (0.8, 5.0), (0.7, 5.0), (0.5, 1.0)]
    sweep = sweep_of(asked, *(("finished", point, {"lr": str(i)}) for i, point in enumerate(points)))
    assert [trial.values for trial in sweep.front] == [(0.9, 9.0), (0.8, 5.0), (0.5, 1.0)]
    assert [trial.number for trial in sweep.ranked] == [0, 2, 4, 1, 3]
    assert sweep.place(sweep.ranked[0], 1) == "front"
    assert sweep.place(sweep.ranked[-1], 5) == ""


def test_the_smallest_loss_is_the_best() -> None:
    sweep = sweep_of({"loss": "min"}, ("finished", (0.3,), {"lr": "1"}), ("finished", (0.1,), {"lr": "2"}))
    assert [trial.values for trial in sweep.ranked] == [(0.1,), (0.3,)]


def test_means_over_seeds_and_folds() -> None:
    """By hand: 0.6 and 0.8 have the mean 0.7 and the standard deviation 0.1414; what failed does not count."""
    trials = [("finished", (0.6,), {"lr": "1", "seed": "0"}), ("finished", (0.8,), {"lr": "1", "seed": "1"})]
    trials += [("finished", (0.9,), {"lr": "2", "seed": "0"}), ("failed", (), {"lr": "2", "seed": "1"})]
    best, other = settings(sweep_of({"dice": "max"}, *trials))
    assert (best.keys, best.means, best.n) == ({"lr": "2"}, [0.9], 1)
    assert other.means[0] == pytest.approx(0.7)
    assert other.sds[0] == pytest.approx(0.02**0.5)
    assert not settings(sweep_of({"dice": "max"}, *trials[2:]))  # nothing is repeated


def test_importance_finds_the_key_that_matters_and_is_silent_of_few() -> None:
    def trials(n: int) -> list[tuple[str, tuple[float, ...], dict[str, str]]]:
        return [("finished", (float(i % 4),), {"matters": str(i % 4), "idle": str(i // 4 % 3)}) for i in range(n)]

    shares = importance(sweep_of({"dice": "max"}, *trials(24)))
    assert next(iter(shares)) == "matters"
    assert shares["matters"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert importance(sweep_of({"dice": "max"}, *trials(9))) == {}
    same = [(state, (0.5,), keys) for state, _, keys in trials(24)]
    assert importance(sweep_of({"dice": "max"}, *same)) == {}


def test_a_sweep_that_never_began_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "outputs/small/sweeps/s"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text('{"id": "x", "space": {"seed": "choice(0, 1)"}, "objectives": {"dice": "max"}}')
    assert main(["sweep", "show", str(folder)]) == 0
    assert "no trial yet" in capsys.readouterr().out
    assert not (folder / "journal.log").exists()


def test_the_study_is_found_where_the_sweep_says(tmp_path: Path, make_space: Make) -> None:
    folder, journal = tmp_path / "small/sweeps/s", tmp_path / "elsewhere.log"
    space = make_space("optimizer.lr=0.1,0.2")
    folder.mkdir(parents=True)
    study = make_study(folder, space, storage=str(journal))
    open_folder(folder, space, {"dice": "max"}, "small/s", str(journal))
    end(study, attempted(study), 0.5)
    assert [trial.values for trial in read_sweep(folder).trials] == [(0.5,)]
    journal.unlink()
    with pytest.raises(SegkitError, match=r"is not at .*elsewhere.log;.*storage=URL"):
        read_sweep(folder)


def test_a_password_is_not_kept(tmp_path: Path, make_space: Make) -> None:
    folder = tmp_path / "small/sweeps/s"
    open_folder(folder, make_space("optimizer.lr=0.1,0.2"), {"dice": "max"}, "small/s", "postgresql://me:secret@host/db")
    assert "secret" not in (folder / "sweep.json").read_text()
    with pytest.raises(SegkitError, match=r"storage=URL"):
        read_sweep(folder)


def test_sweeps_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder.parents[3])
    assert main(["sweep"]) == 0
    out = capsys.readouterr().out
    assert "small/s" in out
    assert "dice 0.7" in out
    assert main(["sweep", "output_dir=nothing"]) == 0
    assert "no sweep in nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["show", "ss"], "did you mean s?"),
        (["show"], "got 0"),
        (["shwo", "s"], "did you mean segkit sweep show?"),
        (["s"], "segkit sweep show s"),
        (["show", "s", "storag=x"], "did you mean storage?"),
        (["show", "s", "all=maybe"], "all"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    argv: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parents[3])
    assert main(["sweep", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") <= 2


def test_a_trial_that_waits_to_run_again_is_counted_once(tmp_path: Path, make_space: Make) -> None:
    folder = tmp_path / "small/sweeps/s"
    folder.mkdir(parents=True)
    study = make_study(folder, make_space("optimizer.lr=0.1,0.2"))
    end(study, attempted(study), reason="killed")
    assert study.requeue_failed() == 1
    (trial,) = read_sweep(folder).trials
    assert trial.state == "waiting"
    assert {t.state for t in study.study.trials} == {TrialState.FAIL, TrialState.WAITING}


def test_seconds_and_epochs_are_those_of_the_training(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/metrics.csv").write_text("epoch,seconds,val/dice\n0,1.5,\n1,2.5,0.5\n")
    trial = Trial(0, "running", {}, tmp_path, folder="t")
    assert (trial.seconds, trial.epochs, trial.best("dice", "max")) == (4.0, 2, 0.5)
    assert RunFolder(trial.path).status == {}
