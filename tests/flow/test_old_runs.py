"""Checkpoints and run folders that segkit 0.1 wrote, before its modules moved, are still good."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from segkit.config.signatures import check_call
from segkit.config.targets import instantiate, is_allowed
from segkit.config.validate import restore
from segkit.system.errors import Problem
from tests.conftest import REPOSITORY, Cli

OLD = REPOSITORY / "tests" / "fixtures" / "v0_1"
CONFIGS: dict[str, dict[str, Any]] = json.loads((OLD / "configs.json").read_text())
PRESETS = sorted(name for name in CONFIGS if "=" not in name)


def targets(node: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every node with a `_target_`, at any depth, and where it stands."""
    if isinstance(node, list):
        return [found for inner in node for found in targets(inner, path)]
    if not isinstance(node, dict):
        return []
    own = [(path, node)] if "_target_" in node else []
    return own + [found for key, inner in node.items() for found in targets(inner, f"{path}.{key}".lstrip("."))]


def data_beside(folder: Path) -> Path:
    shutil.copytree(OLD / "data", folder / "data")
    return folder / "data"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_config_of_every_old_preset_is_restored(preset: str) -> None:
    assert restore(CONFIGS[preset], []).name == CONFIGS[preset]["name"]


@pytest.mark.parametrize("option", sorted(set(CONFIGS) - set(PRESETS)))
def test_every_old_option_names_something_that_can_be_built(option: str, tmp_path: Path) -> None:
    restored = restore({**CONFIGS["fetal_head"], **CONFIGS[option]}, [])
    group = option.partition("=")[0]
    for path, node in targets(restored.model_dump(mode="json")[group], group):
        supplied = {"model": ("in_channels", "out_channels"), "data.source": ("root",)}.get(path, ())
        problems: list[Problem] = [] if path == "model" else check_call(node, path, supplied=supplied, offered=("mode", "classes"))
        assert not problems
        assert is_allowed(node["_target_"])
        if path.startswith("metric"):
            instantiate(node)


def test_evaluating_an_old_checkpoint_gives_the_same_table_byte_for_byte(segkit_in: Cli, tmp_path: Path) -> None:
    root = data_beside(tmp_path)
    done = segkit_in("evaluate", f"ckpt={OLD / 'finished' / 'checkpoints' / 'best.ckpt'}", f"data.root={root}", "output=out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "cases.csv").read_bytes() == (OLD / "finished" / "cases.csv").read_bytes()


def test_an_old_killed_run_is_resumed_to_its_end(segkit_in: Cli, tmp_path: Path) -> None:
    root, run = data_beside(tmp_path), tmp_path / "killed"
    shutil.copytree(OLD / "killed", run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["root"] = str(root)
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    done = segkit_in("train", f"resume={run}")
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = (list(csv.DictReader((run / name).open())) for name in ("metrics.csv", "uninterrupted.csv"))
    assert len(ours) == len(theirs) == 12
    n_before = len((OLD / "killed" / "metrics.csv").read_text().splitlines()) - 1
    for epoch, (row, wanted) in enumerate(zip(ours, theirs, strict=True)):
        # transforms are drawn independently of each other since, so that the images after the kill are others
        for column in set(wanted) - {"seconds"}:
            is_exact = column in ("epoch", "step", "lr") or (column.startswith("train/") and epoch < n_before)
            assert float(row[column]) == pytest.approx(float(wanted[column]), abs=1e-4 if is_exact else 0.1, nan_ok=True), column
