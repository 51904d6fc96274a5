"""`segkit init`: the project trains at once, its own test passes, and nothing that is there already is touched."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import segkit
from tests.conftest import Cli, run_segkit

FILES = {"README.md", "pyproject.toml", ".gitignore", "conf/experiment/example.yaml", "conf/data/mine.yaml", "conf/model/mynet.yaml",
         "conf/callbacks/mine.yaml", "my_seg/__init__.py", "my_seg/data.py", "my_seg/network.py", "my_seg/callbacks.py",
         "tests/test_project.py"}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ((), "needs one name;   segkit init NAME"),
        (("a", "b"), "needs one name"),
        (("json",), "json cannot be the name of a Python package"),
        (("3d",), "cannot be the name of a Python package"),
        (("used",), "used exists and is not empty;   choose another name"),
    ],
)
def test_one_line_says_what_is_wrong(segkit_in: Cli, tmp_path: Path, words: tuple[str, ...], refusal: str) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine")
    done = segkit_in("init", *words)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert refusal in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "thesis.txt"]


def test_the_project_trains_and_predicts(segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("init", "my-seg")
    assert done.returncode == 0, done.stderr
    home = tmp_path / "my-seg"
    assert {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()} == FILES
    assert tomllib.loads((home / "pyproject.toml").read_text())["project"]["dependencies"] == [], "the index has another segkit"
    assert "pypi.org" not in (home / "README.md").read_text()
    assert not any("project_name" in path.read_text() for path in home.rglob("*") if path.is_file())
    assert len((home / "README.md").read_text().splitlines()) <= 32
    done = run_segkit(home, "train", "experiment=example", "trainer.max_epochs=1", "data.phantom_n=8", "run=first")
    assert done.returncode == 0, done.stderr
    assert "new best   val/dice" in done.stdout, "its callback"
    assert "disc" in (home / "outputs" / "example" / "first" / "cases.csv").read_text()


@pytest.mark.slow
def test_the_project_passes_its_own_test(segkit_in: Cli, tmp_path: Path) -> None:
    assert segkit_in("init", "my-seg").returncode == 0
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(segkit.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path / "my-seg", env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
