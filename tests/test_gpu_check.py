"""scripts/gpu_check.py runs every check; on the processor here, at tiny sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/gpu_check.py"


@pytest.mark.slow
def test_every_check_runs_on_a_processor(tmp_path: Path, all_cores: None) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--tiny"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads((tmp_path / "gpu_check.json").read_text())["checks"]
    rows = {what: value for check in checks.values() for what, value, _ in check["rows"]}
    assert rows["killed and resumed, deterministic=true: largest difference of weights"] == 0
    assert rows["Dice between masks of processor and GPU"] == 1
    assert rows["step, DDP of one process"] > 0
    for line in done.stdout.splitlines()[1:]:
        assert line.startswith(tuple(rows)), line


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=tmp_path, capture_output=True, text=True, env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""}
    )
    assert done.returncode == 2
    assert "torch sees no GPU" in done.stderr
