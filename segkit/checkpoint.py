"""Checkpoints: written atomically, opened with `weights_only=True`, carrying a card from which everything can be rebuilt."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.config import plain
from segkit.config.schema import Train
from segkit.config.targets import instantiate, keywords_of
from segkit.data.labels import LabelMap
from segkit.errors import SegkitError
from segkit.files import atomic_path
from segkit.models.wrapper import Normalizer, SegmentationModel

CARD = "segkit"
PREFIX = "model."
"""The task's attribute that holds the SegmentationModel: what its state-dict keys begin with."""


@dataclass(frozen=True)
class Card:
    """All that a checkpoint knows besides its weights, as plain data.

    `config` is the validated config of the training run: architecture, geometry, thresholds, metric. The rest was learned
    from the data: classes, channels, intensity statistics in unit scale, who was in which split.
    """

    config: dict[str, Any]
    labels: dict[str, Any]
    channels: int
    top: int
    mean: list[float]
    sd: list[float]
    split: dict[str, Any]
    data_root: str
    data_fingerprint: str
    is_phantom: bool
    precision: str
    versions: dict[str, str]
    score: dict[str, float] = field(default_factory=dict)
    """The monitored metric on the validation cases when this checkpoint was written, and the epoch."""
    format: int = 1
    dims: int = 2
    """2 for images, 3 for volumes."""

    def train_config(self, allow: Sequence[str] = ()) -> Train:
        return plain.restore(self.config, allow)

    def label_map(self) -> LabelMap:
        return LabelMap.from_dict(self.labels)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def build_model(card: Card, allow: Sequence[str] = (), pretrained: bool = False) -> SegmentationModel:
    """The network that the card describes, with fresh weights; with pre-trained ones only where a training starts.

    A checkpoint brings its own weights, so opening one must not ask the network for those its encoder once began with.
    """
    config, labels = card.train_config(allow), card.label_map()
    node = {key: None if key == "encoder_weights" and not pretrained else value for key, value in config.model.items()}
    supplied = {"in_channels": card.channels, "out_channels": labels.n_outputs}
    if "dims" in keywords_of(str(node["_target_"]), allow):
        supplied["dims"] = card.dims
    elif card.dims == 3:
        raise SegkitError(f"model._target_ = {node['_target_']} has no dims: it is for images;   use  model=unet  or  data.dims=2")
    network = instantiate(node, allow=allow, **supplied)
    if not isinstance(network, nn.Module):
        raise SegkitError(f"model._target_ = {config.model['_target_']} makes no torch.nn.Module")
    normalizer = Normalizer(config.preprocess.normalize, card.mean, card.sd, card.dims)
    return SegmentationModel(network, normalizer, labels.mode)


def save(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write atomically. Serialised in memory first, so that a full disk is met by a plain write that can be undone."""
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def find(ckpt: str | Path) -> Path:
    """The file that `ckpt` means: itself, or best.ckpt (else last.ckpt) of a run folder."""
    path = Path(ckpt).expanduser()
    if path.is_dir():
        candidates = [path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt"]
        found = [candidate for candidate in candidates if candidate.is_file()]
        if not found:
            raise SegkitError(f"{path} holds no checkpoints/best.ckpt;   give a run folder or a .ckpt file")
        return found[0]
    if not path.is_file():
        raise SegkitError(f"ckpt={path}: there is no such file")
    return path


def read(path: Path) -> dict[str, Any]:
    """The checkpoint as plain data and tensors. A file with code in it is refused, never run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():  # torch names the class or function that it was asked to call
            raise SegkitError(
                f"{path} holds Python objects besides tensors and plain data, which could run code; it is refused.\n"
                "  Ask its author for a plain state dict (torch.save(model.state_dict(), FILE))"
            ) from error
        raise SegkitError(f"{path} is damaged or no checkpoint") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise SegkitError(f"{path} is damaged or no checkpoint: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise SegkitError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def read_card(path: Path, content: Mapping[str, Any]) -> Card:
    if CARD not in content:
        raise SegkitError(
            f"{path} was written by another program: it has no segkit card (it holds {', '.join(list(map(str, content))[:6])}).\n"
            "  segkit evaluate and predict need a checkpoint of segkit train"
        )
    card = dict(content[CARD])
    if card.get("format") != 1:
        raise SegkitError(f"{path} has card format {card.get('format')}; this segkit reads format 1: update segkit")
    try:
        return Card(**card)
    except TypeError as error:
        raise SegkitError(f"{path} has a damaged card: {first_line(error)}") from error


def load_model(ckpt: str | Path, allow: Sequence[str] = ()) -> tuple[SegmentationModel, Card]:
    """The trained network in evaluation mode, and its card."""
    path = find(ckpt)
    content = read(path)
    card = read_card(path, content)
    model = build_model(card, allow)
    try:
        model.load_state_dict(model_weights(content))
    except (RuntimeError, KeyError) as error:
        raise SegkitError(f"{path}: its weights are not those of the network in its card: {first_line(error)}") from error
    return model.eval(), card


def model_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    weights: Mapping[str, Tensor] = content["state_dict"]
    return {key.removeprefix(PREFIX): value for key, value in weights.items() if key.startswith(PREFIX)}


def init_weights(model: SegmentationModel, path: Path) -> list[str]:
    """Start `model` from the weights of another run. Returns what kept its fresh weights because shapes differ.

    Normalisation constants stay those of the new data.
    """
    content = read(path)
    read_card(path, content)
    theirs = {k: v for k, v in model_weights(content).items() if k.startswith("network.")}
    ours = model.state_dict()
    fitting = {key: value for key, value in theirs.items() if key in ours and ours[key].shape == value.shape}
    fresh = [key for key in ours if key.startswith("network.") and key not in fitting]
    if 2 * len(fitting) < len(ours) - 2:
        raise SegkitError(f"init_from={path}: only {len(fitting)} of {len(ours)} tensors fit this network; is it another architecture?")
    model.load_state_dict(fitting, strict=False)
    return fresh


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
