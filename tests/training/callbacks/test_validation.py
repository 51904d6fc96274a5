"""What a training shows in TensorBoard, read back from its events."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.pr_curve.metadata import PLUGIN_NAME
from tensorboard.util.tensor_util import make_ndarray

from tests.conftest import PLAIN, Cli


def events_of(run: Path) -> list[EventAccumulator]:
    """Of the training itself, and of its result. Files of one second differ by a number, of which 100 comes after 99."""
    paths = sorted(run.glob("events*"), key=lambda path: (path.name.split(".")[3], int(path.suffix[1:])))
    return [EventAccumulator(str(path), {"tensors": 0}).Reload() for path in paths]


@pytest.fixture(scope="module")
def events(trained: Path) -> list[EventAccumulator]:
    return events_of(trained)


def test_scalars_stand_at_their_step_and_the_epoch_is_no_curve(events: list[EventAccumulator], trained: Path) -> None:
    training, result = events
    with (trained / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) - 1 for row in rows]  # Lightning counts from 0
    for name in ("val/dice", "best/dice", "train/images_per_second", "train/memory_gb"):
        assert [one.step for one in training.Scalars(name)] == steps
    scores = [float(row["val/dice"]) for row in rows]
    assert [one.value for one in training.Scalars("val/dice")] == pytest.approx(scores)
    assert [one.value for one in training.Scalars("best/dice")] == pytest.approx(np.maximum.accumulate(scores))
    assert all(one.value > 0 for one in training.Scalars("train/images_per_second"))
    assert [one.step for one in result.Scalars("val_best/dice")] == steps[-1:]
    groups = {tag.partition("/")[0] for one in events for tag in one.Tags()["scalars"]}
    assert groups == {"best", "train", "val", "val_best"}, "in this order"


def test_curves_histogram_pictures_and_config_of_the_last_validation(events: list[EventAccumulator], trained: Path) -> None:
    training = events[0]
    assert {"val/curves", "val/worst_cases"} <= set(training.Tags()["images"])
    (histogram,) = training.Histograms("val/dice_of_cases")
    with (trained / "cases.csv").open() as file:
        scores = [float(row["dice"]) for row in csv.DictReader(file)]
    assert histogram.histogram_value.num == len(scores)
    (curve,) = training.Tensors("val/precision_recall/head")
    hits, false, rest, missed, precision, recall = make_ndarray(curve.tensor_proto)
    assert training.summary_metadata["val/precision_recall/head"].plugin_data.plugin_name == PLUGIN_NAME
    assert (hits + missed == hits[0]).all(), "so many pixels show the head"
    assert (false + rest == false[0]).all()
    assert recall == pytest.approx(hits / hits[0])
    assert precision[0] == pytest.approx(hits[0] / (hits[0] + false[0]))
    (text,) = training.Tensors("config/text_summary")
    assert b"phantom_n: 16" in text.tensor_proto.string_val[0]
    assert not training.Tags()["graph"]


def test_hparams_are_what_differs_from_the_defaults(events: list[EventAccumulator]) -> None:
    content = events[1].summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    row = metadata.parse_session_start_info_plugin_data(content).hparams
    assert set(row) == {
        *("data.phantom_n", "data.batch_size", "preprocess.size", "model.widths", "trainer.max_epochs"),
        *("trainer.compile", "trainer.accelerator"),
    }
    assert row["model.widths"].string_value == "8, 16"
    assert row["data.batch_size"].number_value == 4


@pytest.mark.slow
def test_the_graph_and_the_choice_of_epochs_are_keys(segkit_in: Cli, tmp_path: Path) -> None:
    keys = ("logger.tensorboard.log_graph=true", "callbacks.validation_curves.every_n_epochs=1", "~callbacks.throughput")
    done = segkit_in("train", *PLAIN, "run=graph", *keys)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "outputs/small/graph"
    training = events_of(run)[0]
    assert training.Tags()["graph"]
    assert len(training.Tensors("val/precision_recall/head")) == 2
    assert "train/images_per_second" not in training.Tags()["scalars"]
    assert "images_per_second" not in json.loads((run / "status.json").read_text())
