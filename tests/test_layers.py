"""The arrows of the architecture point one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import segkit

PACKAGE = Path(segkit.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HYDRA = ("cli.py", "api.py", "config/", "sweep/")
LIGHTNING = ("task.py", "run.py", "trainer.py", "callbacks/", "data/datamodule.py")
NO_TORCH = ("report/", "metrics/", "config/", "errors.py", "files.py", "drawing.py", "cli.py", "doctor.py", "progress.py", "rundir.py",
            "commands.py",
            "data/sources/", "data/readers.py", "data/labels.py", "data/manifest.py", "data/splits.py", "data/audit.py")  # fmt: skip


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def imports(file: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def packages(file: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(file)}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_file_imports_only_what_its_layer_may_know(file: Path) -> None:
    where = name(file)
    if not where.startswith(HYDRA):
        assert not packages(file) & {"hydra", "omegaconf"}
    if not where.startswith(LIGHTNING):
        assert not packages(file) & {"lightning", "pytorch_lightning"}
    if where.startswith(NO_TORCH):
        assert "torch" not in packages(file)
    if where != "data/augment.py":
        assert "albumentations" not in packages(file)
    if where.startswith(("data/", "models/", "losses/", "metrics/", "inference/", "report/")):
        rim = {"segkit.run", "segkit.from_checkpoint", "segkit.task", "segkit.trainer", "segkit.cli", "segkit.rundir", "segkit.callbacks"}
        assert not {".".join(module.split(".")[:2]) for module in imports(file)} & rim


def test_opening_a_checkpoint_and_predicting_needs_neither_hydra_nor_lightning() -> None:
    code = "import sys, segkit.inference.predictor; print(sorted({'hydra', 'omegaconf', 'lightning'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
