"""What has finished is counted once, whatever is killed; an interrupted trial runs again in its own folder."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from optuna.trial import TrialState

from segkit.system.errors import SegkitError
from segkit.training.run_folder import RunFolder
from segkit.training.status import NonFinite
from segkit.training.sweeps.samplers import build_pruner
from segkit.training.sweeps.space import Space
from segkit.training.sweeps.storage import cut_torn_end, differences, identity, open_storage, open_study
from segkit.training.sweeps.study import Attempt, Outcome, SweepStudy, read_outcome
from segkit.training.sweeps.sweeper import shared_config
from segkit.training.sweeps.workers import ForkedWorkers
from tests.training.sweeps.conftest import leave_run, make_study

Make = Callable[..., Space]


@pytest.fixture
def space(make_space: Make) -> Space:
    return make_space("optimizer.lr=interval(0,1)")


def attempted(study: SweepStudy) -> Attempt:
    attempt = study.next_attempt()
    assert attempt is not None
    return attempt


def run_trials(study: SweepStudy, job: Callable[[Attempt], None], n_jobs: int = 2, fail_fast: bool = False) -> list[tuple[int, Outcome]]:
    reported: list[tuple[int, Outcome]] = []

    def report(attempt: Attempt, outcome: Outcome, seconds: float | None) -> None:
        reported.append((attempt.first, outcome))

    ForkedWorkers(study=study, report=report, fail_fast=fail_fast, job=job, n_jobs=n_jobs).run()
    return reported


def test_a_trial_that_fails_is_reported_with_its_reason_and_the_others_continue(tmp_path: Path, space: Space) -> None:
    def job(attempt: Attempt) -> None:
        os.write(1, b"hello\n")
        if attempt.first == 1:
            raise ZeroDivisionError("as planned")
        leave_run(attempt, "nan" if attempt.first == 2 else 0.5)

    study = make_study(tmp_path, space, n_trials=4)
    reported = dict(run_trials(study, job))
    assert reported[0] == Outcome("finished", (0.5,))
    assert reported[1] == Outcome("failed", reason="ZeroDivisionError: as planned")
    assert reported[2] == Outcome("failed", reason="objective dice is NaN in every epoch")
    assert reported[3].state == "finished"
    folders = {trial.number: tmp_path / trial.user_attrs["folder"] for trial in study.trials()}
    assert "as planned" in (folders[1] / "traceback.txt").read_text()
    assert all((folder / "console.txt").read_text() == "hello\n" for folder in folders.values())
    assert make_study(tmp_path, space, n_trials=4).requeue_failed() == 1  # a run that has ended would end in the same way


def test_fail_fast_ends_with_the_first_failure(tmp_path: Path, space: Space) -> None:
    def job(attempt: Attempt) -> None:
        if attempt.first:
            time.sleep(30)
        raise ZeroDivisionError

    reported = dict(run_trials(make_study(tmp_path, space), job, fail_fast=True))
    assert {first: outcome.reason for first, outcome in reported.items()} == {0: "ZeroDivisionError", 1: "interrupted"}


def test_trials_that_fail_at_once_end_a_sweep_that_stops_at_the_first(tmp_path: Path, space: Space) -> None:
    def job(attempt: Attempt) -> None:
        raise ZeroDivisionError

    reported = run_trials(make_study(tmp_path, space, n_trials=8), job, n_jobs=4, fail_fast=True)
    assert len(reported) <= 4
    assert all(outcome.state == "failed" for _, outcome in reported)


def test_trials_of_the_same_values_that_failed_run_once_more_and_no_start_waits_for_itself(tmp_path: Path, make_space: Make) -> None:
    def job(attempt: Attempt) -> None:
        if not (tmp_path / "mended").exists():
            raise ZeroDivisionError
        with (tmp_path / "log").open("a") as log:
            log.write(attempt.folder.name + "\n")
        leave_run(attempt)

    space = make_space("model.bias=true,false")
    run_trials(make_study(tmp_path, space, n_trials=6), job, n_jobs=1)
    (tmp_path / "mended").touch()
    for _ in range(2):
        study = make_study(tmp_path, space, n_trials=6, n_jobs=2)
        study.requeue_failed()
        run_trials(study, job)
    assert sorted((tmp_path / "log").read_text().split()) == ["bias-false", "bias-true"]
    assert {trial.state for trial in study.trials()} == {TrialState.COMPLETE}


def test_a_kill_while_a_combination_is_drawn_does_not_lose_it(tmp_path: Path, make_space: Make) -> None:
    space = make_space("model=unet,unet_light", "seed=0,1")
    study = make_study(tmp_path, space, sampler="grid", n_trials=4)
    attempted(study).lock.close()
    study.study.ask()  # and no more
    run_trials(make_study(tmp_path, space, sampler="grid", n_trials=4), leave_run)
    trained = sorted(trial.user_attrs["folder"] for trial in study.trials())
    assert trained == ["model-unet_light_seed-0", "model-unet_light_seed-1", "model-unet_seed-0", "model-unet_seed-1"]


def fail_while_the_second_is_forked(folder: Path, space: Space) -> None:
    forks = []
    os.register_at_fork(before=lambda: forks.append(1), after_in_child=lambda: time.sleep(1 if len(forks) == 2 else 0))

    def job(attempt: Attempt) -> None:
        if attempt.first:
            time.sleep(30)
        time.sleep(0.3)
        raise ZeroDivisionError

    reported = dict(run_trials(make_study(folder, space), job, fail_fast=True))
    (folder / "reported.json").write_text(json.dumps({first: outcome.reason for first, outcome in reported.items()}))


def test_a_trial_that_is_being_forked_hears_that_it_is_to_stop(tmp_path: Path, space: Space) -> None:
    parent = get_context("fork").Process(target=fail_while_the_second_is_forked, args=(tmp_path, space))
    parent.start()
    parent.join()
    assert json.loads((tmp_path / "reported.json").read_text()) == {"0": "ZeroDivisionError", "1": "interrupted"}


def test_a_killed_trial_is_reported_at_once_and_runs_again_at_the_next_start(tmp_path: Path, space: Space) -> None:
    def job(attempt: Attempt) -> None:
        if attempt.first == 0 and not (tmp_path / "again").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        leave_run(attempt)

    study = make_study(tmp_path, space, n_trials=2)
    reported = dict(run_trials(study, job))
    assert reported[0].reason.startswith("killed by SIGKILL")
    before = study.trials()[0]
    (tmp_path / "again").touch()
    study = make_study(tmp_path, space, n_trials=2)
    assert study.requeue_failed() == 1
    assert run_trials(study, job) == [(0, Outcome("finished", (0.5,)))]
    after = study.trials()[0]
    assert (after.params, after.user_attrs["folder"]) == (before.params, before.user_attrs["folder"])


def sweep_until_killed(folder: Path, space: Space) -> None:
    def job(attempt: Attempt) -> None:
        time.sleep(0.02)
        with (folder / "log").open("a") as log:
            log.write(f"{attempt.first}\n")
        leave_run(attempt)

    study = make_study(folder, space, n_trials=30, n_jobs=2)
    study.requeue_failed()
    run_trials(study, job)


@pytest.mark.slow
def test_a_parent_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, space: Space) -> None:
    context, kills = get_context("fork"), 0
    for i in range(8):
        parent = context.Process(target=sweep_until_killed, args=(tmp_path, space))
        parent.start()
        parent.join(0.1 + 0.03 * i)
        kills += parent.exitcode is None
        parent.kill()
        parent.join()
    sweep_until_killed(tmp_path, space)
    assert kills >= 2
    trials = make_study(tmp_path, space, n_trials=30).trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 30
    assert len({trial.user_attrs["folder"] for trial in trials}) == 30
    started = (tmp_path / "log").read_text().split()
    assert set(started) == {str(trial.user_attrs.get("first", trial.number)) for trial in trials}
    assert len(started) <= 30 + 2 * kills  # what has left its run is never run again


def test_two_parents_share_a_sweep_and_one_finishes_what_the_other_left(tmp_path: Path, space: Space) -> None:
    context = get_context("fork")
    parents = [context.Process(target=sweep_until_killed, args=(tmp_path, space)) for _ in range(2)]
    for parent in parents:
        parent.start()
    time.sleep(0.5)
    parents[0].kill()
    parents[1].join(60)
    assert parents[1].exitcode == 0
    trials = make_study(tmp_path, space, n_trials=30).trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 30


def test_a_run_that_ended_while_nobody_looked_is_reported_from_its_folder(tmp_path: Path, space: Space) -> None:
    attempt = attempted(make_study(tmp_path, space))
    leave_run(attempt, 0.7)
    attempt.lock.close()  # its process is gone, and left nothing
    study = make_study(tmp_path, space)
    study.requeue_failed()
    assert study.trials()[0].value == 0.7
    assert attempted(study).first == 1


def test_a_trial_that_somebody_works_on_is_left_alone(tmp_path: Path, space: Space) -> None:
    theirs = attempted(make_study(tmp_path, space, n_trials=2))
    study = make_study(tmp_path, space, n_trials=2)
    study.requeue_failed()
    mine = attempted(study)
    assert mine.first == 1
    assert study.next_attempt() is None
    assert study.n_running() == 2
    theirs.lock.close()
    assert attempted(study).folder == theirs.folder


def test_trials_of_a_machine_that_does_not_share_the_folder_are_left_alone(tmp_path: Path, space: Space) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    here, there = (make_study(tmp_path / name, space, n_trials=2, storage=url) for name in ("here", "there"))
    attempted(there).lock.close()
    mine = attempted(here)
    assert mine.first == 1
    here.requeue_failed()
    assert [trial.state for trial in here.trials()] == [TrialState.RUNNING] * 2


def test_the_same_values_are_not_trained_twice(tmp_path: Path, make_space: Make) -> None:
    ran = tmp_path / "log"

    def job(attempt: Attempt) -> None:
        with ran.open("a") as log:
            log.write("x")
        leave_run(attempt)

    reported = run_trials(make_study(tmp_path, make_space("model.bias=true,false"), n_trials=8), job, n_jobs=1)
    assert len(reported) == 8
    assert len(ran.read_text()) == 2


def test_another_search_cannot_take_the_folder_or_the_study(tmp_path: Path, space: Space, make_space: Make) -> None:
    study = make_study(tmp_path, space)
    with pytest.raises(SegkitError, match=r"sweep\.name=NAME\n.*was 0\.0 to 1\.0, now 0\.0 to 2\.0"):
        make_study(tmp_path, make_space("optimizer.lr=interval(0,2)"))
    with pytest.raises(SegkitError, match="was max, now min"):
        open_study(study.study._storage, "small/s", space, {"dice": "min"}, build_pruner("none", 0, 1, 1))


def test_another_config_or_other_images_are_another_sweep(tmp_path: Path, space: Space) -> None:
    def config(root: str = "a", epochs: int = 5, threads: int = 2, lr: float = 0.1) -> Space:
        tree = {"data": {"root": root}, "trainer": {"max_epochs": epochs, "threads": threads}, "optimizer": {"lr": lr}}
        return replace(space, shared=shared_config(tree, space))

    make_study(tmp_path, config())
    make_study(tmp_path, config(threads=8, lr=0.2))  # where it runs, and what is searched
    with pytest.raises(SegkitError, match=r"trainer\.max_epochs   was 5, now 9"):
        make_study(tmp_path, config(epochs=9))
    with pytest.raises(SegkitError, match=r"data\.root   was .*/a, now .*/b"):
        make_study(tmp_path, config("b"))
    journal = str(tmp_path / "study.log")  # which knows nothing of a folder of images: another machine may have them elsewhere
    make_study(tmp_path / "here", config(), storage=journal)
    make_study(tmp_path / "there", config("b"), storage=journal)
    with pytest.raises(SegkitError, match="it is another one"):
        make_study(tmp_path / "elsewhere", config(epochs=9), storage=journal)


def test_a_key_that_an_older_sweep_did_not_have_is_at_its_default(space: Space) -> None:
    def described(**trainer: object) -> dict[str, dict[str, str]]:
        shared = shared_config({"data": {"root": "a"}, "trainer": {"max_epochs": 5, **trainer}}, space)
        return identity(replace(space, shared=shared), {"dice": "max"})

    assert differences(described(), described(on_nonfinite="stop")) == []
    assert differences(described(), described(on_nonfinite="skip")) == ["  trainer.on_nonfinite   was stop, now skip"]


def test_a_record_cut_off_by_a_kill_is_taken_off_the_journal(tmp_path: Path, space: Space) -> None:
    attempt = attempted(make_study(tmp_path, space))
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":6,"tri')
    attempt.lock.close()
    make_study(tmp_path, space).requeue_failed()
    assert make_study(tmp_path, space).trials()[0].state is TrialState.WAITING
    assert journal.read_bytes().startswith(whole)
    (tmp_path / "torn").write_bytes(b"{")
    cut_torn_end(tmp_path / "torn")
    assert (tmp_path / "torn").read_bytes() == b""


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////nowhere/x.db", "unable to open database file"),
        ("postgresql://me:secret@localhost:1/x", r"me:\*\*\*@localhost"),
        ("nonsense://x", "cannot be reached"),
        ("/dev/null/x.log", "cannot be written"),
    ],
)
def test_a_storage_that_cannot_be_reached_says_which_without_the_password(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match=message):
        open_storage(url, tmp_path)


def test_objectives_are_read_where_the_first_is_best(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "running"}))
    assert read_outcome(tmp_path, {"dice": "max"}) is None
    (tmp_path / "status.json").write_text(json.dumps({"state": "finished"}))
    rows = "epoch,seconds,val/dice,val/loss\n0,1,0.5,2\n1,1,,\n2,2,0.9,1\n3,1,nan,nan\n4,1,0.8,0.5\n"
    (tmp_path / "metrics.csv").write_text(rows)
    (tmp_path / "costs.json").write_text(json.dumps({"parameters": 10}))
    assert read_outcome(tmp_path, {"dice": "max"}) == Outcome("finished", (0.9,))
    assert read_outcome(tmp_path, {"loss": "min"}) == Outcome("finished", (0.5,))
    assert read_outcome(tmp_path, {"parameters": "min", "dice": "max", "loss": "min", "seconds": "min"}) == Outcome(
        "finished", (10, 0.9, 1, 6)
    )
    missing = read_outcome(tmp_path, {"dicee": "max"})
    assert missing == Outcome("failed", reason="objective dicee is not logged; did you mean dice?")


def test_a_trial_that_diverged_has_failed_with_its_reason_and_is_not_run_again(tmp_path: Path, space: Space) -> None:
    def job(attempt: Attempt) -> None:
        leave_run(attempt)
        if attempt.first == 1:
            with RunFolder(attempt.folder).recording():
                raise NonFinite("loss nan: not finite in epoch 0;   no checkpoint yet\n  what to type")

    reported = dict(run_trials(make_study(tmp_path, space, n_trials=3), job))
    assert reported[1] == Outcome("failed", reason="loss nan: not finite in epoch 0;   no checkpoint yet")
    assert [reported[i].state for i in (0, 2)] == ["finished", "finished"]
    assert make_study(tmp_path, space, n_trials=3).requeue_failed() == 0
