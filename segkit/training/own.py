"""A DataModule or LightningModule of the user's own: what segkit passes to it, and what it has to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.optim import Optimizer

from segkit.config.schema import Train
from segkit.config.targets import descends, find, instantiate, keywords_of
from segkit.config.validate import BASES
from segkit.data.dataset import Batch, as_batch
from segkit.data.labels import IGNORE, LabelMap
from segkit.models.metadata import Metadata
from segkit.models.recompute import KEY
from segkit.system.environment import versions
from segkit.system.errors import SegkitError, first_line
from segkit.system.progress import console
from segkit.training.building import Parts, build_parts
from segkit.training.checks import check_weights
from segkit.training.module import SegmentationModule
from segkit.training.optim import build_scheduler, planned_steps

NEEDS_PARTS = ("model", "network", "loss", "metrics", "metadata")


def is_own_data(cfg: Train) -> bool:
    """Whether `data` names a LightningDataModule that was written without segkit."""
    return cfg.data.target is not None and not descends(cfg.data.target, BASES["data"], cfg.allow_targets)


def is_own_module(cfg: Train) -> bool:
    """Whether `module` names a LightningModule that was written without segkit."""
    return cfg.module is not None and not descends(cfg.module["_target_"], BASES["module"], cfg.allow_targets)


def build_datamodule(cfg: Train) -> L.LightningDataModule:
    """Build the DataModule that `data` names. Raises SegkitError where it is none, or has no loader that a training needs."""
    node = {**cfg.data.options, "_target_": cfg.data.target}
    data = instantiate(node, "data", allow=cfg.allow_targets, training=True)
    if not isinstance(data, L.LightningDataModule):
        raise SegkitError(f"data._target_ = {cfg.data.target} builds no LightningDataModule")
    for loader in ("train_dataloader", "val_dataloader", *(["test_dataloader"] if cfg.test else [])):
        if getattr(type(data), loader) is getattr(L.LightningDataModule, loader):
            raise SegkitError(f"data._target_ = {cfg.data.target} has no {loader}();   add one to the class")
    return data


def own_parts(cfg: Train, data: L.LightningDataModule, precision: str, is_new: bool) -> Parts | None:
    """Network, loss and metrics for batches of an own DataModule; None where an own LightningModule takes none of them."""
    if cfg.module is not None and is_own_module(cfg):
        taken = keywords_of(str(cfg.module["_target_"]), cfg.allow_targets)
        if not any(name in taken and name not in cfg.module for name in NEEDS_PARTS):
            check_checkpointing(cfg)
            return None
    batch = first_batch(cfg, data)
    cfg = cfg.model_copy(update={"preprocess": cfg.preprocess.model_copy(update={"normalize": "unit", "size": None})})
    parts = build_parts(cfg, own_metadata(cfg, data, batch, precision), is_new)
    try:
        with torch.no_grad():
            parts.loss(*parts.model.supervised(batch.image, batch.mask))
    except (RuntimeError, ValueError, IndexError) as error:
        shapes = f"images {tuple(batch.image.shape)} and masks {tuple(batch.mask.shape)}"
        raise SegkitError(f"data._target_ = {cfg.data.target}: network and loss cannot take its {shapes}: {first_line(error)}") from error
    return parts


def check_checkpointing(cfg: Train) -> None:
    """Raise SegkitError where the network that is to compute activations again is not segkit's to build."""
    if cfg.trainer.activation_checkpointing and cfg.module:
        what = f"{KEY}=true: the network is that of {cfg.module['_target_']}, which checkpoints activations itself if at all"
        raise SegkitError(f"{what};   leave it out")


def first_batch(cfg: Train, data: L.LightningDataModule) -> Batch:
    """The first training batch, from which the channels of the network follow."""
    data.prepare_data()
    data.setup("fit")
    batch = as_batch(next(iter(data.train_dataloader())))
    check_values(cfg, batch, labels_of(cfg, data))
    if batch.image.ndim not in (4, 5):
        raise SegkitError(f"data._target_ = {cfg.data.target}: images are (B, C, H, W) or (B, C, D, H, W), not {tuple(batch.image.shape)}")
    return batch


def check_values(cfg: Train, batch: Batch, labels: LabelMap) -> None:
    """Raise SegkitError where the masks of a batch hold what `labels` does not name."""
    most = 1 if labels.overlap else len(labels.classes)
    found = set(np.unique(batch.mask.cpu().numpy()).tolist())
    odd = sorted(found - set(range(most + 1)) - {IGNORE})
    if odd:
        named = "planes of 0 and 1" if labels.overlap else f"class indices 0 to {most}"
        what = f"its masks hold values {', '.join(map(str, odd))}, which its labels do not name"
        raise SegkitError(f"data._target_ = {cfg.data.target}: {what};   have it give {named}")
    if found == {0, IGNORE}:
        console.print(
            f"warning    {cfg.data.target}: the first masks hold 0 and {IGNORE} alone, and {IGNORE} means: do not count", style="yellow"
        )


