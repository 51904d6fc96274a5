"""Checkpoints: written atomically, read with `weights_only=True`, with metadata from which everything can be rebuilt."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.config.schema import Train, Weights
from segkit.config.targets import instantiate, keywords_of
from segkit.models import fitting
from segkit.models.fitting import PREFIX as PREFIX
from segkit.models.metadata import METADATA_KEY as METADATA_KEY
from segkit.models.metadata import Metadata as Metadata
from segkit.models.metadata import check_structure, read_config
from segkit.models.metadata import read_metadata as read_metadata
from segkit.models.segmentation import Normalizer, SegmentationModel
from segkit.models.weights import files, load
from segkit.system.errors import SegkitError, first_line
from segkit.system.files import atomic_path
from segkit.system.plain import read_json
from segkit.system.shell import override

HUB, SAFETENSORS = "hf://", ".safetensors"
WEIGHTS_FILE, METADATA_FILE = f"model{SAFETENSORS}", "segkit.json"
"""Files of a shared folder (`hub.py`)."""
EXPORTED = (".onnx", ".xml", ".torchscript", ".pt2")
"""Files that `segkit export` writes (`inference/export`): a network to run, not one to train further."""
DIGEST = "sha256"
"""The remark in the file of weights that holds the digest of both; older folders have none."""


def build_model(metadata: Metadata, allow: Sequence[str] = (), pretrained: bool = False, config: Train | None = None) -> SegmentationModel:
    """Build the network that the metadata describe, with fresh weights; with pre-trained ones only where a training starts.

    A checkpoint brings its own weights, so opening one must not ask for those that its network once began with. `config`: that of the
    metadata, where it has been validated already.
    """
    config, labels = config or metadata.train_config(allow), metadata.label_map()
    network = build_network(
        config.model if pretrained else without_downloads(config.model), allow, metadata.channels, labels.n_outputs, metadata.dims
    )
    if pretrained and config.model.get("weights") is not None:
        load.load_into(network, *load.obtain(Weights.model_validate(config.model["weights"])))
    normalizer = Normalizer(config.preprocess.normalize, metadata.mean, metadata.sd, metadata.dims)
    return SegmentationModel(network, normalizer, labels.mode)


def build_network(node: Mapping[str, Any], allow: Sequence[str], in_channels: int, out_channels: int, dims: int) -> nn.Module:
    """Instantiate a `model` node, without its `weights`. SegkitError where it is no network, or none for volumes with dims=3."""
    target = node["_target_"]
    supplied: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels}
    if "dims" in keywords_of(str(target), allow):
        supplied["dims"] = dims
    elif dims == 3:
        raise SegkitError(f"model._target_ = {target} has no dims: it is for images;   use  model=unet  or  data.dims=2")
    network = instantiate({key: value for key, value in node.items() if key != "weights"}, "model", allow=allow, **supplied)
    if not isinstance(network, nn.Module):
        raise SegkitError(f"model._target_ = {target} does not build a torch.nn.Module")
    return network


def without_downloads(node: Any) -> Any:
    """Remove weights to download at any depth: a stranger's metadata must not make this machine fetch anything."""
    if isinstance(node, Mapping):
        return {key: None if key in ("encoder_weights", "weights") else without_downloads(value) for key, value in node.items()}
    return [without_downloads(value) for value in node] if isinstance(node, list) else node


