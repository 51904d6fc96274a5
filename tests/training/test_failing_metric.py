"""A metric of the user's own that raises in a validation: one line names the case, and the run resumes from the epoch before it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.conftest import SMALL, run_segkit

MINE = """
from pathlib import Path


class Fragile:
    names, statistics = ("fine",), ()

    def __call__(self, pred, target, case):
        if Path("broken").exists() and Path("outputs/small/broken/checkpoints/last.ckpt").exists():  # in the second validation
            raise ValueError("no such thing")
        return {"fine": 1.0}
"""
KEYS = ("+metric.cases.fine={_target_: fragile.Fragile}", "allow_targets=[fragile]", "trainer.max_epochs=2")


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_it_names_the_case_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fragile.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run_segkit(tmp_path, "train", *SMALL, *KEYS, "run=whole").returncode == 0
    (tmp_path / "broken").touch()
    failed = run_segkit(tmp_path, "train", *SMALL, *KEYS, "run=broken")
    runs = tmp_path / "outputs/small"
    assert failed.returncode == 2
    assert "metric.cases.fine failed for class" in failed.stderr
    assert "ValueError: no such thing" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (runs / "broken/checkpoints/last.ckpt").exists()
    assert rows(runs / "broken") == rows(runs / "whole")[:1]
    (tmp_path / "broken").unlink()
    assert run_segkit(tmp_path, "train", "resume=outputs/small/broken", "allow_targets=[fragile]").returncode == 0
    assert rows(runs / "broken") == rows(runs / "whole")
