"""scripts/gpu_check.py runs every check; on the processor here, at tiny sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = REPOSITORY / "scripts/gpu_check.py"
ABSENT = ("SimpleITK", "highdicom", "pycocotools", "pydicom", "segmentation_models_pytorch", "timm", "skimage", "optuna")
"""Packages that its list of wheels leaves out: a network of segkit's own needs none of them on PNGs and NIfTI."""

BARE = f"""
import importlib.metadata as metadata
import sys

sys.modules.update(dict.fromkeys({ABSENT}))
found = metadata.Distribution.from_name

def from_name(name):
    if name.replace("-", "_") in {(*ABSENT, "segkit")}:
        raise metadata.PackageNotFoundError(name)
    return found(name)

metadata.Distribution.from_name = from_name
"""
"""`sitecustomize` of a machine that has none of them, nor segkit itself but as a folder on PYTHONPATH."""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without them."""
    (tmp_path / "sitecustomize.py").write_text(BARE)
    plugin = REPOSITORY / "segkit/training/sweeps/plugin"
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, REPOSITORY, plugin)))}


@pytest.mark.slow
def test_every_check_runs_on_a_processor(tmp_path: Path, bare: dict[str, str], all_cores: None) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--tiny"], cwd=tmp_path, capture_output=True, text=True, env=bare)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads((tmp_path / "gpu_check.json").read_text())["checks"]
    rows = {what: value for check in checks.values() for what, value, _ in check["rows"]}
    assert rows["killed and resumed, deterministic=true: largest difference of weights"] == 0
    assert rows["Dice between masks of processor and GPU"] == 1
    assert rows["step, DDP of one process"] > 0
    for line in done.stdout.splitlines()[1:]:
        assert line.startswith(tuple(rows)), line


@pytest.mark.slow
def test_a_check_that_is_not_over_in_time_is_ended_and_later_ones_are_not_begun(tmp_path: Path, bare: dict[str, str]) -> None:
    argv = [sys.executable, str(SCRIPT), "--tiny", "--only", "resume", "product", "--minutes", "0.02"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, env=bare)
    assert done.returncode == 1
    assert "FAILED: not over after 1 s" in done.stdout
    assert "FAILED: not begun within 0.02 minutes" in done.stdout


@pytest.mark.slow
def test_without_a_gpu_it_says_so(tmp_path: Path, bare: dict[str, str]) -> None:
    hidden = {**bare, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(SCRIPT)], cwd=tmp_path, capture_output=True, text=True, env=hidden)
    assert done.returncode == 2
    assert "torch sees no GPU" in done.stderr
