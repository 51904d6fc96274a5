"""What a config changes is counted from segkit's own defaults, whatever configs the user has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.config.search_path import UserFolders, primary_config
from segkit.training import hparams
from segkit.training.config_diff import changes, defaults
from segkit.training.run_folder import RunFolder


def test_the_defaults_are_segkits_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = defaults()
    for name, text in {
        "conf/callbacks/default.yaml": "mine: {_target_: my_package.Callback}",
        "conf/model/unet.yaml": "_target_: my_package.Net",
        "conf/mine.yaml": "defaults: [train, _self_]\nseed: 7",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    defaults.cache_clear()
    with primary_config("train", "mine", None, []):
        assert defaults() == known
        assert UserFolders.primary == "mine"
    assert UserFolders.local
    assert ("seed", known["seed"], 7) in changes({"seed": 7})


def test_a_diff_that_fails_is_an_empty_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = compose("train", ["optimizer.lr=0.5", "data=phantom"])
    assert isinstance(cfg, Train)
    assert hparams.varied(RunFolder(tmp_path / "run"), cfg)["optimizer.lr"] == 0.5
    (tmp_path / "sweep.json").write_text(yaml.safe_dump("damaged"))
    assert hparams.varied(RunFolder(tmp_path / "run"), cfg) == {}
