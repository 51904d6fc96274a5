"""`segkit models`: what it prints, and the numbers against networks that are really built."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from segkit.cli import models as catalogue
from segkit.cli.main import main
from segkit.config.compose import CONF

ROW = re.compile(r"│\s*([\w-]+)\s*│\s*([\d.-]+)(?: M)?\s*│\s*([\d.-]+)\s*│(.*)│")


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(catalogue.console, "_width", 200)


def rows(text: str) -> dict[str, tuple[str, str, str]]:
    """Parameters in millions, GFLOP and remark, by name, in the table's order."""
    return {name: (parameters, gflop, remark.strip()) for name, parameters, gflop, remark in ROW.findall(text)}


@pytest.mark.slow
def test_without_a_pattern_all_presets_and_architectures_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "size=64", "channels=1"]) == 0
    printed = capsys.readouterr().out
    found = rows(printed)
    assert {path.stem for path in (CONF / "model").glob("*.yaml")} <= set(found)
    assert {model.__name__ for model in smp.MODEL_ARCHITECTURES_MAPPING.values()} <= set(found)
    assert found["unet"][0] == "31.04"
    assert all(float(gflop) > 0 for _, gflop, _ in found.values())
    assert "segkit models resnet" in printed


def test_operations_are_those_of_the_convolutions(capsys: pytest.CaptureFixture[str]) -> None:
    """Counted by hand: two operations for each weight of a convolution and each pixel it is put to."""
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=2)
    operations = 0

    def hook(module: torch.nn.Conv2d, _: object, out: torch.Tensor) -> None:
        nonlocal operations
        operations += 2 * module.weight.numel() * out.shape[2] * out.shape[3]

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(hook)
    network.eval()(torch.rand(1, 2, 96, 96))
    assert main(["models", "resnet18", "size=96", "channels=2"]) == 0
    parameters, gflop, remark = rows(capsys.readouterr().out)["resnet18"]
    assert gflop == f"{operations / 1e9:.2f}"
    assert parameters == f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}"
    assert remark == "imagenet, ssl, swsl"


@pytest.mark.slow
def test_encoders_are_sorted_by_operations_and_names_are_matched_in_any_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "TU-ConvNext_[anp]*", "arch=fpn", "size=64"]) == 0
    found = rows(capsys.readouterr().out)
    assert set(found) == {f"tu-{name}" for name in timm.list_models() if fnmatch(name, "convnext_[anp]*")}
    gflop = [float(flop) for _, flop, _ in found.values()]
    assert gflop == sorted(gflop)


def test_an_encoder_that_does_not_fit_says_why_and_comes_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "*net121", "arch=DeepLabV3", "size=64"]) == 0
    found = rows(capsys.readouterr().out)
    assert found["densenet121"][:2] == ("-", "-")
    assert "do not support dilated mode" in found["densenet121"][2]


def test_transformers_that_look_at_values_while_being_built_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "mit_b0", "size=64"]) == 0
    assert float(rows(capsys.readouterr().out)["mit_b0"][1]) > 0


def test_many_matches_are_listed_by_name_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["models", "*resnet*"]) == 0
    printed = capsys.readouterr().out
    assert {"resnet34", "tu-resnet50d"} <= set(printed.split())
    assert "GFLOP" not in printed
    assert "all=true" in printed
    monkeypatch.setattr(catalogue, "MOST", 1)
    assert main(["models", "mobilenet_", "all=true", "size=64"]) == 0
    assert {"mobilenet_v2"} <= set(rows(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["rexnet34x"], 1, "no encoder matches rexnet34x;   did you mean"),
        (["zzzzzz"], 1, r"segkit models '\*'"),
        (["arch=Unit"], 2, "not a valid option; available: Unet, UnetPlusPlus"),
        (["size=0"], 2, "size   needs more than 0, got 0"),
        (["sise=64"], 2, "did you mean size"),
        (["all=maybe"], 2, "true or false"),
        (["resnet", "densenet"], 2, "pattern   needs text, got .*densenet"),
    ],
)
def test_mistakes_are_reported_with_their_exit_code(argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *argv]) == code
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_a_preset_of_the_user_s_own_that_cannot_be_built_does_not_stop_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: segkit.models.unet.UNet\nwidths: [8, 16]\npool: [2, 2]\n")
    monkeypatch.chdir(tmp_path)
    assert main(["models", "size=64"]) == 0
    assert rows(capsys.readouterr().out)["mine"][:2] == ("-", "-")
