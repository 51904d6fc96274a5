"""Every kind of network in every format computes what torch does, or says in one line why it cannot."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segkit
from segkit.config.schema import Train
from segkit.data.labels import LabelMap
from segkit.inference.export import card, exporter, parity
from segkit.inference.export.card import Format
from segkit.inference.export.exporter import Export, Written
from segkit.inference.export.samples import Samples
from segkit.inference.predictor import CheckpointPredictor
from segkit.models.checkpoint import build_model
from segkit.models.metadata import Metadata
from segkit.models.segmentation import SegmentationModel
from segkit.system.errors import SegkitError
from segkit.system.hardware import Hardware

ORGANS = {"0": "background", "1": "liver", "2": "spleen"}
DEEP = ("model.widths=[4,8,8,8,8]",)
NETWORKS: dict[str, tuple[str, ...]] = {
    "unet": ("model=unet", "model.widths=[4,8]"),
    "unet_3d": ("model=unet_3d", "model.widths=[4,8]", "data.dims=3", "preprocess=volume"),
    "unet_plain": ("model=unet_plain", *DEEP),
    "smp": ("model=smp",),
    "deeplab": ("model=deeplab",),
    "mdu_like": ("model=mdu_like", "data.overlap=true"),
    "unet_valid": ("model=unet_valid", "model.widths=[4,8]"),
    "unet_resize_up": ("model=unet_resize_up", "model.widths=[4,8]"),
}
FIXED = ("unet_valid", "unet_resize_up")
"""Their graphs depend on the size."""
FAST = [("unet", "onnx"), ("unet_3d", "torchscript")]


def networks_and_formats() -> list[Any]:
    pairs = [(name, fmt) for name in NETWORKS for fmt in ("onnx", "openvino", "torchscript", "pt2")]
    return [pytest.param(name, fmt, marks=[] if (name, fmt) in FAST else pytest.mark.slow, id=f"{name}-{fmt}") for name, fmt in pairs]


def settled(model: SegmentationModel, images: torch.Tensor) -> SegmentationModel:
    """With the statistics of batch norm that a training would leave: those of a new network let activations explode."""
    torch.manual_seed(0)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model.network(model.normalizer(images))
    return model.eval()


def predictor_of(*overrides: str, allow: tuple[str, ...] = ()) -> CheckpointPredictor:
    """An untrained network, as if it had been opened from a checkpoint."""
    config: Any = segkit.compose("train", ["data=phantom", "name=x", f"allow_targets=[{','.join(allow)}]", *overrides])
    assert isinstance(config, Train)
    labels = LabelMap.of({"a": "liver", "b": "spleen"}, True) if config.data.overlap else LabelMap.of(ORGANS)
    split: dict[str, Any] = {"train": [], "val": []}
    known = Metadata(config.model_dump(mode="json"), labels.as_dict(), 1, 255, [0.4], [0.2], split, "", "", True, "32", {})
    metadata = replace(known, dims=config.data.dims)
    torch.manual_seed(0)
    model = build_model(metadata, allow, config=config)
    sides = (16, 32, 32) if metadata.dims == 3 else (188, 188) if "unet_valid" in "".join(overrides) else (64, 96)
    return CheckpointPredictor(settled(model, torch.rand(4, 1, *sides)), metadata, config, Hardware.choose("cpu", "32", 1), allow)


def task_for(predictor: CheckpointPredictor, fmt: Format, folder: Path, **options: Any) -> Export:
    size = (12, 37, 41) if predictor.metadata.dims == 3 else (70, 75)
    images = tuple(np.random.default_rng(0).random((2, 1, *size), np.float32))
    return Export(predictor, Samples(images, "noise"), fmt, options.pop("precision", "fp32"), folder, "0" * 64, **options)


def exported(predictor: CheckpointPredictor, fmt: Format, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Written:
    monkeypatch.setattr(parity, "SECONDS", 0.0)
    return exporter.export(task_for(predictor, fmt, folder, **options))


@pytest.mark.parametrize(("name", "fmt"), networks_and_formats())
def test_a_network_in_a_format_computes_what_torch_does(name: str, fmt: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = predictor_of(*NETWORKS[name], "inference.threshold=0.4" if name == "mdu_like" else "seed=0")
    done = exported(predictor, fmt, tmp_path / "out", monkeypatch)
    assert done.parity.largest < 1e-4
    assert done.parity.equal > 0.999
    assert done.parity.n == 2
    assert (done.about.size is None) == (name not in FIXED)
    assert done.about.batch is None
    opened = segkit.load(done.path, allow=["torch.export"])
    image = np.random.default_rng(1).integers(0, 255, (20, 40, 50) if predictor.metadata.dims == 3 else (81, 64), np.uint8)
    ours, theirs = predictor_with(predictor, done).predict(image), opened.predict(image)
    assert np.abs(ours.probs - theirs.probs).max() < 1e-4
    assert (ours.mask == theirs.mask).mean() > 0.999
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {done.path.name, f"{done.path.name}.json"}
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def predictor_with(predictor: CheckpointPredictor, done: Written) -> CheckpointPredictor:
    """The predictor with the window that the file asks for."""
    window = {"window": done.about.size} if done.about.size else {}
    return CheckpointPredictor(predictor.model, predictor.metadata, predictor.config, predictor.hardware, inference=window)


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["onnx", "openvino"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_files_are_nearly_the_same(fmt: Format, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = predictor_of("model=unet", "model.widths=[16,32]")
    whole, done = (exported(predictor, fmt, tmp_path, monkeypatch, precision=name) for name in ("fp32", precision))
    assert done.path.stem == f"model_{precision}"
    assert weights(done.path) < 0.75 * weights(whole.path)
    assert 0 < done.parity.largest < (0.01 if precision == "fp16" else 0.2)
    assert segkit.load(done.path).metadata.label_map().classes == ("liver", "spleen")


def weights(path: Path) -> int:
    return sum(file.stat().st_size for file in card.weights_of(path)[-1:])


OWN = """
import torch

class Own(torch.nn.Module):
    stride = 1

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = torch.nn.Conv2d(in_channels, out_channels, 1)

class Random(Own):
    def forward(self, x):
        logits = self.conv(x)
        return logits + torch.randn_like(logits)

class Bessel(Own):
    def forward(self, x):
        return torch.special.bessel_j0(self.conv(x))

class Asks(Own):
    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else -self.conv(x)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "fmt", "words"),
    [
        ("Random", "torchscript", "model.torchscript is not what torch computes, so it was not kept: largest difference"),
        ("Bessel", "onnx", "ONNX has no operator for prims.bessel_j0.*export with  format=pt2  or  format=torchscript"),
        ("Asks", "pt2", "format=pt2 cannot hold this network: .*try  format=torchscript"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing_behind(
    name: str, fmt: Format, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = predictor_of("~model", f"+model={{_target_: own_networks.{name}}}", allow=("own_networks",))
    with pytest.raises(SegkitError, match=words) as caught:
        exported(predictor, fmt, tmp_path / "new" / "folder", monkeypatch, allow=("own_networks",))
    assert getattr(caught.value, "exit_code", 2) == (1 if name == "Random" else 2)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new" / "folder").exists()
