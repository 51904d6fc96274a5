"""The stages of tuning as config: they fit every preset, and `-m stage=lr` sweeps around the preset's own values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segkit.cli.tune import STAGES
from segkit.config import compose
from segkit.config.overrides import around
from segkit.system.errors import ProblemsFound

PRESETS = compose.groups("train")["experiment"][1]
TYPICAL = ("gi_tract_sgd", "fetal_head")


def config(preset: str, stage: str, *more: str) -> Any:
    return compose.compose("train", [f"experiment={preset}", f"stage={stage}", *more])


def swept(key: str, *overrides: str, typed: tuple[str, ...] = ()) -> list[float]:
    """The values of a key that a multirun tries."""
    (text,) = [text for text in compose.sweep_words("train", overrides, typed) if text.startswith(f"{key}=")]
    return [float(value) for value in text.partition("=")[2].split(",")]


def rates(*overrides: str, typed: tuple[str, ...] = ()) -> list[float]:
    return swept("optimizer.lr", *overrides, typed=typed)


def test_there_are_five_stages() -> None:
    assert set(compose.groups("train")["stage"][1]) == set(STAGES)
    assert compose.groups("train")["stage"][0] == ""


@pytest.mark.parametrize("preset", TYPICAL)
def test_every_stage_changes_what_it_says(preset: str) -> None:
    own: Any = compose.compose("train", [f"experiment={preset}"])
    sanity, overfit, lr, lr_wd, final = (config(preset, stage) for stage in STAGES)
    assert (sanity.optimizer["lr"], sanity.trainer.max_epochs) == (0, 1)
    assert not sanity.augment.transforms
    assert not overfit.augment.transforms
    assert (overfit.data.batch_size, overfit.data.shuffle, overfit.trainer.limit_train_batches) == (2, False, 1)
    for short in (sanity, overfit, lr, lr_wd):
        assert short.callbacks["weight_averaging"]["decay"] is None
        assert (short.metric.monitor, short.metric.mode) == ("loss", "min") == (final.metric.monitor, final.metric.mode)
        assert short.trainer.check_val_every_n_epoch <= short.trainer.max_epochs
    for chosen in (lr, lr_wd, final):
        assert (chosen.optimizer, chosen.augment, chosen.model) == (own.optimizer, own.augment, own.model)
    assert lr.trainer.max_epochs < final.trainer.max_epochs == own.trainer.max_epochs


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_stages_fit_every_preset_with_lists_around_its_own_values(preset: str) -> None:
    """`overfit` changes the most, `lr_wd` reads the most of a preset."""
    assert config(preset, "overfit").data.batch_size == 2
    own = config(preset, "lr_wd").optimizer
    for key in ("lr", "weight_decay"):
        tried = swept(f"optimizer.{key}", f"experiment={preset}", "stage=lr_wd")
        assert len(tried) == 3
        assert any(value == pytest.approx(own[key]) for value in tried)


@pytest.mark.parametrize("preset", TYPICAL)
def test_rates_lie_on_both_sides_of_the_presets_own(preset: str) -> None:
    own = config(preset, "lr").optimizer["lr"]
    tried = rates(f"experiment={preset}", "stage=lr")
    assert len(tried) == 4
    assert min(tried) < own < max(tried)
    assert any(rate == pytest.approx(own) for rate in tried)


def test_debug_still_has_the_last_word() -> None:
    assert config("gi_tract_sgd", "lr", "debug=fast").trainer.max_epochs == 1


def test_zero_is_tried_and_small_values_beside_it() -> None:
    assert around(0.01, 0.3, 1, 3, 10) == "0.003,0.01,0.03,0.1"
    assert around(0.0, 0.1, 1, 10) == "0,0.0001,0.001"


def test_what_the_user_types_replaces_the_list() -> None:
    assert rates("experiment=gi_tract_sgd", "stage=lr", typed=("optimizer.lr=0.5,0.6",)) == [0.5, 0.6]
    assert rates("experiment=gi_tract_sgd", "stage=lr", "optimizer.lr=0.1") == [0.03, 0.1, 0.3, 1.0], "around it"


@pytest.mark.slow
def test_a_stage_is_a_sweep_like_any_other(tmp_path: Path) -> None:
    """`-m stage=lr` starts a trial for each rate; the empty folder ends each of them at once."""
    command = [sys.executable, "-m", "segkit", "train", "-m", "experiment=gi_tract_sgd", "stage=lr", "data.root=."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    trials = {path.name for path in (tmp_path / "outputs/gi_tract_sgd/sweeps/lr").iterdir() if path.is_dir()}
    assert trials == {f"lr-{rate}" for rate in ("0.003", "0.01", "0.03", "0.1")}, done.stderr


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["experiment=gi_tract_sgd,fetal_head", "stage=lr"], "experiment"),
        pytest.param(["experiment=gi_tract_sgd", "stage=lr,lr_wd"], "stage", marks=pytest.mark.slow),
        pytest.param(["optimizer=sgd,adam", "stage=lr"], "optimizer", marks=pytest.mark.slow),
    ],
)
def test_a_list_around_values_that_are_swept_as_well_is_refused(overrides: list[str], key: str) -> None:
    with pytest.raises(ProblemsFound) as caught:
        compose.check("train", overrides, multirun=True)
    assert [problem.where for problem in caught.value.problems] == [key]
    assert "at a time" in caught.value.problems[0].fix
    compose.check("train", [*overrides, "optimizer.lr=0.1,0.2", "optimizer.weight_decay=0"], multirun=True)


def test_the_values_of_a_stage_are_validated_before_the_first_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list in the user's own stage is tried like one that is typed."""
    (tmp_path / "conf" / "stage").mkdir(parents=True)
    (tmp_path / "conf" / "stage" / "mine.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {params: {trainer.max_epochs: '1,abc', optimizer.lrr: '1,2'}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProblemsFound) as caught:
        compose.check("train", ["stage=mine"], multirun=True)
    assert {problem.where for problem in caught.value.problems} == {"trainer.max_epochs", "optimizer.lrr"}
    compose.check("train", ["stage=mine"])
