"""Combinations of keys that make no sense together are refused before anything is read."""

from __future__ import annotations

import pytest

from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.system.errors import SegkitError
from segkit.training import train as run


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["metric.monitor=loss"], "metric.mode=min"),
        (["metric=head_circumference", "metric.monitor=hc_mae_mm"], "metric.mode=min"),
        (["loss.parts.ce=null", "loss.parts.dice=null"], "at least one entry"),
        (["metric.cases.overlap=null"], "at least one entry"),
        (["trainer.max_epochs=3", "trainer.check_val_every_n_epoch=5"], "nothing would be validated"),
        (["preprocess=native", "preprocess.normalize=image"], r"data\.batch_size=1"),
    ],
)
def test_a_combination_without_sense_names_the_key(overrides: list[str], words: str) -> None:
    cfg = compose("train", overrides)
    assert isinstance(cfg, Train)
    with pytest.raises(SegkitError, match=words):
        run.check_sense(cfg)
    sound = compose("train")
    assert isinstance(sound, Train)
    run.check_sense(sound)
