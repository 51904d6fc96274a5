"""A network that another program trained, turned into a checkpoint in a folder like a run's."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from segkit.config.commands import Import
from segkit.config.schema import Train, Weights
from segkit.data.labels import BACKGROUND, LabelMap
from segkit.data.transforms.intensity import SIXTEEN_BIT
from segkit.models import checkpoint
from segkit.models.checkpoint import build_model, build_network, without_downloads
from segkit.models.fitting import PREFIX
from segkit.models.metadata import METADATA_KEY, Metadata
from segkit.models.weights import load
from segkit.models.weights.files import check_archive
from segkit.models.weights.load import AUTO, FROM_DATA, PLAIN, SCHEMAS
from segkit.system.environment import versions
from segkit.system.errors import SegkitError, first_line

TOLERANCE = 1e-4
"""Absolute, and relative beside large logits: libraries add up in different orders."""
OTHER = {"concat": {"skip_first": "up_first", "up_first": "skip_first"}, "final": {"sigmoid": "none", "none": "sigmoid"}}


@dataclass(frozen=True)
class ForeignNetwork:
    """A network of a file, as the config's `model` node and the keywords that follow from the data."""

    schema: str
    state: Mapping[str, Tensor]  # by segkit's names
    node: dict[str, Any]
    shape: dict[str, int]  # in_channels, out_channels, dims

    def network(self, node: Mapping[str, Any], allow: list[str]) -> nn.Module:
        """Build `node` with the weights."""
        network = build_network(node, allow, **self.shape)
        load.load_into(network, self.state, PLAIN)
        return network


def find(cfg: Import) -> ForeignNetwork:
    """Read the file and recognize its network."""
    place = {"url": cfg.weights} if "://" in cfg.weights else {"path": cfg.weights}
    state, schema = load.obtain(Weights.model_validate({**place, "sha256": cfg.sha256, "schema": cfg.schema_, "key": cfg.key}))
    if cfg.schema_ == AUTO:
        schema = load.identify(state).name
    if schema == PLAIN:
        return ForeignNetwork(schema, state, {key: value for key, value in cfg.model.items() if key != "weights"}, shape_of(cfg, state))
    ours = load.translate(state, schema)
    options = load.options_of(schema, ours)
    node = {"_target_": "segkit.models.UNet", **{key: value for key, value in options.items() if key not in FROM_DATA}}
    return ForeignNetwork(schema, ours, node, {key: options[key] for key in FROM_DATA})


def shape_of(cfg: Import, state: Mapping[str, Tensor]) -> dict[str, int]:
    """For a network under its own names: from its first convolution, and from its last one or the labels."""
    with torch.device("meta"):
        network = build_network(without_downloads(cfg.model), cfg.allow_targets, 1, 1, cfg.data.dims)
    in_order = [state[name] for name in network.state_dict() if name in state]  # a safetensors file has them by name
    kernels = [tensor for tensor in in_order if tensor.ndim >= 4]
    if not kernels:
        raise SegkitError(f"weights={cfg.weights} holds no convolution")
    n_outputs = LabelMap.of(cfg.data.labels, bool(cfg.data.overlap)).n_outputs if cfg.data.labels else len(kernels[-1])
    return {"in_channels": kernels[0].shape[1], "out_channels": n_outputs, "dims": kernels[0].ndim - 2}


def check_config(cfg: Import, found: ForeignNetwork) -> None:
    """Raise SegkitError where file and config contradict each other."""
    if cfg.preprocess.normalize == "dataset":
        schema = SCHEMAS.get(found.schema)
        saw = f"\n  {schema.name} saw {schema.images}:   {schema.preprocess}" if schema else ""
        raise SegkitError(
            "preprocess.normalize=dataset needs the statistics of training images, which a file of weights does not have;\n"
            f"  use  preprocess.normalize=unit|volume|image|minmax|imagenet{saw}"
        )
    dims = found.shape["dims"]
    if cfg.data.dims != dims:
        raise SegkitError(f"data.dims={cfg.data.dims}, but the kernels of these weights have {dims};   add  data.dims={dims}")


def labels_of(cfg: Import, n_outputs: int) -> LabelMap:
    """Return the classes of the outputs: as the user names them, else by number."""
    overlap = bool(cfg.data.overlap)
    numbered = {"0": BACKGROUND} | ({"255": "structure"} if n_outputs == 1 else {str(k): f"class_{k}" for k in range(1, n_outputs)})
    planes = {f"class_{k}": f"class_{k}" for k in range(1, n_outputs + 1)}
    labels = LabelMap.of(cfg.data.labels or (planes if overlap else numbered), overlap)
    if n_outputs == 2 and labels.mode == "binary":
        raise SegkitError("2 exclusive outputs, background and one class, are one output here, which cannot be made of these weights")
    if labels.n_outputs != n_outputs:
        raise SegkitError(
            f"data.labels names {len(labels.classes)} classes, for which a network has {labels.n_outputs} outputs ({labels.mode}),\n"
            f"  but this one has {n_outputs};   name them all with  data.labels,  and say with  data.overlap=true  if they may overlap"
        )
    return labels


