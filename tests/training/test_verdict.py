"""A finished training whose monitored score never moved says so, and why that may be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.metrics.overlap import Overlap
from segkit.metrics.table import CaseTable, Row
from segkit.training.run_folder import RunFolder
from segkit.training.verdict import unmoved


@pytest.mark.parametrize(
    ("scores", "losses", "n_pred", "words"),
    [
        (
            (0.25, 0.25, 0.25),
            (1.0, 1.0, 0.99),
            9,
            ["0.2500 in all 3 validations", "did not fall", "segkit train experiment=quickstart -m optimizer.lr=0.0001,0.01"],
        ),
        ((0.0, 0.0, 0.0), (1.0, 0.8, 0.5), 0, ["every predicted mask is empty", "loss=dice_focal"]),
        ((0.0, 0.0, 0.0), (1.0, 0.8, 0.5), 9, ["samples.png"]),
        ((0.25, 0.26, 0.25), (1.0, 1.0, 1.0), 9, []),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 9, []),
    ],
)
def test_a_score_that_never_moved(
    scores: tuple[float, ...], losses: tuple[float, ...], n_pred: int, words: list[str], tmp_path: Path
) -> None:
    lines = [f"{i},{loss},{score}" for i, (loss, score) in enumerate(zip(losses, scores, strict=True))]
    (tmp_path / "metrics.csv").write_text("\n".join(["epoch,train/loss,val/dice", *lines]) + "\n")
    (tmp_path / "overrides.yaml").write_text(json.dumps(["experiment=quickstart", "optimizer.lr=1e-3", "run=r"]))
    cfg = compose("train", ["experiment=quickstart", "optimizer.lr=1e-3"])
    assert isinstance(cfg, Train)
    table = CaseTable.of([Row("a", "a", "val", "x", 9, n_pred, {"dice": 0.0})], {"overlap": Overlap()})
    said = "\n".join(unmoved(RunFolder(tmp_path), cfg, table))
    assert all(word in said for word in words), said
    assert bool(said) == bool(words)
    assert "run=r" not in said
