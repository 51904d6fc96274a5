"""Metrics of whole volumes, also where a data set is seen slice by slice: slices are stacked again first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from segkit.data.case import Case
from segkit.data.labels import IGNORE, LabelMap
from segkit.metrics.base import Array, Slices, Statistic, VolumeMetric, label_objects
from segkit.metrics.overlap import Overlap
from segkit.metrics.table import Row
from segkit.system.errors import SegkitError

ALL = slice(None)


class Stack(NamedTuple):
    """A whole volume: class indices (D, H, W), or planes (K, D, H, W) of 0, 1 where classes overlap."""

    case: Case
    pred: Array
    target: Array
    there: Slices = ALL


class Stacks:
    """Slices in, whole volumes out: each as soon as its last slice has come, so that few are held at a time."""

    def __init__(self, cases: Iterable[Case]) -> None:
        self.left = Counter(case.volume for case in cases if case.volume)
        self.held: dict[str, list[Stack]] = {}

    def add(self, case: Case, pred: Array, target: Array) -> Stack | None:
        """None until the volume is whole, and for an image that belongs to none."""
        if case.dims == 3:
            return Stack(case, pred, target)
        if not case.volume:
            return None
        self.held.setdefault(case.volume, []).append(Stack(case, pred, target))
        self.left[case.volume] -= 1
        return None if self.left[case.volume] else stack(self.held.pop(case.volume))


def stack(slices: Sequence[Stack]) -> Stack:
    """Slices of one volume by their position; one that is not there is empty, so that its neighbors keep their distance."""
    positions = [one.case.position for one in slices]
    first, n = min(positions), max(positions) - min(positions) + 1
    case = replace(slices[0].case, id=slices[0].case.volume, volume="", position=0, dims=3)
    shapes = {one.pred.shape for one in slices} | {one.target.shape for one in slices}
    if len(shapes) > 1:
        raise SegkitError(f"{case.id}: its slices have different sizes, {' and '.join(map(str, sorted(shapes)))}, and make no volume")
    (shape,) = shapes
    pred, target = (np.zeros((*shape[:-2], n, *shape[-2:]), np.uint8) for _ in range(2))
    for one in slices:
        pred[..., one.case.position - first, :, :] = one.pred
        target[..., one.case.position - first, :, :] = one.target
    return Stack(case, pred, target, np.isin(np.arange(n), np.subtract(positions, first)))


def evaluate_volume(volume: Stack, labels: LabelMap, metrics: Mapping[str, VolumeMetric], subset: str = "") -> list[Row]:
    """One row for each class, in the order of the label map. What is 255 in the reference counts in neither."""
    case, pred, target, there = volume
    p, t = labels.planes(pred) & (target != IGNORE), labels.planes(target)
    rows = []
    for name, p_k, t_k, *found in zip(labels.classes, p, t, *(metric(p, t, case, there) for metric in metrics.values()), strict=True):
        values = {column: value for of_metric in found for column, value in of_metric.items()}
        rows.append(Row(case.id, case.group_or_id, subset, name, int(t_k.sum()), int(p_k.sum()), values))
    return rows


@dataclass(frozen=True)
class VolumeDice:
    """Dice over a whole volume, in 0..1; slices without the structure weigh nothing.

    Args:
        largest: only the largest 3-D object of the prediction counts (touching by a corner is touching, and so is lying in
            slices between which others are missing), as in the published numbers of the brain FLAIR network (Buda et al.,
            2019).
        both_empty: as in `Overlap`.
        truth_empty: as in `Overlap`.
    """

    largest: bool = False
    both_empty: float | None = 1.0
    truth_empty: float | None = 0.0

    names = ("volume_dice",)

    @property
    def overlap(self) -> Overlap:
        return Overlap(self.both_empty, self.truth_empty)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        rule = self.overlap.rule + (", largest object of the prediction" if self.largest else "")
        return (Statistic("volume_dice", "volume_dice", rule, scores_empty=True),)

    def __call__(self, pred: Array, target: Array, case: Case, there: Slices = ALL) -> list[dict[str, float]]:
        known = pred[:, there]
        kept = [largest_object(mask) for mask in known] if self.largest else known
        return [{"volume_dice": self.overlap(p, t, case)["dice"]} for p, t in zip(kept, target[:, there], strict=True)]


def largest_object(mask: Array) -> Array:
    """(D, H, W) bool; the first of several that are equally large."""
    objects, n = label_objects(mask)
    return np.asarray(objects == 1 + np.argmax(np.bincount(objects.ravel())[1:])) if n > 1 else mask
