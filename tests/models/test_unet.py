"""The U-Net against the numbers of the paper and its sources, and at sizes that do not divide."""

from __future__ import annotations

import pytest
import torch

from segkit.models.unet import UNet
from segkit.models.wrapper import Normalizer, SegmentationModel


def n_parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameter_count_of_the_classic_network() -> None:
    assert n_parameters(UNet(3, 1)) == 31_043_521
    assert n_parameters(UNet(1, 1)) == 31_042_369


@pytest.mark.parametrize("norm", ["none", "batch", "instance", "group"])
@pytest.mark.parametrize("widths", [(8, 16), (8, 16, 32, 64)])
def test_output_has_the_input_size_and_gradients_reach_every_weight(norm: str, widths: tuple[int, ...]) -> None:
    network = UNet(2, 3, widths, norm)  # type: ignore[arg-type]
    size = 4 * network.stride[0]
    out = network(torch.rand(2, 2, size, 2 * size))
    assert out.shape == (2, 3, size, 2 * size)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("norm", ["none", "batch", "instance", "group"])
def test_volumes_go_through_the_same_network(norm: str) -> None:
    network = UNet(1, 2, (8, 16, 32), norm, pool=[[1, 2, 2], 2], dims=3)  # type: ignore[arg-type]
    assert network.stride == (2, 4, 4)
    model = SegmentationModel(network, Normalizer("image", dims=3), "multiclass")
    out = model(torch.rand(2, 1, 5, 18, 21))
    assert out.shape == (2, 2, 5, 18, 21)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_pool_that_does_not_fit_the_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="pool needs 2 entries"):
        UNet(1, 1, (8, 16, 32), pool=[2])
    with pytest.raises(ValueError, match="a number or 3 of them"):
        UNet(1, 1, (8, 16, 32), pool=[2, [2, 2]], dims=3)


@pytest.mark.parametrize("size", [(37, 53), (1, 1), (16, 17), (250, 3)])
def test_the_wrapper_takes_any_size(size: tuple[int, int]) -> None:
    model = SegmentationModel(UNet(1, 1, (4, 8, 16, 32)), Normalizer("unit"), "binary").eval()
    assert model(torch.rand(1, 1, *size)).shape == (1, 1, *size)


def test_padding_does_not_change_an_image_that_divides() -> None:
    model = SegmentationModel(UNet(1, 1, (4, 8)), Normalizer("unit"), "binary").eval()
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(model.logits(image), model.network(image))


@pytest.mark.parametrize(("widths", "norm", "words"), [((8,), "batch", "two levels"), ((12, 24), "group", "divide by 8")])
def test_impossible_networks_are_refused_with_the_reason(widths: tuple[int, ...], norm: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNet(1, 1, widths, norm)  # type: ignore[arg-type]


def test_compiling_keeps_the_names_in_the_state_dict() -> None:
    network = UNet(1, 1, (4, 8))
    before = list(network.state_dict())
    network.compile()
    assert list(network.state_dict()) == before
