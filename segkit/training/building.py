"""Build the parts of a training from the config and the data: metadata, network, loss and metrics."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from segkit.config.schema import Train
from segkit.config.targets import instantiate, keywords_of
from segkit.data.audit.audit import Prepared
from segkit.data.labels import LabelMap
from segkit.data.statistics import data_fingerprint
from segkit.data.transforms.intensity import IntensityStatistics
from segkit.inference.evaluation import build_metrics
from segkit.losses import IgnoreGuard, WeightedLoss
from segkit.metrics import CaseMetric
from segkit.metrics.base import known_as
from segkit.models import checkpoint
from segkit.models.checkpoint import build_model
from segkit.models.metadata import Metadata
from segkit.models.recompute import checkpoint_activations
from segkit.models.segmentation import SegmentationModel
from segkit.system.environment import versions
from segkit.system.errors import SegkitError, nearest
from segkit.system.progress import console
from segkit.training.checks import check_size, check_weights
from segkit.training.optim import freeze

UNCHECKED = ("epoch", "step", "lr-")
"""What Lightning itself offers a checkpoint to monitor, or a monitor of the rate logs."""


@dataclass(frozen=True)
class Parts:
    """What a LightningModule of segkit is made of."""

    model: SegmentationModel
    loss: WeightedLoss
    metrics: dict[str, CaseMetric]
    config: Train
    metadata: Metadata


def make_metadata(cfg: Train, prepared: Prepared, seen: IntensityStatistics, precision: str) -> Metadata:
    """The metadata of a training on segkit's own data. `seen`: the intensities of its training images."""
    manifest = prepared.manifest
    return Metadata(
        config=cfg.model_dump(mode="json"),
        labels=manifest.labels.as_dict(),
        dims=manifest.dims,
        channels=len(seen.mean),
        intensity_max=seen.intensity_max,
        mean=seen.mean,
        sd=seen.sd,
        split=asdict(prepared.split),
        data_root=str(manifest.root.resolve()),
        data_fingerprint=data_fingerprint(prepared.statistics),
        is_phantom=manifest.is_phantom,
        precision=precision,
        versions=versions(),
        dtypes=seen.dtypes,
    )


def build_parts(cfg: Train, metadata: Metadata, is_new: bool = True) -> Parts:
    """Build network, loss and metrics. Weights depend on the seed alone, unless they come from `init_from` or a checkpoint."""
    for seed_all in (random.seed, np.random.seed, torch.manual_seed):
        seed_all(cfg.seed)
    model = build_model(metadata, cfg.allow_targets, is_new and cfg.init_from is None, cfg)
    if cfg.init_from and is_new:
        fresh = checkpoint.init_weights(model, checkpoint.find(cfg.init_from, "init_from"), metadata.label_map().classes)
        console.print(f"weights from {cfg.init_from}" + (f"; newly initialized: {', '.join(fresh)}" if fresh else ""))
    check_weights(model.network, cfg)
    if cfg.data.source:
        check_size(model, cfg, metadata)
    if cfg.trainer.activation_checkpointing:
        checkpoint_activations(model.network)
    freeze(model.network, cfg.freeze)
    return Parts(model, build_loss(cfg, metadata.label_map()), build_metrics(cfg.metric.cases, cfg.allow_targets), cfg, metadata)


def check_monitor(cfg: Train, metrics: Mapping[str, CaseMetric]) -> None:
    """Raise SegkitError if `metric.monitor` is none of the numbers that segkit's own LightningModule logs."""
    measured = ["loss", *cfg.metric.torchmetrics, *(statistic.name for metric in metrics.values() for statistic in metric.statistics)]
    if known_as(cfg.metric.monitor.split("/")[0], measured) not in measured:
        hint = nearest(cfg.metric.monitor, measured) or f"available: {', '.join(measured)}"
        raise SegkitError(f"metric.monitor={cfg.metric.monitor} is not measured;   {hint}")
    check_other_monitors(cfg, measured)


def check_other_monitors(cfg: Train, measured: Sequence[str]) -> None:
    """Raise SegkitError if the scheduler or a callback waits for a number that is not logged; an own module or callback may log more."""
    callbacks = {f"callbacks.{name}": node for name, node in cfg.callbacks.items() if node}
    are_known = all(str(node["_target_"]).startswith(("segkit.", "lightning.")) for node in callbacks.values())
    if cfg.module or cfg.trainer.callbacks or not are_known:
        return
    parts = [f"loss_{name}" for name, node in cfg.loss.parts.items() if node is not None]
    logged = [*(f"val/{name}" for name in (*measured, *parts)), *(f"train/{name}" for name in ("loss", *parts, "lr"))]
    monitors = {f"{key}.monitor": str(node["monitor"]) for key, node in callbacks.items() if node.get("monitor")}
    if cfg.scheduler.monitor:
        monitors["scheduler.monitor"] = f"val/{cfg.scheduler.monitor.removeprefix('val/')}"
    for key, monitor in monitors.items():
        if known_as("/".join(monitor.split("/")[:2]), logged) not in logged and not monitor.startswith(UNCHECKED):
            hint = nearest(monitor, logged) or f"logged are {', '.join(logged)}"
            raise SegkitError(f"{key}={monitor} is not logged;   {hint}")


def build_loss(cfg: Train, labels: LabelMap, training: bool = True) -> WeightedLoss:
    """Build the parts of the loss. A part with a keyword `mode` handles the ignored label 255 itself; others are guarded.

    With `training=False` the config comes from a checkpoint: only what that may name is built.
    """
    known = {"mode": labels.mode, "classes": labels.classes}
    parts = {}
    for name, node in cfg.loss.parts.items():
        if node is not None:
            taken = keywords_of(str(node["_target_"]), cfg.allow_targets, training)
            more = {key: known[key] for key in known if key in taken}
            part = instantiate(node, f"loss.parts.{name}", allow=cfg.allow_targets, training=training, **more)
            parts[name] = part if "mode" in taken else IgnoreGuard(part, name)
    for name in cfg.loss.weights:
        if name not in cfg.loss.parts:
            raise SegkitError(f"loss.weights.{name}: not a part of the loss; {nearest(name, parts) or 'available: ' + ', '.join(parts)}")
    return WeightedLoss(parts, cfg.loss.weights, labels.mode, cfg.loss.deep_supervision)
