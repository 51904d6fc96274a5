"""Weights of U-Nets that other programs trained, for segkit's own U-Net: recognized, renamed and checked.

A name in the file is STAGE + LAYER + .weight and the like: `down_convolution_1.` + `0` + `.weight`; unets.yaml has the tables. A wrong
order of skip and up-sampled features fits by shape and gives garbage. So the order of each schema must agree with the network's; a
test proves with numbers that it is the foreign program's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from segkit.config.schema import Weights
from segkit.models.unet import UNet
from segkit.models.weights import files
from segkit.models.weights.download import fetch
from segkit.models.weights.files import WRAPPERS
from segkit.system.errors import SegkitError, nearest
from segkit.system.files import sha256_of

AUTO, PLAIN = "auto", "plain"
"""auto: the schema that fits. plain: names as they are, of the very network that the config builds."""
FROM_DATA = ("in_channels", "out_channels", "dims")
"""Keywords of a network that follow from the data."""
LEVELS = 5


@dataclass(frozen=True)
class Schema:
    """The layout of one network of another program; unets.yaml holds them all, and explains the fields."""

    name: str
    images: str
    preprocess: str
    encoder: Sequence[str]
    up: Sequence[str]
    decoder: Sequence[str]
    layers: Mapping[str, str]
    rest: Mapping[str, str]
    cat: Sequence[str]
    options: Mapping[str, Any]
    unused: Sequence[str] = ()

    @cached_property
    def tensors(self) -> dict[str, str]:
        """Foreign name -> segkit's, of every tensor that the network has."""
        foreign = {ours: theirs for theirs, ours in self.rest.items()} | {f"up.{i}.conv": theirs for i, theirs in enumerate(self.up)}
        for part, stages in (("encoder", self.encoder), ("decoder", self.decoder)):
            foreign |= {f"{part}.{i}.{ours}": f"{stage}{theirs}" for i, stage in enumerate(stages) for theirs, ours in self.layers.items()}
        named = [(name.rpartition("."), name) for name in self.network([1] * LEVELS).state_dict()]
        return {f"{foreign[prefix]}.{leaf}": name for (prefix, _, leaf), name in named}

    def network(self, widths: list[int]) -> UNet:
        """Build the network without values: it takes no memory, and leaves the random stream of a training as it is."""
        with torch.device("meta"):
            return UNet(1, 1, widths, **self.options)

    def differences(self, names: set[str]) -> tuple[list[str], list[str]]:
        """Names that a file lacks, and names that it has besides. Old torch did not count batches, and nobody needs it."""
        needed = [name for name in self.tensors if not name.endswith(".num_batches_tracked")]
        known_unused = tuple(f"{layer}." for layer in self.unused)
        besides = [name for name in sorted(names - set(self.tensors)) if not name.startswith(known_unused)]
        return [name for name in needed if name not in names], besides


_TABLES = yaml.safe_load(Path(__file__).with_name("unets.yaml").read_text(encoding="utf-8"))
SCHEMAS = {name: Schema(name, **fields) for name, fields in _TABLES.items()}


def obtain(weights: Weights) -> tuple[dict[str, Tensor], str]:
    """Read or download tensors by foreign name, with the schema that they follow: given, or found; plain where none fits."""
    if (weights.path is None) == (weights.url is None):
        raise SegkitError("weights need a path or a url, one of them")
    if weights.schema_ not in (AUTO, PLAIN):
        named(weights.schema_)
    path = fetch(weights.url, weights.sha256) if weights.url is not None else Path(str(weights.path)).expanduser()
    if weights.path is not None and weights.sha256 is not None:
        files.check_is_weights(path)
        if (found := sha256_of(path)) != weights.sha256.lower():
            raise SegkitError(f"{path} has sha256 {found}, not {weights.sha256.lower()}: another file, or a damaged one")
    state = files.read(path, weights.key)
    return state, _fitting(state) if weights.schema_ == AUTO else weights.schema_


def named(name: str) -> Schema:
    if name not in SCHEMAS:
        known = (AUTO, PLAIN, *SCHEMAS)
        raise SegkitError(f"schema={name} is not a valid option;   {nearest(name, known) or 'available: ' + ', '.join(known)}")
    return SCHEMAS[name]


def identify(state: Mapping[str, Tensor]) -> Schema:
    """Return the schema whose names the tensors have. Where none fits, the error names the closest and what differs."""
    if (name := _fitting(state)) != PLAIN:
        return SCHEMAS[name]
    closest = min(SCHEMAS.values(), key=lambda schema: sum(map(len, schema.differences(set(state)))))
    missing, besides = closest.differences(set(state))
    raise SegkitError(
        f"no known network has these {len(state)} tensors; the closest is {closest.name}:\n"
        f"{_listed(('the file lacks', missing), ('it has besides', besides))}\n"
        "  schema=plain  takes the names as they are, of the network that  model=NAME  builds"
    )


def _fitting(state: Mapping[str, Tensor]) -> str:
    return next((schema.name for schema in SCHEMAS.values() if schema.differences(set(state)) == ([], [])), PLAIN)


