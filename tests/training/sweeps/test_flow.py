"""Searches as a user starts them, on the phantom with a network of one convolution."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import Cli
from tests.runner import as_new_process, call_main
from tests.training.sweeps.conftest import SEARCH, SWEEP, search, start, states, wait_until


@pytest.mark.slow
def test_one_of_three_fails_and_a_second_start_runs_only_that(toy: Path) -> None:
    (toy / "broken").touch()
    code, out = search(toy, "model.quality=1,2,3")
    assert code == 1
    assert "ZeroDivisionError: as planned;   outputs/small/sweeps/s/quality-3" in out
    assert states(toy / SWEEP) == {"quality-1": "finished", "quality-2": "finished", "quality-3": "failed"}
    assert "as planned" in (toy / SWEEP / "quality-3/traceback.txt").read_text()
    before = {name: (toy / SWEEP / name / "cases.csv").stat().st_mtime_ns for name in ("quality-1", "quality-2")}
    (toy / "broken").unlink()
    code, out = search(toy, "model.quality=1,2,3")
    assert code == 0, out
    assert [line.split()[-3] for line in out.splitlines() if line.startswith("trial ")] == ["quality=3"]
    assert set(states(toy / SWEEP).values()) == {"finished"}
    assert before == {name: (toy / SWEEP / name / "cases.csv").stat().st_mtime_ns for name in before}


@pytest.mark.slow
def test_a_killed_sweep_resumes(toy: Path) -> None:
    """The parent by kill -9, upon which its trial writes a checkpoint; then, as if on another machine, a trial by kill -9, which fails;
    then to the end, logging more often."""
    process = start(toy, "model.quality=1,2", slow=0.4)
    wait_until(lambda: list((toy / SWEEP).glob("*/checkpoints/last.ckpt")))
    process.kill()
    process.communicate()
    wait_until(lambda: "interrupted" in states(toy / SWEEP).values())
    (status,) = (toy / SWEEP).glob("*/status.json")
    status.write_text(json.dumps({**json.loads(status.read_text()), "host": "elsewhere", "state": "running"}))
    process = start(toy, "model.quality=1,2", slow=0.4)
    wait_until(lambda: json.loads(status.read_text())["host"] != "elsewhere")
    time.sleep(0.5)
    (trial,) = psutil.Process(process.pid).children()
    os.kill(trial.pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "killed by SIGKILL" in out
    code, out = search(toy, "model.quality=1,2", "logger.log_every_n_steps=1", "trainer.threads=1")
    assert code == 0, out
    assert states(toy / SWEEP) == {"quality-1": "finished", "quality-2": "finished"}
    consoles = [path.read_text() for path in (toy / SWEEP).glob("*/console.txt")]
    assert sum(text.count("resuming") for text in consoles) == 2
    assert all(text.count("per case") == 1 for text in consoles)  # each has come to its end once


@pytest.mark.slow
def test_an_edited_config_is_another_sweep(toy: Path) -> None:
    (toy / "conf/experiment").mkdir()
    preset = toy / "conf/experiment/mine.yaml"
    preset.write_text("# @package _global_\nmodel: {quality: 1}\n")
    code, out = search(toy, "experiment=mine", "seed=0,1", "debug=fast")
    assert code == 0, out
    preset.write_text("# @package _global_\nmodel: {quality: 2}\n")
    code, out = search(toy, "experiment=mine", "seed=0,1", "debug=fast")
    assert code == 2
    assert "there is a sweep s already, and it is another one;   choose a new  sweep.name=NAME" in out
    assert "model.quality   was 1, now 2" in out


@pytest.mark.slow
def test_being_asked_to_stop_stops_the_trials_with_checkpoints(toy: Path) -> None:
    """By SIGTERM, as a scheduler does; Ctrl-C takes the same way."""
    process = start(toy, "model.quality=1,2", slow=0.4)
    wait_until(lambda: list((toy / SWEEP).glob("*/metrics.csv")))
    process.terminate()
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 130, out
    assert list(states(toy / SWEEP).values()) == ["interrupted"]


@pytest.mark.slow
def test_pruning_stops_a_bad_trial_from_inside(toy: Path) -> None:
    """quality=0 predicts nothing. A pruned trial is done with."""
    median = ("hydra.sweeper.pruner=median", "hydra.sweeper.startup_trials=1", "hydra.sweeper.warmup_epochs=1")
    args = ("model.quality=1,0,2", "trainer.max_epochs=6", *median)
    code, out = search(toy, *args)
    assert code == 0, out
    assert states(toy / SWEEP)["quality-0"] == "pruned"
    assert len((toy / SWEEP / "quality-0/metrics.csv").read_text().splitlines()) == 2  # one epoch of six
    assert not (toy / SWEEP / "quality-0/cases.csv").exists()
    code, out = search(toy, *args)
    assert code == 0, out
    assert "trial " not in out


@pytest.mark.slow
def test_two_starts_work_on_one_sweep(toy: Path) -> None:
    processes = [start(toy, "model.quality=1,2,4,5", slow=0.1) for _ in range(2)]
    outs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    trained = [line.split()[-3] for out in outs for line in out.splitlines() if line.startswith("trial ")]
    assert sorted(trained) == ["quality=1", "quality=2", "quality=4", "quality=5"]
    assert set(states(toy / SWEEP).values()) == {"finished"}


@pytest.mark.slow
def test_without_a_name_the_varied_keys_give_it_and_another_list_is_another_sweep(toy: Path) -> None:
    home, nameless = toy / "outputs/small/sweeps", [key for key in SEARCH if not key.startswith("sweep.name")]
    fast = ("debug=fast",)

    def sweep(*args: str) -> str:
        done = subprocess.run([sys.executable, "-m", "segkit", *nameless, *fast, *args], cwd=toy, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sweep("seed=0,1")
    assert {path.name for path in (home / "seed").iterdir() if path.is_dir()} == {"seed-0", "seed-1"}
    assert "trials     2, 1 at a time; grid; 2 finished" in sweep("seed=0,1")
    assert sorted(path.name for path in home.iterdir()) == ["seed"]
    sweep("seed=2,3")
    assert sorted(path.name for path in home.iterdir()) == ["seed", "seed-2"]


@pytest.mark.slow
def test_dice_against_the_size_of_the_network(toy: Path) -> None:
    objectives = "hydra.sweeper.objectives={dice: max, parameters: min, ms_per_image: min}"
    code, out = search(toy, "model.quality=1", "optimizer.lr=0.01,0.05", objectives, "trainer.max_epochs=1")
    assert code == 0, out
    costs = json.loads((toy / SWEEP / "lr-0.01/costs.json").read_text())
    assert costs["parameters"] == 10  # 3 x 3 weights and a bias
    assert costs["ms_per_image"] > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("optimizer.lrr=interval(0.1,1)",), "no such key; did you mean optimizer.lr?"),
        (("data.batch_size=interval(1,4)",), "write  data.batch_size=int(interval(1,4))"),
        (("optimizer.lr=interval(0.1,1)", "hydra.sweeper.sampler=bayes"), "hydra.sweeper.sampler"),
        (("optimizer.lr=interval(0.1,1)", "hydra.sweeper.sampler=tpe", "hydra.sweeper.n_trials=0"), "needs more than 0"),
        (("optimizer.lr=interval(0.1,1)", "hydra.sweeper.n_trialss=1"), "did you mean hydra.sweeper.n_trials?"),
        (("optimizer.lr=interval(0.1,1)", "data.root=nowhere"), "data.root=nowhere: no such folder"),
        (("seed=1",), "-m   has nothing to vary"),
    ],
)
def test_a_wrong_search_is_refused_before_its_first_trial(
    args: tuple[str, ...], message: str, toy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lone = [key for key in SEARCH if not (key.startswith("optimizer.lr") and args[0].startswith("optimizer.lr"))]
    with as_new_process(toy, ["segkit", *lone, *args], {}):
        assert call_main((*lone, *args)) == 2
    assert message in capfd.readouterr().err
    assert not (toy / "outputs").exists()


def test_a_search_needs_the_flag(segkit_in: Cli) -> None:
    done = segkit_in("train", "hparams_search=fetal_head_tpe", "data.root=x")
    assert done.returncode == 2
    assert "write  segkit train -m hparams_search=fetal_head_tpe" in done.stderr
