"""Callbacks and loggers by name: chosen in a list, switched off, and under the keys that they had before 0.2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segkit.config import validate
from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.system.errors import ProblemsFound
from segkit.training.config_hash import config_hash
from tests.runner import run_segkit


def config(*words: str, **more: Any) -> Train:
    composed = compose("train", words, **more)
    assert isinstance(composed, Train)
    return composed


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["callbacks=none"], []),
        (["callbacks=[early_stopping,pictures]"], ["early_stopping", "pictures"]),
        (["callbacks=none", "experiment=fetal_head"], []),  # which sets the decay of an average that is not chosen
        (["callbacks=none", "+callbacks.own={_target_: lightning.pytorch.callbacks.LambdaCallback}"], ["own"]),
        (["callbacks=[pictures]", "callbacks.pictures=null"], ["pictures"]),
    ],
)
def test_a_list_chooses_the_callbacks(words: list[str], names: list[str]) -> None:
    assert sorted(config(*words).callbacks) == names


def test_chosen_by_itself_a_callback_is_on_and_among_the_defaults_it_waits_for_its_number() -> None:
    alone = config("callbacks=[early_stopping,weight_averaging]").callbacks
    usual = config().callbacks
    assert [alone["early_stopping"]["patience"], alone["weight_averaging"]["decay"]] == [20, 0.99]
    assert [usual["early_stopping"]["patience"], usual["weight_averaging"]["decay"]] == [None, None]


OLD: dict[str, tuple[str, str]] = {
    "callbacks.checkpoint.every_minutes=2": ("callbacks.model_checkpoint.every_minutes=2", ""),
    "logger.log_every_n_steps=3": ("trainer.log_every_n_steps=3", ""),
    "logger.tensorboard=false": ("logger=none", "logger"),
    "callbacks.extra={own: {_target_: lightning.pytorch.callbacks.LambdaCallback}}": (
        "+callbacks.own={_target_: lightning.pytorch.callbacks.LambdaCallback}",
        "",
    ),
    "+callbacks.extra.own._target_=lightning.pytorch.callbacks.LambdaCallback": (
        "+callbacks.own={_target_: lightning.pytorch.callbacks.LambdaCallback}",
        "",
    ),
}


@pytest.mark.parametrize("old", OLD)
def test_an_old_key_on_the_command_line_is_the_new_one(old: str) -> None:
    new, section = OLD[old]
    before, after = (config(word).model_dump() for word in (old, new))
    if section:
        before[section], after[section] = ({k: v for k, v in one[section].items() if v} for one in (before, after))
    assert before == after


def test_logger_none_and_tensorboard_true_are_what_they_were() -> None:
    assert config("logger=none", "logger.tensorboard=true").logger == config().logger


def test_the_real_command_line_knows_the_old_keys(tmp_path: Path) -> None:
    done = run_segkit(tmp_path, "train", "callbacks.checkpoint.every_minutes=5", "logger.log_every_n_steps=0")
    assert done.returncode == 2
    assert "trainer.log_every_n_steps   needs more than 0, got 0" in done.stderr


def test_a_preset_may_use_the_old_keys(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "callbacks:\n  checkpoint: {every_minutes: 2}\n  early_stopping: {patience: 4}\n"
        "  extra: {own: {_target_: lightning.pytorch.callbacks.LambdaCallback}}\n"
        "logger: {tensorboard: false, log_every_n_steps: 7}\n"
    )
    cfg = config("experiment=mine", config_dirs=[tmp_path])
    assert cfg.callbacks["model_checkpoint"]["every_minutes"] == 2
    assert cfg.callbacks["early_stopping"]["patience"] == 4
    assert cfg.callbacks["own"]
    assert not any(cfg.logger.values())
    assert cfg.trainer.log_every_n_steps == 7


def test_a_run_folder_of_an_older_version_is_the_same_training() -> None:
    now = config("callbacks.early_stopping.patience=4", "callbacks.weight_averaging.decay=0.9", "logger.log_every_n_steps=7")
    saved = now.model_dump(mode="json")
    del saved["trainer"]["log_every_n_steps"]
    saved["callbacks"] = {
        "checkpoint": {"every_minutes": 5.0},
        "early_stopping": {"patience": 4, "min_delta": 0.0},
        "weight_averaging": {"decay": 0.9},
        "pictures": {"every_n_epochs": 5, "n_images": 3},
        "extra": {},
    }
    saved["logger"] = {"tensorboard": True, "log_every_n_steps": 7}
    restored = validate.restore(saved, [])
    assert config_hash(restored) == config_hash(now)
    assert restored.callbacks["pictures"]["n_images"] == 3
    assert restored.logger == now.logger
    assert restored.trainer.log_every_n_steps == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["callbacks=[lr_monitor]", "logger=none"], "add  logger=csv  or  ~callbacks.lr_monitor"),
        (["+callbacks.f={_target_: lightning.pytorch.callbacks.LearningRateFinder}"], "which no resume could repeat"),
        (["+callbacks.f={_target_: lightning.pytorch.callbacks.BatchSizeFinder}"], "data.batch_size=auto"),
        (["callbacks.early_stopping.monitor=val/loss"], "add  callbacks.early_stopping.mode=min  or"),
        (["callbacks.early_stopping.patience=0"], "callbacks.early_stopping.patience"),
        (["+callbacks.early_stopping.patiense=3"], "did you mean callbacks.early_stopping.patience?"),
        (["+callbacks.model_checkpoint.save_topk=3"], "did you mean callbacks.model_checkpoint.save_top_k?"),
        (["+callbacks.x={a: 1}"], "needs a _target_"),
        (["+model.x={_target_: lightning.pytorch.loggers.CometLogger}"], "outside the allowed packages"),
    ],
)
def test_what_cannot_work_is_refused_before_the_training(words: list[str], said: str) -> None:
    with pytest.raises(ProblemsFound) as found:
        config(*words)
    assert said in str(found.value)
