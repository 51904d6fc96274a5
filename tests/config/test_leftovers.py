"""Keys that a preset sets for its own network, where another network is typed, are named with what to type."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from segkit.config.compose import check, check_leftovers
from segkit.system.errors import ProblemsFound

PRESET = """# @package _global_
defaults:
  - override /model: unet_light
  - override /optimizer: sgd
name: planned
model: {widths: [8, 16], norm: instance}
optimizer: {nesterov: true}
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/planned.yaml").write_text(PRESET)
    return tmp_path


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["model=smp"], ["model.widths", "model.norm"]),
        (["model=deeplab"], ["model.widths", "model.norm"]),
        (["optimizer=adamw", "model=mdu_like"], ["optimizer.nesterov", "model.widths", "model.norm"]),
        (["model=unet_attention"], []),
        (["logger=[csv,tensorboard]"], []),
        (["callbacks=[default,lr_monitor]", "optimizer=adamw"], ["optimizer.nesterov"]),
        (["model=unet", "model.widths=[4,8]"], []),
        ([], []),
    ],
)
def test_keys_of_the_preset_are_named(keys: list[str], named: list[str], conf: Path) -> None:
    words, fixes = ["experiment=planned", *keys], []
    if named:
        with pytest.raises(ProblemsFound) as caught:
            check_leftovers("train", words, [conf])
        assert {problem.where for problem in caught.value.problems} >= set(named)
        fixes = re.findall(r"add  (~\S+)", str(caught.value))
    else:
        check_leftovers("train", words, [conf])
    check("train", [*words, *fixes], [conf])
