"""Combinations of keys that make no sense together are refused before anything is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.inference.evaluation import build_metrics
from segkit.system.errors import SegkitError
from segkit.training.building import check_monitor
from segkit.training.checks import check_sense
from segkit.training.train import train
from tests.conftest import QUICK, SMALL, Cli

PLATEAU = "+scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["metric.monitor=loss"], "metric.mode=min"),
        (["metric=head_circumference", "metric.monitor=hc_mae_mm"], "metric.mode=min"),
        (["trainer.limit_train_batches=0"], "leaves nothing to train on"),
        (["trainer.max_time=foo"], r"trainer\.max_time=foo is no time: .*00:12:00:00"),
        (["trainer.max_time={minuts: 1}"], r"is no time"),
        (["trainer.max_time={days: 1e12}"], r"is no time"),
        (["loss.parts.ce=null", "loss.parts.dice=null"], "at least one entry"),
        (["metric.cases.overlap=null"], "at least one entry"),
        (["preprocess=native", "preprocess.normalize=image"], r"data\.batch_size=1"),
        ([PLATEAU, "+scheduler.monitor=val/loss"], r"\+scheduler\.mode=min"),
        ([PLATEAU, "+scheduler.interval=step"], r"scheduler\.interval=epoch"),
        (["+sampling.progressive_resizing={}", "trainer.max_epochs=-1"], "trainer.max_epochs=N"),
        (["+sampling.progressive_resizing={}", "trainer.max_steps=9"], r"trainer\.max_steps=9: .*trainer\.max_epochs=N  alone"),
    ],
)
def test_a_combination_without_sense_names_the_key(overrides: list[str], words: str) -> None:
    cfg = compose("train", overrides)
    assert isinstance(cfg, Train)
    with pytest.raises(SegkitError, match=words):
        check_sense(cfg)
    sound = compose("train")
    assert isinstance(sound, Train)
    check_sense(sound)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            ("callbacks.early_stopping.monitor=val/dcie", "callbacks.early_stopping.mode=max", "callbacks.early_stopping.patience=3"),
            "callbacks.early_stopping.monitor=val/dcie is not logged;   did you mean val/dice?",
        ),
        (
            (
                "callbacks.model_checkpoint.monitor=train/los",
                "callbacks.model_checkpoint.mode=min",
                "callbacks.model_checkpoint.save_top_k=2",
            ),
            "callbacks.model_checkpoint.monitor=train/los is not logged;   did you mean train/loss?",
        ),
        (("scheduler=plateau", "+scheduler.monitor=val/dcie"), "scheduler.monitor=val/dcie is not logged;   did you mean val/dice?"),
        (("metric.monitor=dcie",), "metric.monitor=dcie is not measured;   did you mean dice?"),
    ],
)
def test_a_monitor_that_is_not_logged_is_named_before_the_run_folder_is_made(keys: tuple[str, ...], words: str, tmp_path: Path) -> None:
    cfg = compose("train", [*SMALL, f"output_dir={tmp_path}", *keys])
    assert isinstance(cfg, Train)
    with pytest.raises(SegkitError, match=re.escape(words)):
        train(cfg)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    "keys",
    [
        ("callbacks.early_stopping.monitor=val/dice_present", "callbacks.early_stopping.mode=max"),
        ("callbacks.early_stopping.monitor=val/loss_ce", "callbacks.early_stopping.mode=min"),
        ("callbacks.model_checkpoint.monitor=train/loss", "callbacks.model_checkpoint.save_top_k=1", "callbacks.model_checkpoint.mode=min"),
        ("callbacks.model_checkpoint.monitor=epoch", "callbacks.model_checkpoint.save_top_k=1", "callbacks.model_checkpoint.mode=max"),
    ],
)
def test_a_monitor_that_is_logged_is_taken(keys: tuple[str, ...]) -> None:
    cfg = compose("train", [*SMALL, *keys])
    assert isinstance(cfg, Train)
    check_monitor(cfg, build_metrics(cfg.metric.cases, ()))


def test_what_an_own_module_logs_beside_is_not_known() -> None:
    cfg = compose("train", [*SMALL, "callbacks.early_stopping.monitor=val/mine", "callbacks.early_stopping.mode=max"])
    assert isinstance(cfg, Train)
    metrics = build_metrics(cfg.metric.cases, ())
    with pytest.raises(SegkitError, match="val/mine is not logged"):
        check_monitor(cfg, metrics)
    check_monitor(cfg.model_copy(update={"module": {"_target_": "mine.Descends"}}), metrics)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("+optimizer.betas=[0.9,2]",), "optimizer: torch.optim.AdamW: Invalid beta"),
        (("model.widths=[]",), "model: segkit.models.UNet: widths needs"),
        (("model.dropout=3",), "model: segkit.models.UNet: dropout"),
    ],
)
def test_a_value_that_a_class_refuses_names_its_section(keys: tuple[str, ...], words: str, tmp_path: Path) -> None:
    cfg = compose("train", [*SMALL, f"output_dir={tmp_path}", *keys])
    assert isinstance(cfg, Train)
    with pytest.raises(SegkitError, match=words):
        train(cfg)
    assert not (tmp_path / "small").exists()


FEW = (
    *QUICK,
    "data=phantom",
    "preprocess.size=[64,64]",
    "trainer.accelerator=cpu",
    "trainer.compile=false",
    "trainer.max_epochs=1",
    "name=small",
)


@pytest.mark.parametrize(
    ("keys", "layer", "words", "fix"),
    [
        (("data.phantom_n=2", "model=deeplab"), "BatchNorm2d", "1 training case makes a batch of 1 image of 64 x 64", "model=unet"),
        pytest.param(
            ("data.phantom_n=12", "data.batch_size=1", "model=deeplab"),
            "BatchNorm2d",
            "each step has a batch of 1",
            "data.batch_size=2",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("data.phantom_n=12", "data.batch_size=1", "model.widths=[4,8,8,8,8,8,8]", "preprocess.size=[64,64]"),
            "BatchNorm2d",
            "each step has a batch of 1",
            "data.batch_size=2",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_layer_that_needs_two_values_is_named_before_the_run_folder_is_made(
    keys: tuple[str, ...], layer: str, words: str, fix: str, segkit_in: Cli, tmp_path: Path
) -> None:
    """Batch norm after global pooling, or at a bottleneck of one pixel."""
    done = segkit_in("train", *FEW, *keys)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert layer in line
    assert words in line
    assert fix in line
    assert not (tmp_path / "outputs/small").exists()
    assert segkit_in("train", *FEW, *(key for key in keys if not key.startswith(("model", fix[:7]))), fix).returncode == 0
