"""Activation checkpointing: the same training, with fewer activations kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.models.recompute import checkpoint_activations
from segkit.models.unet import UNet
from segkit.system.errors import SegkitError

RICH: dict[str, Any] = {"residual": True, "attention": True, "down": "conv", "up": "resize", "deep_supervision": 1, "dropout": 0.5}


def two_steps(network: nn.Module, x: Tensor, precision: torch.dtype) -> tuple[dict[str, Tensor], int]:
    """Gradients and state after two steps, and bytes that the first forward pass kept beside the weights."""
    kept: dict[int, int] = {}
    weights = {weight.data_ptr() for weight in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.manual_seed(3)  # of dropout
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                out = network(x)
            loss = torch.stack([one.float().square().mean() for one in (out if isinstance(out, list) else [out])]).sum()
        n_bytes = sum(kept.values())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {
        **network.state_dict(),
        **{f"gradient of {name}": p.grad for name, p in network.named_parameters() if p.grad is not None},
    }, n_bytes


@pytest.mark.parametrize(
    ("dims", "options", "precision"),
    [(2, {}, torch.float32), (2, RICH, torch.float32), (3, {}, torch.bfloat16), (3, {"norm": "instance"}, torch.float32)],
)
def test_the_same_step_keeps_less(dims: Any, options: dict[str, Any], precision: torch.dtype) -> None:
    """Bit for bit: gradients, weights, and the statistics of batch norm, which count each batch once."""
    plain = UNet(2, 3, (8, 16, 32), dims=dims, **options).to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    twin = copy.deepcopy(plain)
    checkpoint_activations(twin)
    x = torch.rand(2, 2, *[16] * dims)
    expected, n_plain = two_steps(plain, x, precision)
    found, n_twin = two_steps(twin, x, precision)
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]
    assert n_twin < n_plain / 2
    assert torch.equal(plain.eval()(x), twin.eval()(x))


@pytest.mark.slow
def test_compiled_networks_count_a_batch_once_too() -> None:
    plain = UNet(1, 1, (4, 8))
    twin = copy.deepcopy(plain)
    checkpoint_activations(twin)
    for network in (plain, twin):
        network.compile()
    expected, found = (
        two_steps(network, torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.float32)[0]
        for network in (plain, twin)
    )
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_a_network_that_cannot_is_refused_with_the_key() -> None:
    with pytest.raises(SegkitError, match=r"trainer\.activation_checkpointing=true: torch\.nn\.modules\.conv\.Conv2d cannot"):
        checkpoint_activations(nn.Conv2d(1, 1, 1))
