"""scripts/bench_time_to_dice.py: both sides run, and its loss is nnU-Net's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/bench_time_to_dice.py"
LOG = """\
2026-01-02 10:00:00.000000: unpacking done...
2026-01-02 10:01:00.000000: Pseudo dice [np.float32(0.5), np.float32(0.7)]
2026-01-02 10:02:30.500000: Pseudo dice [0.8, 0.9]
"""


def script(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import bench_time_to_dice

    return bench_time_to_dice


def test_the_log_of_nnunet_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.txt").write_text(LOG)
    curve = script(monkeypatch).of_nnunet(tmp_path / "log.txt")  # type: ignore[attr-defined]
    assert [seconds for seconds, _ in curve] == [60.0, 150.5]
    assert [dice for _, dice in curve] == pytest.approx([0.6, 0.85])


def test_the_loss_is_cross_entropy_less_batch_dice_of_the_foreground(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of uniform probabilities over two classes, half of four pixels foreground: ln 2 - 2 * 1 / (2 + 2); the ignored pixel is left out."""
    mask = torch.tensor([[[0, 1], [1, 0], [255, 255]]], dtype=torch.uint8)
    found = script(monkeypatch).loss_of(torch.zeros(1, 2, 3, 2), mask)  # type: ignore[attr-defined]
    assert float(found) == pytest.approx(0.693147 - 0.5, abs=1e-5)


@pytest.mark.slow
def test_preset_and_baseline_share_a_table(tmp_path: Path) -> None:
    keys = ["experiment=fetal_head", "debug=fast", "preprocess.size=[64,64]", "--minutes", "0.02", "--validations", "1", "--dice", "0.0"]
    done = subprocess.run([sys.executable, str(SCRIPT), *keys], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert table[0] == "| Dice | segkit | nnU-Net's settings |"
    assert table[2].count(" s |") == 2  # both reach 0
