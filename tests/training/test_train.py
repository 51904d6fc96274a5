"""Combinations of keys that make no sense together are refused before anything is read."""

from __future__ import annotations

import numpy as np
import pytest

from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.data.labels import LabelMap
from segkit.inference.evaluation import Evaluation, match_labels
from segkit.metrics import Statistic
from segkit.metrics.table import CaseTable, Row
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


def test_data_that_lacks_some_classes_is_evaluated_by_the_classes_of_the_checkpoint_in_their_order() -> None:
    trained = LabelMap.of({"heart": "heart", "left": "left", "right": "right"}, overlap=True)
    lungs = LabelMap.of({"R": "right", "L": "left", "tube": "background"}, overlap=True)
    found = match_labels(lungs, trained)
    assert found.classes == trained.classes
    assert dict(found.values)["R"] == "right"
    exclusive = match_labels(LabelMap.of({0: "background", 7: "b"}), LabelMap.of({0: "background", 1: "a", 2: "b"}))
    assert exclusive.classes == ("a", "b")
    assert exclusive.encode(np.array([[0, 7]], np.uint8))[0].tolist() == [[0, 2]]
    with pytest.raises(SegkitError, match="the data has classes tumour, the checkpoint a"):
        match_labels(LabelMap.of({0: "background", 1: "tumour"}), LabelMap.of({0: "background", 1: "a"}))


def test_a_class_that_no_mask_shows_is_not_evaluated() -> None:
    rows = tuple(Row("1", "1", "other", name, n, 5, {"dice": value}) for name, n, value in [("a", 9, 0.8), ("b", 0, 0.0)])
    table = CaseTable(rows, (Statistic("dice", "dice"),))
    assert table.absent == ("b",)
    judged = Evaluation(table, table.summary(), ()).without(table.absent, 0)
    assert judged.summary.line("dice").mean == 0.8
