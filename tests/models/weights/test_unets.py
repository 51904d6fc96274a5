"""The tables of foreign names mean what the foreign programs meant: proved with numbers on a tiny network.

Concatenation in the wrong order fits by shape and gives garbage. So, in foreign names, the half of each decoder's first
convolution that reads the features from below is set to zero: then the up-convolutions must not matter, and the skips must.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segkit.models.unet import UNet
from segkit.models.weights.load import LEVELS, SCHEMAS, Schema


@pytest.mark.parametrize("name", SCHEMAS)
def test_skip_and_upsampled_features_meet_in_the_foreign_order(name: str) -> None:
    right = SCHEMAS[name]
    check_order(right)
    other = {"skip_first": "up_first", "up_first": "skip_first"}[right.options["concat"]]
    with pytest.raises(AssertionError, match=f"concat={other} is not the order"):
        check_order(replace(right, options={**right.options, "concat": other}))


def check_order(schema: Schema) -> None:
    """On a tiny network, in milliseconds: the names cover it, and skip and up-sampled features meet in the foreign order."""
    network = schema.network(list(range(2, 2 + LEVELS))).eval()
    foreign = {theirs: _alive(name, network.state_dict()[name]) for theirs, name in schema.tensors.items()}
    if len(foreign) != len(network.state_dict()):
        raise AssertionError(f"schema {schema.name}: its table does not name every tensor once")
    skip_alone = _silenced(foreign, schema, "up")
    out = _output(network, schema, skip_alone)
    if not torch.equal(out, _output(network, schema, _without_ups(skip_alone, schema))):
        order = ", ".join(schema.cat)
        raise AssertionError(f"schema {schema.name}: concat={schema.options['concat']} is not the order of its program: {order}")
    if torch.equal(out, _output(network, schema, _silenced(skip_alone, schema, "skip"))):
        raise AssertionError(f"schema {schema.name}: skip features do not reach the output")


def _alive(name: str, tensor: Tensor) -> Tensor:
    """Convolutions are averages with positive weights, norms do nothing: no activation is dead, no value large."""
    if tensor.ndim < 2:
        return torch.full(tensor.shape, float(name.endswith(("norm.weight", "bottom.0.weight", "running_var"))))
    values = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(sum(name.encode())))
    return 2 * values / values[0].numel()


def _silenced(foreign: Mapping[str, Tensor], schema: Schema, what: str) -> dict[str, Tensor]:
    """Without what the decoders' first convolutions read of `what`; (C, skip and up channels, 3, 3) in the order of `cat`."""
    first = next(layer for layer, ours in schema.layers.items() if ours == "convs.0.conv")
    out = dict(foreign)
    for name in (f"{stage}{first}.weight" for stage in schema.decoder):
        halves = foreign[name].chunk(2, dim=1)
        out[name] = torch.cat([half * float(part != what) for part, half in zip(schema.cat, halves, strict=True)], dim=1)
    return out


def _without_ups(foreign: Mapping[str, Tensor], schema: Schema) -> dict[str, Tensor]:
    return {name: tensor * 0 if name.rpartition(".")[0] in schema.up else tensor for name, tensor in foreign.items()}


@torch.no_grad()
def _output(network: UNet, schema: Schema, foreign: Mapping[str, Tensor]) -> Tensor:
    network.load_state_dict({name: foreign[theirs] for theirs, name in schema.tensors.items()}, assign=True)
    side = 188 if schema.options.get("padding") == "valid" else 2**LEVELS
    x = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    return network(x)  # type: ignore[no-any-return]
