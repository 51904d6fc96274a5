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


@pytest.mark.slow
def test_what_the_guide_on_extending_writes_works(segkit_in: Cli, tmp_path: Path) -> None:
    """Network, loss and metric in one training, then the data set and the preset."""
    *files, preset = [*blocks("extending", "python"), *blocks("extending", "yaml")]
    for text in (*files, f"# conf/experiment/mine.yaml\n{preset}"):
        name, _, content = text.removeprefix("# ").partition("\n")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    small = ("data=phantom", "data.phantom_n=8", "preprocess.size=[32,32]", "debug=fast", "name=x", "run=r")
    own = "allow_targets=[mynets,mylosses,mymetrics,mymodules]"
    done = segkit_in("train", "model=mynet", "loss=brier", "metric=area", "module=noisy", own, *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "area_ratio" in (tmp_path / "outputs/x/r/cases.csv").read_text().partition("\n")[0].split(",")

    assert segkit_in("phantom", "data=folder", "output=set", "n=6").returncode == 0
    (tmp_path / "mine").mkdir()
    for kind, folder in (("img", "images"), ("seg", "masks")):
        for path in (tmp_path / "set" / folder).iterdir():
            path.rename(tmp_path / "mine" / f"{path.stem.replace('_', '-')}_{kind}.png")
    done = segkit_in("audit", "data=mine", "data.root=mine", "allow_targets=[mydata]")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6" in done.stdout

    done = segkit_in("train", "experiment=mine", "data.root=FOLDER", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "name: mine" in done.stdout
