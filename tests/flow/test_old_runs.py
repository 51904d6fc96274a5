"""Checkpoints and run folders that segkit 0.1 wrote, before its modules moved, are still good."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations
import pytest
import yaml

import segkit
from segkit.config.signatures import check_call
from segkit.config.targets import instantiate, is_allowed
from segkit.config.validate import restore
from segkit.data.transforms import augment
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


def killed_in(folder: Path) -> Path:
    """The run that was killed, and its data."""
    root, run = data_beside(folder), folder / "killed"
    shutil.copytree(OLD / "killed", run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["root"] = str(root)
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return run


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


def test_an_old_killed_run_is_resumed_and_ends_where_it_would_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the draws of its augmentation: segkit 0.1 gave each transform generators of one seed, now they share them."""
    monkeypatch.setattr(augment, "random", SimpleNamespace(Random=int))
    monkeypatch.setattr(albumentations.Compose, "set_random_state", lambda self, generator, seed: self.set_random_seed(seed))
    monkeypatch.chdir(tmp_path)
    run = killed_in(tmp_path)
    segkit.train(f"resume={run}")
    ours, theirs = (list(csv.DictReader((run / name).open())) for name in ("metrics.csv", "uninterrupted.csv"))
    assert len(ours) == len(theirs) == 12
    for row, wanted in zip(ours, theirs, strict=True):
        # another count of threads rounds otherwise, which batch norm of few images enlarges in the validation
        for column in set(wanted) - {"seconds"}:
            close = 1e-4 if column.startswith(("epoch", "step", "lr", "train/")) else 0.05
            assert float(row[column]) == pytest.approx(float(wanted[column]), abs=close, nan_ok=True), column


def test_an_old_killed_run_is_resumed_to_its_end_with_the_draws_of_today(segkit_in: Cli, tmp_path: Path) -> None:
    run = killed_in(tmp_path)
    done = segkit_in("train", f"resume={run}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["epoch"] for row in csv.DictReader((run / "metrics.csv").open())] == [str(epoch) for epoch in range(12)]
