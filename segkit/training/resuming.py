"""A checkpoint that a training continues from, checked before it starts: what Lightning does not find it begins anew without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim import Optimizer

from segkit.config.validate import fit_sections
from segkit.models import checkpoint, fitting
from segkit.models.metadata import read_metadata
from segkit.models.weights.files import sound_tensors
from segkit.system.errors import SegkitError, first_line
from segkit.system.plain import fitted
from segkit.system.progress import console
from segkit.training.config_hash import flat, without_places
from segkit.training.run_folder import CONTINUED

Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)


class FitLoop(Part):
    epoch_progress: dict[str, Any]
    batch_progress: Annotated[dict[str, Any], Field(alias="epoch_loop.batch_progress")]


class Loops(Part):
    fit_loop: FitLoop


class TableState(Part):
    """Of `EpochTable`."""

    rows: list[dict[str, float]]
    sums: list[dict[str, float]]
    count: Count
    seconds: float


class BestState(Part):
    """Of `Checkpoints`."""

    best_score: float | None
    best_epoch: Count | None


class Callbacks(Part):
    EpochTable: TableState
    Checkpoints: BestState


class OptimizerState(Part):
    state: dict[Any, dict[str, Any]]
    param_groups: Annotated[list[dict[str, Any]], Field(min_length=1)]


class Begun(Part):
    """What is read of the checkpoint of an own LightningModule."""

    global_step: Count


class Resumable(Part):
    """What a training continues from, beside its weights and the metadata."""

    epoch: Count
    global_step: Count
    loops: Loops
    callbacks: Callbacks
    optimizer_states: Annotated[list[OptimizerState], Field(min_length=1)]
    lr_schedulers: list[dict[str, Any]]
    SegmentationData: dict[Literal["epoch", "batches"], Count] = Field(default_factory=dict)


OF_EACH_WEIGHT = frozenset({"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "sum"})
"""Parts of an optimizer's state that have the shape of the weight. Fused kernels do not look."""


def step_to_resume(path: Path, model: nn.Module, config: Mapping[str, Any] | None = None, plans_one: bool = True) -> int:
    """Return the step that a checkpoint continues from. SegkitError where it is damaged, or of another network than `model`.

    Prints what differs between its config and that of the run, which can be edited by hand. Of an own LightningModule only the step
    is read: Lightning compares its weights. `plans_one`: whether the module has one schedule of the rate, as segkit's own.
    """
    content = checkpoint.read(path)
    if isinstance(model, L.LightningModule):
        return fitted(path, {key: content[key] for key in ("global_step",) if key in content}, Begun).global_step
    saved = read_metadata(path, content).config
    for line in edited(saved, config or saved):
        console.print(f"note       config.yaml was edited: {line}", markup=False)
    weights = fitting.model_weights(path, content)
    if different := fitting.difference(model, weights):
        raise SegkitError(f"{path}: its weights are not those of the network in config.yaml: {different}")
    known = fitted(path, {key: content[key] for key in Resumable.model_fields if key in content}, Resumable)
    if plans_one and len(known.lr_schedulers) + ("plateau" in content) != 1:
        raise SegkitError(f"{path} is damaged: it has no state of the learning rate's schedule")
    states = {f"optimizer_states.{i}": dict(tensors_in(state)) for i, state in enumerate(content["optimizer_states"])}
    for place, tensors in states.items():
        sound_tensors(path, {f"{place}.{name}": tensor for name, tensor in tensors.items()})
    return known.global_step


def edited(saved: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """A line for each key of a training that two configs hold unlike values of."""
    known, _ = fit_sections(saved)
    if known is None:
        return []
    before, now = (dict(flat(without_places(one))) for one in (known.model_dump(mode="json"), config))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key) and key not in CONTINUED]
    return [f"{key} was {before.get(key, 'missing')} in the checkpoint, now {now.get(key, 'missing')}" for key in changed]


def check_optimizers(path: Path, optimizers: Sequence[Optimizer]) -> None:
    """Raise SegkitError where a restored state is not of the weight that it stands for."""
    for weight, state in (item for optimizer in optimizers for item in optimizer.state.items()):
        for name in OF_EACH_WEIGHT & state.keys():
            if (found := getattr(state[name], "shape", None)) != weight.shape:
                raise SegkitError(f"{path} is damaged: {name} of its optimizer has shape {found} for a weight of {tuple(weight.shape)}")


def tensors_in(node: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor at any depth, with its dotted name."""
    if isinstance(node, Tensor):
        yield name, node
    for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ():
        yield from tensors_in(inner, f"{name}.{key}" if name else str(key))


@contextmanager
def restoring(path: Path | None, trainer: L.Trainer) -> Iterator[None]:
    """Turn what a damaged checkpoint does to Lightning while it is restored into a SegkitError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        if not getattr(trainer.strategy.checkpoint_io, "restoring", None):
            raise
        raise SegkitError(f"{path} cannot be resumed from, as it is damaged: {type(error).__name__}: {first_line(error)}") from error
