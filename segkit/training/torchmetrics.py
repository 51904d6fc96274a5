"""Metrics of torchmetrics over all pixels of a validation: built for the classes of the data, and fed on the network's grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from torch import Tensor, nn
from torchmetrics import Metric

from segkit.config.targets import instantiate, keywords_of
from segkit.data.labels import IGNORE, LabelMap
from segkit.system.errors import SegkitError

OF_INDICES = "torchmetrics.segmentation"
"""Metrics of this package compare class indices; all others get probabilities."""


def build(nodes: Mapping[str, Mapping[str, Any] | None], labels: LabelMap, allow: Sequence[str]) -> nn.ModuleDict:
    """The metrics by name; classes and the ignored value follow from the data. Raises SegkitError where a node builds no metric."""
    return nn.ModuleDict({name: build_one(name, node, labels, allow) for name, node in nodes.items() if node is not None})


def build_one(name: str, node: Mapping[str, Any], labels: LabelMap, allow: Sequence[str]) -> Metric:
    n = len(labels.classes)
    known: dict[str, Any] = {"task": labels.mode, "num_classes": n if labels.overlap else n + 1, "num_labels": n}
    known |= {"ignore_index": IGNORE, "input_format": "index"}
    taken = keywords_of(str(node["_target_"]), allow, training=True)
    more = {key: known[key] for key in known if key in taken and key not in node}
    metric = instantiate(node, f"metric.torchmetrics.{name}", allow=allow, training=True, **more)
    if not isinstance(metric, Metric):
        raise SegkitError(f"metric.torchmetrics.{name}: {node['_target_']} builds no torchmetrics.Metric")
    return metric


def log(module: L.LightningModule, metrics: nn.ModuleDict, probs: Tensor, target: Tensor, labels: LabelMap) -> None:
    """Feed a batch to all metrics, and have Lightning log each at the end of the epoch, as val/NAME or test/NAME."""
    for name, metric in metrics.items():
        update(metric, probs, target, labels)  # type: ignore[arg-type]
        subset = "test" if module.trainer.testing else "val"
        module.log(f"{subset}/{name}", metric, on_step=False, on_epoch=True, batch_size=len(probs))  # type: ignore[arg-type]


def update(metric: Metric, probs: Tensor, target: Tensor, labels: LabelMap) -> None:
    """Feed a batch: probabilities (B, n_outputs, *S), and class indices (B, *S) or planes (B, K, *S) of 0 and 1; 255 = ignore."""
    if type(metric).__module__.startswith(OF_INDICES):
        metric.update(*as_indices(probs, target, labels))
    else:
        metric.update(probs[:, 0] if labels.mode == "binary" else probs, target.long())


def as_indices(probs: Tensor, target: Tensor, labels: LabelMap) -> tuple[Tensor, Tensor]:
    """Predicted and true class indices; ignored pixels are background in both, as these metrics cannot leave any out."""
    if labels.overlap:
        raise SegkitError(
            "metric.torchmetrics: those of torchmetrics.segmentation need classes that exclude each other;   data.overlap=false"
        )
    predicted = (probs[:, 0] > 0.5).long() if labels.mode == "binary" else probs.argmax(dim=1)
    ignored = target == IGNORE
    return predicted.masked_fill(ignored, 0), target.long().masked_fill(ignored, 0)
