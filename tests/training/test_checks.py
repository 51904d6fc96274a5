"""Combinations of keys that make no sense together are refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.system.errors import SegkitError
from segkit.training.checks import check_sense
from tests.conftest import QUICK, Cli

PLATEAU = "+scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["metric.monitor=loss"], "metric.mode=min"),
        (["metric=head_circumference", "metric.monitor=hc_mae_mm"], "metric.mode=min"),
        (["loss.parts.ce=null", "loss.parts.dice=null"], "at least one entry"),
        (["metric.cases.overlap=null"], "at least one entry"),
        (["preprocess=native", "preprocess.normalize=image"], r"data\.batch_size=1"),
        ([PLATEAU, "+scheduler.monitor=val/loss"], r"\+scheduler\.mode=min"),
        ([PLATEAU, "+scheduler.interval=step"], r"scheduler\.interval=epoch"),
        (["+sampling.progressive_resizing={}", "trainer.max_epochs=-1", "trainer.max_steps=9"], "trainer.max_epochs=N"),
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
