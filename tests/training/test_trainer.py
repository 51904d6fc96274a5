"""What a trainer needs from the machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.models.segmentation import Normalizer, SegmentationModel
from segkit.training import trainer
from tests.conftest import SMALL, Cli


def test_compilation_without_a_compiler_is_refused_before_anything_is_written(segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *SMALL, "trainer.compile=true", env={"CXX": "/nowhere/g++"})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "trainer.compile=true needs a C++ compiler (/nowhere/g++)" in line
    assert "trainer.compile=false" in line
    assert not (tmp_path / "outputs/small").exists()


@pytest.mark.parametrize(("compiler", "is_compiled"), [("/nowhere/g++", False), ("sh", True)])
def test_auto_compiles_where_it_can(
    compiler: str, is_compiled: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(trainer, "COMPILE_PAYS_FLOP", 0)
    monkeypatch.setattr("segkit.system.hardware.find_spec", lambda name: name)
    cfg = compose("train", ["experiment=quickstart"])
    assert isinstance(cfg, Train)
    model = SegmentationModel(torch.nn.Conv2d(1, 1, 3, padding=1), Normalizer("unit"), "binary")
    images = SimpleNamespace(channels=1, dims=2)
    assert trainer.prepare_network(model, cfg, SimpleNamespace(device="cuda"), 40, images) is is_compiled  # type: ignore[arg-type]
    assert ("lacks a C++ compiler (/nowhere/g++)" in capsys.readouterr().out.replace("\n", " ")) is not is_compiled
