from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from segkit.system.errors import SegkitError
from segkit.training.plots import best_row, curves, draw_curves, read_columns


def metrics_csv(folder: Path, n: int, diverged: bool = False) -> Path:
    """Validation every other epoch where there are many, blanks in between."""
    lines = ["epoch,step,seconds,lr,train/loss,train/ce,val/loss,val/dice,val/hc_mae_mm"]
    for i in range(n):
        loss = 10.0 ** (-3 * i / n)
        val = f"{loss},{0.9 - abs(i - n // 2) / n / 2},{5 + loss}" if n < 3 or i % 2 == 0 else ",,"
        lines.append(f"{i},{i * 10},3.5,{1e-3},{'nan' if diverged and i else loss},{loss / 2},{val}")
    path = folder / "metrics.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("n", [1, 500])
def test_curves_of_short_and_long_runs(tmp_path: Path, n: int) -> None:
    curves(metrics_csv(tmp_path, n), tmp_path / "curves.png")
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None
    assert 700 < picture.shape[1] < 1200
    assert (tmp_path / "curves.png").stat().st_size < 500_000


def test_curves_mark_the_best_epoch_and_choose_the_scale(tmp_path: Path) -> None:
    columns = read_columns(metrics_csv(tmp_path, 100))
    assert best_row(columns, "val/dice", "max") == 50
    assert best_row(columns, "val/loss", "min") == 98
    figure = draw_curves(columns, "val/dice", "max")
    assert figure.get_suptitle() == "100 epochs, 6 min"
    losses, score, mm, rate = figure.axes
    assert losses.get_yscale() == "log"
    assert score.get_yscale() == rate.get_yscale() == "linear"
    assert (score.get_ylabel(), mm.get_ylabel()) == ("score", "mm")
    assert "best dice 0.9, epoch 50" in [str(line.get_label()) for line in score.lines]
    drawn = {str(line.get_label()): len(line.get_xdata()) for line in losses.lines}
    assert (drawn["train loss"], drawn["val loss"], drawn["train ce"]) == (100, 50, 100)


def test_curves_of_a_run_that_diverged(tmp_path: Path) -> None:
    curves(metrics_csv(tmp_path, 6, diverged=True), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_curves_without_metrics_say_so(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,train/loss\n")
    for path in (tmp_path / "metrics.csv", tmp_path / "none.csv"):
        with pytest.raises(SegkitError, match=r"csv: no metrics"):
            curves(path, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_repeated_epochs_of_a_resumed_run_count_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,train/loss\n0,3\n1,2\n1,1.5\n2,1\n")
    assert read_columns(path)["train/loss"].tolist() == [3, 1.5, 1]
