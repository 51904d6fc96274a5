"""`segkit import`: a network that another program trained, made a checkpoint that segkit predicts and judges with.

Its folder looks like a run's, so all that takes a run takes it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from segkit.config.schema import Import, Train, Weights
from segkit.config.targets import instantiate, keywords_of
from segkit.data.labels import BACKGROUND, LabelMap
from segkit.data.transforms.intensity import SIXTEEN_BIT
from segkit.models import checkpoint
from segkit.models.checkpoint import CARD, PREFIX, Card, build_model
from segkit.models.weights import load
from segkit.models.weights.load import AUTO, FROM_DATA, PLAIN
from segkit.models.weights.planted import planted_check
from segkit.models.weights.reference import Reference
from segkit.models.weights.unets import SCHEMAS
from segkit.system.environment import versions
from segkit.system.errors import SegkitError
from segkit.system.progress import console

UNET = "segkit.models.UNet"


@dataclass(frozen=True)
class Found:
    """What the file holds: a network, as the config's `model` node and the keywords that follow from the data."""

    schema: str
    state: Mapping[str, Tensor]  # by segkit's names
    node: dict[str, Any]
    shape: dict[str, int]  # in_channels, out_channels, dims

    def network(self, node: Mapping[str, Any], allow: list[str]) -> nn.Module:
        """Built from `node`, with the weights."""
        supplied = {key: value for key, value in self.shape.items() if key != "dims" or key in keywords_of(str(node["_target_"]), allow)}
        network = instantiate(node, allow=allow, **supplied)
        if not isinstance(network, nn.Module):
            raise SegkitError(f"model._target_ = {node['_target_']} makes no torch.nn.Module")
        load.load_into(network, self.state, PLAIN)
        return network


def command(cfg: Import) -> int:
    found = find(cfg)
    check_sense(cfg, found)
    labels = labels_of(cfg, found.shape["out_channels"])
    if labels.mode == "multiclass" and found.node.get("final") == "sigmoid":
        raise SegkitError(f"{found.schema} has {labels.n_outputs} sigmoid outputs, each by itself;   add  data.overlap=true")
    network = found.network(found.node, cfg.allow_targets)
    console.print(f"network    {found.schema}, {sum(p.numel() for p in network.parameters()):,} parameters", markup=False)
    compare(cfg, found)
    name = cfg.name or (found.schema if found.schema != PLAIN else Path(urlsplit(cfg.weights).path).stem)
    folder = write(cfg, found, labels, name, network)
    tell(folder, found, labels)
    return 0


def find(cfg: Import) -> Found:
    """The file, read and understood."""
    place = {"url": cfg.weights} if "://" in cfg.weights else {"path": cfg.weights}
    state, schema = load.obtain(Weights.model_validate({**place, "sha256": cfg.sha256, "schema": cfg.schema_, "key": cfg.key}))
    if cfg.schema_ == AUTO:
        schema = load.identify(state).name
    if schema == PLAIN:
        return Found(schema, state, {key: value for key, value in cfg.model.items() if key != "weights"}, shape_of(cfg, state))
    planted_check(SCHEMAS[schema])
    ours = load.translate(state, schema)
    options = load.options_of(schema, ours)
    node = {"_target_": UNET, **{key: value for key, value in options.items() if key not in FROM_DATA}}
    return Found(schema, ours, node, {key: options[key] for key in FROM_DATA})


