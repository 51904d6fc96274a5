"""Weights of a checkpoint, held to what its metadata say, before a network is built from them.

Whatever a file claims, no more memory is taken than its own weights need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module

from segkit.models.segmentation import SegmentationModel
from segkit.models.weights.files import ROOM, SHARED, sound_tensors
from segkit.system.errors import SegkitError, few, first_line

PREFIX = "model."
"""The task's attribute that holds the SegmentationModel: what its state-dict keys begin with."""


def model_weights(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of the SegmentationModel in the content of a checkpoint, by its own names."""
    state = sound_tensors(path, content.get("state_dict"))
    weights = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    if not weights:
        raise SegkitError(f"{path} is damaged: its state_dict holds no weights of a model ({few(list(state))})")
    return weights


def load(path: Path, build: Callable[[], SegmentationModel], weights: Mapping[str, Tensor]) -> SegmentationModel:
    """Return the network that `build` makes, with these weights. SegkitError where they are not its own."""
    with at_most(path, weights):
        try:
            with torch.device("meta"):
                size = sum(value.numel() for value in build().state_dict().values())
        except Exception:  # a network that computes while it is built, or a wrong one, which fails below
            size = 0
        if size > SHARED * _numel(weights) + ROOM:
            raise SegkitError(f"{path}: {_misfit(size, weights)}")
        model = build()
    _check_normalizer(path, model, weights)
    try:
        if not (different := difference(model, weights)):
            model.load_state_dict(dict(weights))
    except (RuntimeError, KeyError) as error:
        different = first_line(error)
    if different:
        raise SegkitError(f"{path}: its weights are not those of the network in its metadata: {different}")
    check_finite(path, model, weights)
    return model


def check_finite(path: Path, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise SegkitError for infinite weights from a file. A buffer may be infinite, such as a mask of attention."""
    if infinite := [name for name, _ in model.named_parameters() if name in weights and not weights[name].isfinite().all()]:
        raise SegkitError(f"{path} holds infinite weights ({few(infinite, 3)}): its training failed, or the file is damaged")


@contextmanager
def at_most(path: Path, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Refuse a network while it is built, as soon as it has more parts than these weights can fill."""
    n, most, largest = 0, 8 * len(weights) + ROOM // 1024, SHARED * _numel(weights) + ROOM

    def count(_: nn.Module, name: str, part: Any) -> None:
        nonlocal n
        n += 1
        if n > most:
            raise SegkitError(f"{path}: config.model describes a network of {n:,} parts or more, but it holds {len(weights)} tensors")
        if isinstance(part, nn.Parameter) and part.numel() > largest:
            raise SegkitError(f"{path}: {_misfit(part.numel(), weights)}")

    hooks = [module.register_module_parameter_registration_hook(count), module.register_module_module_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _numel(weights: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in weights.values())


def _misfit(size: int, weights: Mapping[str, Tensor]) -> str:
    return f"config.model describes a network of {size:,} values or more, but its weights are {_numel(weights):,}: one of them is damaged"


def _check_normalizer(path: Path, model: SegmentationModel, weights: Mapping[str, Tensor]) -> None:
    """Mean and SD stand in the metadata and among the weights."""
    for name in ("mean", "sd"):
        ours, theirs = getattr(model.normalizer, name), weights.get(f"normalizer.{name}")
        if theirs is not None and theirs.shape == ours.shape and not torch.allclose(ours, theirs.to(ours.dtype), rtol=1e-4, atol=1e-6):
            shown = [[round(float(value), 4) for value in one.flatten()[:4]] for one in (ours, theirs)]
            raise SegkitError(f"{path} is damaged: {name} is {shown[0]} in its metadata, but {shown[1]} in its weights")


def difference(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """What the weights lack and have besides; empty where each fits its place."""
    wanted = model.state_dict()
    missing, besides = [name for name in wanted if name not in weights], [name for name in weights if name not in wanted]
    there = [(name, value, wanted[name]) for name, value in weights.items() if name in wanted]
    shapes = [f"{name} has shape {tuple(one.shape)} for {tuple(place.shape)}" for name, one, place in there if one.shape != place.shape]
    kinds = [f"{name} is {value.dtype} for {place.dtype}" for name, value, place in there if value.is_complex() != place.is_complex()]
    lists = [f"it {what} {few(names, 3)}" for what, names in (("lacks", missing), ("has besides", besides)) if names]
    return "; ".join([*lists, *shapes[:1], *kinds[:1]])