def translate(state: Mapping[str, Tensor], schema: str) -> dict[str, Tensor]:
    """Rename tensors to segkit's names. One SegkitError lists all that is missing, unknown, or of the wrong shape."""
    table = named(schema)
    missing, besides = table.differences(set(state))
    ours = {name: state[foreign] for foreign, name in table.tensors.items() if foreign in state}
    misfits: list[str] = []
    if not missing:
        with torch.device("meta"):
            misfits = _misfits(ours, UNet(**options_of(schema, ours)).state_dict(), table)
    if missing or besides or misfits:
        found = _listed(("the file lacks", missing), ("it has besides", besides), ("it has in another shape", misfits))
        raise SegkitError(f"the weights are not those of {schema}:\n{found}")
    return ours


def options_of(schema: str, ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keywords of `UNet`: what the schema knows, and widths, channels and dimensions from the shapes of translated tensors."""
    first, last = ours["encoder.0.convs.0.conv.weight"], ours["head.conv.weight"]
    if first.ndim not in (4, 5):
        raise SegkitError(f"the weights are not those of {schema}: its first convolution has shape {tuple(first.shape)}")
    widths = [len(ours[f"encoder.{i}.convs.0.conv.weight"]) for i in range(LEVELS)]
    shapes = {"in_channels": first.shape[1], "out_channels": len(last), "widths": widths, "dims": first.ndim - 2}
    return {**shapes, **named(schema).options}


def load_into(network: nn.Module, state: Mapping[str, Tensor], schema_name: str) -> None:
    """Load all tensors into a network, or raise one SegkitError for all that does not fit."""
    fresh = network.state_dict()
    ours = as_named_in(fresh, state) if schema_name == PLAIN else translate(state, schema_name)
    if schema_name != PLAIN:
        check_schema(network, schema_name)
    _check_channels(fresh, ours)
    missing = [name for name in fresh if name not in ours and not name.endswith(".num_batches_tracked")]
    besides, misfits = [name for name in ours if name not in fresh], _misfits(ours, fresh)
    if missing or besides or misfits:
        found = _listed(("the weights lack", missing), ("they have besides", besides), ("they have in another shape", misfits))
        options = {} if schema_name == PLAIN else options_of(schema_name, ours)
        theirs = typed({key: value for key, value in options.items() if key not in FROM_DATA})
        network_is = f"their network is  model=unet {theirs};   " if theirs else ""
        ways = f"{network_is}init_from=FILE  instead newly initializes what has another shape"
        raise SegkitError(f"the weights are not those of this network:\n{found}\n  {ways}")
    network.load_state_dict(ours, strict=False)  # all names are checked but the counters of old torch


def as_named_in(fresh: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo the removal of a prefix: a network that keeps all in `self.model` has in its own names what reading takes for a wrapper."""
    for prefix in WRAPPERS:
        if not set(state) & set(fresh) and {prefix + name for name in state} & set(fresh):
            return {prefix + name: tensor for name, tensor in state.items()}
    return dict(state)


def check_schema(network: nn.Module, schema_name: str) -> None:
    """Raise SegkitError unless it is a U-Net whose channels and activation mean what they mean in the schema."""
    schema = named(schema_name)
    if not isinstance(network, UNet):
        way = f"use  model=unet {typed(schema.options)}"
        raise SegkitError(f"weights: {schema.name} is a network of segkit.models.UNet;   {way}")
    check_meaning(f"weights: {schema.name}", {"activation": "relu", **schema.options}, network)


def check_meaning(what: str, theirs: Mapping[str, Any], network: nn.Module) -> None:
    """Raise SegkitError where weights were trained with another order of channels or activation, which shapes do not show."""
    for key in ("concat", "activation"):
        ours = getattr(network, key, None)
        if isinstance(ours, str) and theirs.get(key, ours) != ours:
            raise SegkitError(
                f"{what} fits this network by shape, not by meaning: it was trained with model.{key}={theirs[key]}, not {ours};\n"
                f"  use  model.{key}={theirs[key]}"
            )


def _check_channels(fresh: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    first = next((name for name, tensor in fresh.items() if tensor.ndim >= 4), None)
    if first is None or first not in ours or ours[first].ndim != fresh[first].ndim:
        return
    theirs, wanted = ours[first].shape[1], fresh[first].shape[1]
    if theirs != wanted and len(ours[first]) == len(fresh[first]):
        raise SegkitError(
            f"model.weights were trained on {theirs} input channels, the data has {wanted}: they need data with {theirs};\n"
            "  or use  init_from=FILE  instead, which initializes the first layer newly"
        )


def typed(options: Mapping[str, Any]) -> str:
    """Keywords of a network as overrides."""
    values = {key: value if isinstance(value, str) else json.dumps(value, separators=(",", ":")) for key, value in options.items()}
    return " ".join(f"model.{key}={value}" for key, value in values.items())


def _misfits(ours: Mapping[str, Tensor], wanted: Mapping[str, Tensor], table: Schema | None = None) -> list[str]:
    foreign = {name: theirs for theirs, name in table.tensors.items()} if table else {}
    return [
        f"{foreign.get(name, name)} {tuple(tensor.shape)} for {tuple(wanted[name].shape)}"
        for name, tensor in ours.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]


def _listed(*complaints: tuple[str, Sequence[str]], most: int = 4) -> str:
    lines = [f"  {what} {len(names)}: {', '.join(names[:most])}{', …' if len(names) > most else ''}" for what, names in complaints if names]
    return "\n".join(lines)
