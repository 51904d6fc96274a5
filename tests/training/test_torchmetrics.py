"""Metrics of torchmetrics in a training: named, logged, monitored; checked against counts by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from segkit.config.compose import compose
from segkit.data.labels import LabelMap
from segkit.system.errors import ProblemsFound
from segkit.training import torchmetrics
from tests.conftest import SMALL, run_segkit

BINARY = LabelMap.of({0: "background", 1: "head"})
SEVERAL = LabelMap.of({0: "background", 1: "a", 2: "b"})
PLANES = LabelMap.of({"a": "a", "b": "b"}, overlap=True)


def value(target: str, labels: LabelMap, probs: torch.Tensor, mask: torch.Tensor, **keywords: object) -> float:
    metric = torchmetrics.build({"m": {"_target_": target, **keywords}}, labels, ())["m"]
    torchmetrics.update(metric, probs, mask, labels)  # type: ignore[arg-type]
    return float(metric.compute())  # type: ignore[operator]


def test_values_are_those_counted_by_hand_and_ignored_pixels_do_not_count() -> None:
    probs = torch.tensor([[[[0.9, 0.8, 0.2, 0.9]]]])
    mask = torch.tensor([[[1, 0, 1, 255]]], dtype=torch.uint8)
    assert value("torchmetrics.F1Score", BINARY, probs, mask) == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert value("torchmetrics.segmentation.MeanIoU", BINARY, probs, mask, include_background=False) == pytest.approx(1 / 3)
    several = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 2, 2]]]), 3).movedim(-1, 1).float()
    mask = torch.tensor([[[0, 1, 1, 255]]], dtype=torch.uint8)
    assert value("torchmetrics.classification.MulticlassAccuracy", SEVERAL, several, mask, average="micro") == pytest.approx(2 / 3)
    planes = torch.tensor([[[[0.9, 0.1]], [[0.9, 0.9]]]])
    mask = torch.tensor([[[[1, 0]], [[0, 255]]]], dtype=torch.uint8)
    assert value("torchmetrics.Accuracy", PLANES, planes, mask, average="micro") == pytest.approx(2 / 3)


OWN = """
import torch, torchmetrics

class Area(torchmetrics.Metric):
    def __init__(self):
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
    def update(self, probs, target):
        self.total += (target == 1).sum()
    def compute(self):
        return self.total
"""


def test_an_own_metric_is_logged_and_monitored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "areas.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    nodes = ("+metric.torchmetrics.area={_target_: areas.Area}", "+metric.torchmetrics.f1={_target_: torchmetrics.F1Score}")
    result = run_segkit(tmp_path, "train", *SMALL, *nodes, "metric.monitor=f1", "allow_targets=[areas]", "run=r")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader((tmp_path / "outputs/small/r/metrics.csv").open()))
    assert len({row["val/area"] for row in rows}) == 1  # the same masks in every epoch: it is reset between them
    assert float(rows[0]["val/area"]) > 0
    content = torch.load(tmp_path / "outputs/small/r/checkpoints/best.ckpt", weights_only=True)
    assert content["segkit"]["score"]["val/f1"] == pytest.approx(max(float(row["val/f1"]) for row in rows))
    assert (tmp_path / "outputs/small/r/cases.csv").exists()


def test_among_the_metrics_by_case_it_is_sent_to_its_place() -> None:
    with pytest.raises(ProblemsFound) as caught:
        compose("train", ["+metric.cases.tm={_target_: torchmetrics.F1Score}"])
    (problem,) = caught.value.problems
    typed = problem.fix.removeprefix("write  ").strip("'")
    assert typed.startswith("+metric.torchmetrics.tm=")
    compose("train", [typed])