def save(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write atomically. Serialized in memory first, so that on a full disk only a plain write fails, which can be undone."""
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def find(ckpt: str | Path, key: str = "ckpt") -> Path:
    """Return the file that `ckpt`, the value of `key`, means: itself; best.ckpt (else last.ckpt) of a run folder; the weights of a
    shared folder, here or on the Hugging Face hub (`hf://OWNER/NAME`); the model of a folder of `segkit export`."""
    path = from_hub(str(ckpt)) if str(ckpt).startswith(HUB) else Path(ckpt).expanduser()
    if path.is_dir():
        candidates = [path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt", path / WEIGHTS_FILE]
        candidates += [path / f"model{suffix}" for suffix in EXPORTED]
        found = [candidate for candidate in candidates if candidate.is_file()]
        if not found:
            raise SegkitError(f"{path} holds no checkpoints/best.ckpt;   give a run folder or a .ckpt file")
        return found[0]
    if not path.is_file():
        raise SegkitError(f"{key}={path}: no such file")
    return path


def read(path: Path) -> dict[str, Any]:
    """Return the checkpoint as plain data and tensors. A file with code in it is refused, never run."""
    if path.suffix == SAFETENSORS:
        return read_shared(path)
    if path.suffix in EXPORTED:
        raise SegkitError(f"{path} is an exported network, for predict and evaluate;   name the checkpoint that it was made of")
    content = files.load(path)
    if not isinstance(content, dict):
        raise SegkitError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def read_shared(path: Path) -> dict[str, Any]:
    """A checkpoint as `segkit.save` wrote it: weights in the safetensors format, the metadata beside them."""
    beside = path.with_name(METADATA_FILE)
    if not beside.is_file():
        what = f"{path} has no {METADATA_FILE} beside it: it holds weights alone"
        raise SegkitError(f"{what};   segkit import {override('weights', str(path))}")
    content = {"state_dict": files.load(path), METADATA_KEY: read_json(beside)}
    known = files.remarks(path).get(DIGEST)
    if known is not None and known != digest(content["state_dict"], content[METADATA_KEY]):
        raise SegkitError(f"{path} or its {METADATA_FILE} was changed after it was written, or is damaged;   get both again")
    return content


def digest(state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of weights and metadata of a shared folder: its formats would not notice a changed byte."""
    found = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(state):
        found.update(f"{name} {state[name].dtype} {tuple(state[name].shape)}".encode())
        found.update(state[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def from_hub(address: str) -> Path:
    """The local copy of `hf://OWNER/NAME[@REVISION]`; downloaded once into the cache of the Hugging Face hub."""
    from huggingface_hub import snapshot_download

    name, _, revision = address.removeprefix(HUB).partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=[WEIGHTS_FILE, METADATA_FILE]))
    except (OSError, ValueError) as error:
        raise SegkitError(f"{address} cannot be downloaded: {first_line(error)}") from error


def load_model(ckpt: str | Path, allow: Sequence[str] = ()) -> tuple[SegmentationModel, Metadata, Train]:
    """The trained network in evaluation mode, its metadata, and the metadata's validated config."""
    path = find(ckpt)
    content = read(path)
    metadata = read_metadata(path, content)
    config = read_config(path, metadata, allow)
    weights = fitting.model_weights(path, content)
    try:
        model = fitting.load(path, lambda: build_model(metadata, allow, config=config), weights)
    except SegkitError as error:
        raise (error if str(path) in str(error) else SegkitError(f"{path}: {error}")) from error
    return model.eval(), metadata, config


def fits(value: Tensor, place: Tensor) -> bool:
    """Whether a tensor can take the place of another."""
    return value.shape == place.shape and value.is_complex() == place.is_complex()


HEADS = ("head", "deep_heads", "heads", "segmentation_head", "classifier")
"""Parts of a network that know its classes."""


def init_weights(model: SegmentationModel, path: Path, classes: Sequence[str]) -> list[str]:
    """Initialize `model` from the weights of another run or of another program.

    Normalization constants stay those of the new data.

    Args:
        model: the model to initialize.
        path: a checkpoint of segkit, or a file of foreign weights.
        classes: the classes of `model`.

    Returns:
        Names of the tensors that are newly initialized: where shapes differ, and the heads where the classes do.

    Raises:
        SegkitError: most tensors do not fit, or the channels mean something else.
    """
    theirs, their_classes = weights_to_start_from(path, model.network)
    ours = {key.removeprefix("network."): value for key, value in model.state_dict().items() if key.startswith("network.")}
    same_heads = their_classes is None or tuple(their_classes) == tuple(classes)
    matching = {
        key: value
        for key, value in theirs.items()
        if key in ours and fits(value, ours[key]) and (same_heads or key.split(".")[0] not in HEADS)
    }
    if 2 * len(matching) < len(ours) - 2:
        raise SegkitError(f"init_from={path}: only {len(matching)} of {len(ours)} tensors fit this network; is it another architecture?")
    fitting.check_finite(path, model.network, matching)
    model.network.load_state_dict(matching, strict=False)
    return [key for key in ours if key not in matching]


def weights_to_start_from(path: Path, network: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Tensors of a network by name, and its classes where they are known: of a checkpoint of segkit, or of a foreign file."""
    if (content := own_content(path)) is not None:
        metadata = read_metadata(path, content)
        check_structure(path, metadata)
        load.check_meaning(f"init_from={path}", metadata.config["model"], network)
        return files.without_wrappers(files.sound_tensors(path, content.get("state_dict"))), metadata.label_map().classes
    state, schema = load.obtain(Weights(path=str(path)))
    if schema == load.PLAIN:
        return load.as_named_in(network.state_dict(), state), None
    load.check_schema(network, schema)
    return load.translate(state, schema), None


def own_content(path: Path) -> dict[str, Any] | None:
    """Read a file that segkit wrote; None for any other, whose errors are left to who reads it."""
    if path.suffix == SAFETENSORS:
        return read(path) if path.with_name(METADATA_FILE).is_file() else None
    try:
        content = read(path)
    except SegkitError:
        return None
    return content if METADATA_KEY in content else None
