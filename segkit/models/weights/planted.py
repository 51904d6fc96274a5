"""A proof with numbers that a table of foreign names means what the foreign program meant.

Concatenation in the wrong order fits by shape and gives garbage. So it is planted, in foreign names, that the half of each
decoder's first convolution which reads what comes from below is zero: then the up-convolutions must not matter, and the skip
must.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from segkit.models.unet import UNet
from segkit.models.weights.unets import LEVELS, Schema
from segkit.system.errors import SegkitError


def planted_check(schema: Schema) -> None:
    """On a tiny network, in milliseconds: the names cover it, and skip and up-sampled features meet in the foreign order."""
    network = schema.network(list(range(2, 2 + LEVELS))).eval()
    foreign = {theirs: _alive(name, network.state_dict()[name]) for theirs, name in schema.tensors.items()}
    if len(foreign) != len(network.state_dict()):
        raise SegkitError(f"schema {schema.name}: its table does not name every tensor once")
    skip_alone = _silenced(foreign, schema, "up")
    out = _output(network, schema, skip_alone)
    if not torch.equal(out, _output(network, schema, _without_ups(skip_alone, schema))):
        order = ", ".join(schema.cat)
        raise SegkitError(f"schema {schema.name}: concat={schema.options['concat']} is not the order of its program: {order}")
    if torch.equal(out, _output(network, schema, _silenced(skip_alone, schema, "skip"))):
        raise SegkitError(f"schema {schema.name}: what is planted in the skips does not reach the output")


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