def shape_of(cfg: Import, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Of a network under its own names: what its first convolution reads, and what its last one (or the labels) say."""
    kernels = [tensor for tensor in in_order(cfg, state) if tensor.ndim >= 4]
    if not kernels:
        raise SegkitError(f"weights={cfg.weights} holds no convolution")
    n_outputs = LabelMap.of(cfg.data.labels, bool(cfg.data.overlap)).n_outputs if cfg.data.labels else len(kernels[-1])
    return {"in_channels": kernels[0].shape[1], "out_channels": n_outputs, "dims": kernels[0].ndim - 2}


def in_order(cfg: Import, state: Mapping[str, Tensor]) -> list[Tensor]:
    """From the first layer to the last, as the network has them: a safetensors file has them by name."""
    node = {key: value for key, value in cfg.model.items() if key not in ("weights", "encoder_weights")}
    dims = {"dims": cfg.data.dims} if "dims" in keywords_of(str(node["_target_"]), cfg.allow_targets) else {}
    with torch.device("meta"):
        network = instantiate(node, allow=cfg.allow_targets, in_channels=1, out_channels=1, **dims)
    return [state[name] for name in network.state_dict() if name in state]


def check_sense(cfg: Import, found: Found) -> None:
    """What the file and the config do not say together."""
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
    """What the outputs stand for: as the user says, else by number."""
    labels = LabelMap.of(cfg.data.labels or numbered(n_outputs, bool(cfg.data.overlap)), bool(cfg.data.overlap))
    if n_outputs == 2 and labels.mode == "binary":
        raise SegkitError("2 exclusive outputs, background and one class, are one output here, which cannot be made of these weights")
    if labels.n_outputs != n_outputs:
        raise SegkitError(
            f"data.labels names {len(labels.classes)} classes, for which a network has {labels.n_outputs} outputs ({labels.mode}),\n"
            f"  but this one has {n_outputs};   name them all with  data.labels,  and say with  data.overlap=true  if they may overlap"
        )
    return labels


def numbered(n_outputs: int, overlap: bool) -> dict[str, str]:
    if overlap:
        return {f"class_{k}": f"class_{k}" for k in range(1, n_outputs + 1)}
    if n_outputs == 1:
        return {"0": BACKGROUND, "255": "structure"}
    return {"0": BACKGROUND, **{str(k): f"class_{k}" for k in range(1, n_outputs)}}


def compare(cfg: Import, found: Found) -> None:
    """With what the foreign program computed, or say that nobody did."""
    if cfg.reference is None:
        console.print("meaning    rests on the schema alone;   reference=FILE.npz (input, output) would prove it", markup=False)
        return
    reference = Reference.read(Path(cfg.reference).expanduser())
    largest = reference.check(lambda node: found.network(node, cfg.allow_targets), found.node)
    console.print(f"meaning    agrees with {cfg.reference}: largest difference {largest:.1g}", markup=False)


def write(cfg: Import, found: Found, labels: LabelMap, name: str, network: nn.Module) -> Path:
    """OUTPUT_DIR/imported/NAME with checkpoints/best.ckpt; a folder that is there already is never overwritten."""
    folder = Path(cfg.output_dir) / "imported" / name
    path = folder / "checkpoints" / "best.ckpt"
    if path.exists():
        raise SegkitError(f"{path} is there already;   choose another  name=NAME")
    card = card_of(cfg, found, labels, name)
    model = build_model(card, cfg.allow_targets)
    model.network.load_state_dict(network.state_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {PREFIX + key: value for key, value in model.state_dict().items()}
    checkpoint.save({"state_dict": state, CARD: card.as_dict()}, path)
    return folder


def card_of(cfg: Import, found: Found, labels: LabelMap, name: str) -> Card:
    tree = cfg.model_dump(mode="json", include=set(Train.model_fields))
    channels = found.shape["in_channels"]
    return Card(
        config={**tree, "name": name, "model": {**found.node, "weights": None}},
        labels=labels.as_dict(),
        channels=channels,
        dims=found.shape["dims"],
        top=SIXTEEN_BIT,
        mean=[0.0] * channels,
        sd=[1.0] * channels,
        split={"train": [], "val": [], "test": []},
        data_root="",
        data_fingerprint="",
        is_phantom=False,
        precision="32",
        versions=versions(),
    )


def tell(folder: Path, found: Found, labels: LabelMap) -> None:
    """What it is, what it expects, and what can be done with it."""
    schema = SCHEMAS.get(found.schema)
    model = load.typed({key: value for key, value in found.node.items() if key not in ("_target_", "final")})
    lines = [
        *([f"images     {schema.images}", f"           {schema.preprocess}"] if schema else []),
        f"classes    {', '.join(labels.classes)}",
        f"checkpoint {folder}",
        f"  segkit predict ckpt={folder} input=DIR output=DIR",
        f"  segkit evaluate ckpt={folder} data=NAME data.root=DIR",
        f"  segkit train init_from={folder} data=NAME data.root=DIR {model}",
    ]
    console.print("\n".join(lines), markup=False)
