"""A search is checked as a whole before its first trial: each key under its condition, each preset as it is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from segkit.config import compose
from segkit.system.errors import SegkitError

PRESETS = sorted((compose.CONF / "hparams_search").glob("*.yaml"))
SEARCH = ("hydra/sweeper=optuna", "optimizer=adamw,sgd")


def test_hydra_finds_the_sweeper() -> None:
    assert "hydra_plugins.segkit_optuna" in {plugin.__module__ for plugin in Plugins.instance().discover(Sweeper)}


@pytest.mark.parametrize(
    "file", [*PRESETS[:2], *(pytest.param(file, marks=pytest.mark.slow) for file in PRESETS[2:])], ids=lambda file: file.stem
)
def test_a_preset_is_valid_and_names_how_to_run_it(file: Path) -> None:
    text = file.read_text()
    assert f"hparams_search={file.stem}" in text.partition("defaults:")[0]
    assert yaml.safe_load(text)["hydra"]["sweeper"]["params"]
    compose.check("train", [f"hparams_search={file.stem}", "data.root=x"], multirun=True)


@pytest.mark.slow
def test_a_key_is_tried_with_its_condition() -> None:
    momentum = "optimizer.momentum=interval(0.8,0.99)"
    condition = "hydra.sweeper.when={optimizer.momentum: 'optimizer=sgd'}"
    compose.check("train", [*SEARCH, momentum, condition], multirun=True)
    with pytest.raises(SegkitError, match=r"optimizer\.momentum"):  # adamw has none
        compose.check("train", [*SEARCH, momentum], multirun=True)
    wrong = "hydra.sweeper.when={optimizer.momentun: 'optimizer=sgd'}"
    with pytest.raises(SegkitError, match=r"did you mean optimizer\.momentum\?"):
        compose.check("train", [*SEARCH, "optimizer.momentun=interval(0.8,0.99)", wrong], multirun=True)


def test_conditions_of_conditions() -> None:
    when = {"b": "a=2", "c": "b=4"}
    jobs = [["a=1", "b=3", "c=5"], ["a=2", "b=3", "c=5"], ["a=1", "b=4", "c=5"], ["a=1", "b=3", "c=6"]]
    assert list(compose.possible(jobs, when)) == [
        ["a=2", "b=3"],  # b, and
        ["a=2", "b=4", "c=5"],  # c, each with what it needs
        ["a=1"],
        ["a=2", "b=3"],
        ["a=2", "b=4", "c=5"],
        ["a=2", "b=4", "c=6"],
    ]
