"""The arrows of the architecture point one way: down the list of folders, and never in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import segkit

PACKAGE = Path(segkit.__file__).parent
FILES = sorted(file for file in PACKAGE.rglob("*.py") if "project" not in file.parent.parts)  # what segkit init copies is a user's
FLOORS = (("system",), ("config",), ("data",), ("models", "metrics", "losses"), ("inference",), ("training",), ("cli",))
"""From the ground up. A folder imports from its own and from lower floors; the three in the middle do not import each other."""
FLOOR = {folder: height for height, folders in enumerate(FLOORS) for folder in folders}
HYDRA = ("cli/", "config/compose.py", "config/overrides.py", "config/presets.py", "config/search_path.py", "training/sweeps/")
LIGHTNING = ("training/", "data/datamodule.py")
NO_TORCH = ("metrics/", "config/", "system/errors.py", "system/files.py", "system/progress.py", "cli/main.py",
            "data/sources/", "data/io/", "data/audit/", "data/labels.py", "data/case.py", "data/manifest.py", "data/splits.py")  # fmt: skip


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def imports(file: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function; not those for type checkers alone."""
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    typing_only = {id(n) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
                   for n in ast.walk(node)}  # fmt: skip
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def packages(file: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(file)}


def target(module: str) -> Path | None:
    """The file of a module of segkit."""
    path = PACKAGE.parent / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file in FILES), None)


def test_nothing_lies_loose() -> None:
    entries = {path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "conf")}
    assert entries == {*FLOOR, "__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_file_imports_only_what_its_layer_may_know(file: Path) -> None:
    where = name(file)
    if not where.startswith(HYDRA):
        assert not packages(file) & {"hydra", "omegaconf"}
    if not where.startswith(LIGHTNING):
        assert not packages(file) & {"lightning", "pytorch_lightning"}
    if where.startswith(NO_TORCH):
        assert "torch" not in packages(file)
    if where != "data/transforms/augment.py":
        assert "albumentations" not in packages(file)
    folder = where.split("/")[0]
    if folder in FLOOR:
        below = {other for other in FLOOR if FLOOR[other] < FLOOR[folder]} | {folder}
        used = {module.split(".")[1] for module in imports(file) if module.startswith("segkit.") and module.split(".")[1] in FLOOR}
        assert used <= below


def test_there_is_no_circle() -> None:
    arrows = {file: {found for module in imports(file) if (found := target(module)) and found != file} for file in FILES}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail("circle: " + " <- ".join(name(file) for file in error.args[1]))


def test_opening_a_checkpoint_and_predicting_needs_neither_hydra_nor_lightning() -> None:
    names = {"hydra", "omegaconf", "lightning", "onnx", "onnxruntime", "openvino"}
    code = f"import sys, segkit.inference.predictor; print(sorted({names} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
