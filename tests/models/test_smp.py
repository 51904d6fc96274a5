"""segmentation-models-pytorch through one function and one YAML."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from segkit.errors import SegkitError
from segkit.models.smp import Architecture, smp_network
from segkit.models.wrapper import Normalizer, SegmentationModel

CONVOLUTIONAL = [arch for arch in get_args(Architecture) if arch != "DPT"]  # DPT wants a transformer of timm at a fixed size


@pytest.mark.parametrize("arch", CONVOLUTIONAL)
def test_every_architecture_takes_an_odd_size_and_two_channels(arch: Architecture) -> None:
    model = SegmentationModel(smp_network(2, 3, arch, "resnet18"), Normalizer("unit"), "multiclass").eval()
    with torch.no_grad():
        assert model(torch.rand(1, 2, 130, 150)).shape == (1, 3, 130, 150)


def test_an_unknown_encoder_names_the_nearest() -> None:
    with pytest.raises(SegkitError, match="did you mean resnet34"):
        smp_network(1, 1, "Unet", "resnet43")


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SegkitError, match="encoder_weights=null"):
        smp_network(1, 1, "Unet", "resnet18", encoder_weights="imagenet")
