"""Every network preset: built as `segkit train` builds it, forward and backward at a size that does not divide."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segkit.config.compose import CONF, compose
from segkit.models.checkpoint import Metadata, build_model
from segkit.models.segmentation import SegmentationModel
from segkit.training.building import build_loss

PRESETS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
PARAMETERS = {
    ("unet", 3): 31_043_521,
    ("unet", 1): 31_042_369,
    ("unet_resize_up", 3): 31_043_521,
    ("unet_valid", 1): 31_030_593,
    ("unet_flair", 3): 7_763_041,
}
"""Published numbers of parameters, by preset and input channels."""
NARROW, ENCODER = ("model.widths=[8,16,24,32,40]",), ("model.encoder_name=resnet18",)


def metadata_of(*overrides: str, channels: int = 1, classes: int = 1, dims: int = 2) -> Metadata:
    cfg: Any = compose("train", [*overrides, f"data.dims={dims}"])
    values = {"0": "background", **{str(i + 1): f"class{i + 1}" for i in range(classes)}}
    ones = [1.0] * channels
    split: dict[str, Any] = {"train": [], "val": [], "test": []}
    config = cfg.model_dump(mode="json")
    return Metadata(config, {"values": values, "overlap": False}, channels, 255, ones, ones, split, "", "", False, "32", {}, dims=dims)


def narrow(preset: str) -> tuple[str, ...]:
    config: Any = compose("train", [f"model={preset}"])
    return NARROW if "widths" in config.model else ENCODER if "arch" in config.model else ()


@pytest.mark.parametrize(("preset", "channels"), PARAMETERS)
def test_parameter_counts_are_the_published_ones(preset: str, channels: int) -> None:
    with torch.device("meta"):
        model = build_model(metadata_of(f"model={preset}", "preprocess.normalize=unit", channels=channels))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[preset, channels]


@pytest.mark.parametrize(("classes", "dtype"), [pytest.param(1, torch.float32, marks=pytest.mark.slow), (2, torch.bfloat16)])
@pytest.mark.parametrize("preset", PRESETS)
def test_forward_and_backward_at_an_odd_size(preset: str, classes: int, dtype: torch.dtype) -> None:
    dims = 3 if preset == "unet_3d" else 2
    size = (13, 21, 35)[-dims:] if dims == 3 else (70, 93)
    if preset in ("unet_pre_norm", "unet_valid"):
        size = (188, 204)
    metadata = metadata_of(f"model={preset}", *narrow(preset), channels=2, classes=classes, dims=dims)
    model, labels = build_model(metadata).train(), metadata.label_map()
    loss = build_loss(metadata.train_config(), labels)
    mask = torch.randint(0, classes + 1, (2, *size), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        parts = loss(*model.supervised(torch.rand(2, 2, *size), mask))
    parts["loss"].backward()
    assert all(value.isfinite() for value in parts.values())
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert whole_image(model.eval(), size).shape == (1, labels.n_outputs, *size)


def whole_image(model: SegmentationModel, size: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.rand(1, 2, *size))


@pytest.mark.parametrize("preset", ["unet_3d", "unet_plain"])
def test_presets_of_volumes_take_volumes(preset: str) -> None:
    model = build_model(metadata_of(f"model={preset}", *narrow(preset), channels=1, dims=3)).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 1, 17, 33, 40)).shape == (1, 1, 17, 33, 40)