def write(cfg: Import, found: ForeignNetwork, labels: LabelMap, name: str, network: nn.Module) -> Path:
    """Write OUTPUT_DIR/imported/NAME with checkpoints/best.ckpt; a folder that is there already is never overwritten."""
    folder = Path(cfg.output_dir) / "imported" / name
    path = folder / "checkpoints" / "best.ckpt"
    if path.exists():
        raise SegkitError(f"{path} exists already;   choose another  name=NAME")
    metadata = metadata_of(cfg, found, labels, name)
    model = build_model(metadata, cfg.allow_targets)
    model.network.load_state_dict(network.state_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {PREFIX + key: value for key, value in model.state_dict().items()}
    checkpoint.save({"state_dict": state, METADATA_KEY: metadata.as_dict()}, path)
    return folder


def metadata_of(cfg: Import, found: ForeignNetwork, labels: LabelMap, name: str) -> Metadata:
    tree = cfg.model_dump(mode="json", include=set(Train.model_fields))
    channels = found.shape["in_channels"]
    return Metadata(
        config={**tree, "name": name, "model": {**found.node, "weights": None}},
        labels=labels.as_dict(),
        channels=channels,
        dims=found.shape["dims"],
        intensity_max=SIXTEEN_BIT,
        mean=[0.0] * channels,
        sd=[1.0] * channels,
        split={"train": [], "val": [], "test": []},
        data_root="",
        data_fingerprint="",
        is_phantom=False,
        precision="32",
        versions=versions(),
    )


@dataclass(frozen=True)
class Reference:
    """A recorded input and output of the foreign program, to compare an imported network with."""

    path: Path
    input: Tensor  # (B, C, *S) float32
    output: Tensor  # (B, n_outputs, *s) float32

    @classmethod
    def read(cls, path: Path) -> Reference:
        try:
            check_archive(path, ratio=1000)
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: torch.from_numpy(np.asarray(arrays[name], np.float32)) for name in ("input", "output")}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, EOFError, zlib.error, BadZipFile) as error:
            way = "write it with  numpy.savez(FILE, input=..., output=...)"
            raise SegkitError(f"reference={path} cannot be read as arrays input and output: {error};   {way}") from error
        return cls(path, found["input"], found["output"])

    def difference(self, network: nn.Module) -> float:
        """The largest one over the tolerance of its place; infinite where the shapes differ."""
        with torch.no_grad():
            out = network.eval()(self.input)
        if out.shape != self.output.shape:
            return float("inf")
        if out.isnan().any():
            raise SegkitError(f"reference={self.path}: the network returns NaN for its input")
        return float(((out - self.output).abs() / (TOLERANCE * (1 + self.output.abs()))).max())

    def check(self, foreign: ForeignNetwork, allow: list[str]) -> float:
        """Return the largest difference from the output of a network; SegkitError where it is not the same.

        Then the other order of concatenation and the other last activation are tried, to explain what is wrong.
        """
        try:
            found = self.difference(foreign.network(foreign.node, allow))
        except RuntimeError as error:
            reason = first_line(error)
            raise SegkitError(f"reference={self.path}: the network does not take its input {tuple(self.input.shape)}: {reason}") from error
        if found <= 1:
            return found * TOLERANCE
        raise SegkitError(f"reference={self.path} does not agree, nothing is written: {self._what_fits(foreign, allow, found)}")

    def _what_fits(self, foreign: ForeignNetwork, allow: list[str], found: float) -> str:
        node = foreign.node
        other = {key: OTHER[key][node[key]] for key in OTHER if node.get(key) in OTHER[key]}
        alone = [{key: value} for key, value in other.items()]
        for change in (*alone, other):
            if change and self.difference(foreign.network({**node, **change}, allow)) <= 1:
                return "; ".join(_explained(key, node[key], value) for key, value in change.items())
        return f"the largest difference is {found * TOLERANCE:.2g}" if found < float("inf") else "the output has another shape"


def _explained(key: str, given: str, fits: str) -> str:
    if key == "concat":
        return f"the weights fit {given} by shape, not by meaning: with {fits} they give the reference"
    kind = {"sigmoid": "probabilities", "none": "logits"}
    return f"its output holds {kind[fits]}, where the network gives {kind[given]} (final={given}); with final={fits} it agrees"
