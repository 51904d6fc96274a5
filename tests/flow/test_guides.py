"""The guides are true: the tutorial is typed from its first line to its last, code blocks run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.test_documentation import PAGES, commands

BRIEF = {
    "train": (
        "trainer.max_epochs=2",
        "trainer.check_val_every_n_epoch=1",
        "preprocess.size=[48,64]",
        "model.widths=[8,16]",
        "trainer.compile=false",
    ),
}
"""Keys that make a command of the tutorial short; everything else is typed as it stands."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.S)


@pytest.mark.slow
def test_the_first_project_can_be_typed_line_by_line(segkit_in: Cli, tmp_path: Path) -> None:
    for line in commands(PAGES["first_project"]):
        _, command, *words = shlex.split(line)
        if command == "tensorboard":  # a server that never ends: tests/cli/test_tensorboard.py
            continue
        done = segkit_in(command, *words, *BRIEF.get(command, ()))
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    run = tmp_path / "outputs" / "heads" / "first"
    for row in re.findall(r"^\| (`.*?`) \|", PAGES["first_project"], re.M):
        for name in re.findall(r"`([\w./]+)`", row):
            assert (run / name).exists(), name
    assert (tmp_path / "audit" / "audit.html").exists()
    assert len(list((tmp_path / "masks").glob("*_overlay.png"))) == 40


@pytest.mark.slow
def test_the_python_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python_api", "python"):
        exec(compile(block, "python_api.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "(200, 300) uint8" in printed
    assert "did you mean optimizer.lr?" in printed
    assert names["failed"] == 0
    assert {path.name for path in (tmp_path / "masks").glob("*.png")} == {"image.png", "image_overlay.png"}


def test_the_network_of_the_guide_trains(segkit_in: Cli, tmp_path: Path) -> None:
    (tmp_path / "mynets.py").write_text(blocks("extending", "python")[0])
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mynet.yaml").write_text(blocks("extending", "yaml")[0])
    small = ("data=phantom", "data.phantom_n=8", "preprocess.size=[32,32]", "debug=fast", "name=x", "run=r")
    done = segkit_in("train", "model=mynet", "allow_targets=[mynets]", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "outputs" / "x" / "r" / "checkpoints" / "best.ckpt").exists()
