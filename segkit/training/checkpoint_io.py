"""How Lightning's checkpoints are read and written: atomically, without code in them, and kept in memory where a file can wait."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from segkit.models import checkpoint
from segkit.training.run_folder import RunFolder

HYPER_PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")
"""What `save_hyperparameters` of an own LightningModule or DataModule puts into a checkpoint."""


def plain_part(node: Any) -> Any:
    """A mapping without the objects in it, such as a network or an optimizer: a file with code in it would never be opened again."""
    return {key: value for key, value in node.items() if is_plain(value)} if isinstance(node, dict) else node


def is_plain(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return all(map(is_plain, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, str | int | float | bool)


def tensors(node: Any) -> Iterator[torch.Tensor]:
    """All that are in a checkpoint."""
    if isinstance(node, torch.Tensor):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from tensors(value)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Read and write Lightning's checkpoints: atomically, and with `weights_only=True`."""

    restoring: Path | None = None
    """The file, from the reading of a checkpoint to the first step after it."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.is_holding = False
        """Whether a checkpoint is to be kept in memory, as it is now, until `write_held`."""
        self.held: dict[Path, dict[str, Any]] = {}

    def save_checkpoint(self, checkpoint_: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.run.check_exists()
        plain = {key: plain_part(checkpoint_[key]) for key in HYPER_PARAMETERS if key in checkpoint_}
        content = {**checkpoint_, **plain}
        if self.is_holding:
            copies = {id(tensor): tensor.detach().to("cpu", copy=True) for tensor in tensors(content)}
            self.held[Path(path)] = copy.deepcopy(content, copies)
            return
        checkpoint.save(content, Path(path))
        self.held.pop(Path(path), None)

    def write_held(self) -> None:
        for path in list(self.held):
            checkpoint.save(self.held[path], path)
            del self.held[path]

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        self.restoring = Path(path)
        return checkpoint.read(self.restoring)