def own_metadata(cfg: Train, data: L.LightningDataModule, batch: Batch, precision: str) -> Metadata:
    """Images come as the DataModule has made them: nothing is known of the files, and nothing more is normalized."""
    channels, dims = batch.image.shape[1], batch.image.ndim - 2
    split: dict[str, Any] = {"train": [], "val": [], "test": []}
    return Metadata(
        config=cfg.model_dump(mode="json"),
        labels=labels_of(cfg, data).as_dict(),
        dims=dims,
        channels=channels,
        intensity_max=255,
        mean=[0.0] * channels,
        sd=[1.0] * channels,
        split=split,
        data_root="",
        data_fingerprint="",
        is_phantom=False,
        precision=precision,
        versions=versions(),
    )


def labels_of(cfg: Train, data: L.LightningDataModule) -> LabelMap:
    """The classes: an attribute `labels` of the DataModule, a LabelMap or {0: background, 1: NAME, …}."""
    labels = getattr(data, "labels", None)
    if isinstance(labels, LabelMap):
        return labels
    if not isinstance(labels, Mapping):
        what = f"data._target_ = {cfg.data.target} does not name its classes"
        raise SegkitError(f"{what};   give it an attribute  labels = {{0: 'background', 1: 'NAME'}},  or train with an own  module=NAME")
    return LabelMap.of(labels)


# --- the LightningModule ------------------------------------------------------------------------------------------------


def build_module(cfg: Train, parts: Parts | None) -> L.LightningModule:
    """Build the LightningModule that `module` names. Raises SegkitError where it is none, or takes what segkit does not have."""
    if cfg.module is None or not is_own_module(cfg):
        assert parts is not None
        return below_ours(parts, cfg)
    target, planned = str(cfg.module["_target_"]), PlannedSchedule(cfg)
    offered = {**offered_parts(parts), "optimizer": optimizer_of(cfg), "scheduler": planned, "config": cfg}
    taken = [name for name in keywords_of(target, cfg.allow_targets, training=True) if name in offered and name not in cfg.module]
    module = instantiate(cfg.module, "module", allow=cfg.allow_targets, training=True, **{name: offered[name] for name in taken})
    if not isinstance(module, L.LightningModule):
        raise SegkitError(f"module._target_ = {target} builds no LightningModule")
    if cfg.test and type(module).test_step is L.LightningModule.test_step:
        raise SegkitError(f"test=true, but {target} has no test_step();   add one to the class, or leave out  test=true")
    check_weights(module, cfg, trains_itself=True)
    planned.module = module
    return module


def below_ours(parts: Parts, cfg: Train) -> SegmentationModule:
    """segkit's own LightningModule, or one that descends from it, with the keywords that the config gives it."""
    node = cfg.module or {}
    kind: Callable[..., SegmentationModule] = find(node["_target_"], cfg.allow_targets) if node else SegmentationModule
    keywords = {key: value for key, value in node.items() if key != "_target_"}
    module = kind(parts.model, parts.loss, parts.metrics, parts.config, parts.metadata, **keywords)
    module.build_optimizer()  # what it refuses is found before there is a run folder
    return module


def offered_parts(parts: Parts | None) -> dict[str, Any]:
    if parts is None:
        return {}
    named = {name: getattr(parts, name) for name in ("model", "loss", "metrics", "metadata")}
    return {**named, "network": parts.model.network}


def optimizer_of(cfg: Train) -> Callable[..., Optimizer]:
    """`optimizer(params)`: the one that the config names, as Hydra's `_partial_` would have it."""

    def build(params: Any) -> Optimizer:
        built: Optimizer = instantiate(cfg.optimizer, "optimizer", allow=cfg.allow_targets, training=True, params=params)
        return built

    return build


class PlannedSchedule:
    """`scheduler(optimizer)`: the schedule that the config names, over the steps that the Trainer plans. Step it after every step."""

    def __init__(self, cfg: Train) -> None:
        self.cfg = cfg
        self.module: L.LightningModule | None = None

    def __call__(self, optimizer: Optimizer) -> Any:
        assert self.module is not None
        n_steps, per_epoch = planned_steps(self.module.trainer)
        return build_scheduler(optimizer, self.cfg.scheduler, n_steps, per_epoch, self.cfg.metric, self.cfg.allow_targets)
