"""Trials that Hydra's launchers run, really started: the ledger, the folders and the second start are those of any sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.sweeps.conftest import SWEEP, search, start, states, wait_until

LAUNCHERS = {
    "joblib": ("hydra.launcher.n_jobs=2",),
    "submitit_local": ("hydra.launcher.timeout_min=10",),
    "ray": ("+hydra.launcher.ray.init.num_cpus=2",),
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_runs_the_trials_and_a_second_start_only_what_failed(launcher: str, toy: Path) -> None:
    pytest.importorskip("ray" if launcher == "ray" else launcher.partition("_")[0], reason="extra sweep is not installed")
    keys = ("model.quality=1,3", f"hydra/launcher={launcher}", *LAUNCHERS[launcher])
    (toy / "broken").touch()
    code, out = search(toy, *keys)
    assert code == 1, out
    assert f"trials     2, by {launcher}; grid" in out
    assert "ZeroDivisionError: as planned;   outputs/small/sweeps/s/quality-3" in out
    assert states(toy / SWEEP) == {"quality-1": "finished", "quality-3": "failed"}
    assert "as planned" in (toy / SWEEP / "quality-3/traceback.txt").read_text()
    assert "epoch 2/2" in (toy / SWEEP / "quality-1/console.txt").read_text()
    (toy / "broken").unlink()
    code, out = search(toy, *keys)
    assert code == 0, out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("trial ")] == ["quality=3"]
    assert set(states(toy / SWEEP).values()) == {"finished"}
    assert not (toy / SWEEP / "quality-3/traceback.txt").exists()
    assert [path.name for path in (toy / "outputs").iterdir() if not path.name.startswith(".")] == ["small"]


@pytest.mark.slow
def test_a_job_that_is_killed_is_lost_alone(toy: Path) -> None:
    pytest.importorskip("submitit", reason="extra sweep is not installed")
    keys = ("model.quality=1,2", "trainer.max_epochs=8", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10")
    process = start(toy, *keys, slow=0.4)
    wait_until(lambda: list((toy / SWEEP).glob("quality-1/metrics.csv")) and list((toy / SWEEP).glob("quality-2/metrics.csv")))
    os.kill(json.loads((toy / SWEEP / "quality-1/status.json").read_text())["pid"], signal.SIGKILL)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "1 of 2 trials failed" in out
    assert states(toy / SWEEP) == {"quality-1": "running", "quality-2": "finished"}  # the first had no time to say otherwise
    code, out = search(toy, *keys)
    assert code == 0, out
    assert "resuming" in (toy / SWEEP / "quality-1/console.txt").read_text()


def test_a_launcher_that_is_not_installed_names_the_extra(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['hydra_plugins.hydra_ray_launcher'] = None; "
    command = "from segkit.cli.main import main; sys.exit(main(['train', '-m', 'seed=0,1', 'hydra/launcher=ray']))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", hide + command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "hydra/launcher   ray needs the package hydra-ray-launcher;   pip install hydra-ray-launcher" in done.stderr
    assert not (tmp_path / "outputs").exists()
