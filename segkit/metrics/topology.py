"""Metrics of connectivity: cells separated (ISBI 2012), threads in their whole length, single objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from skimage.morphology import skeletonize

from segkit.data.case import Case
from segkit.data.transforms.geometry import bounding_box
from segkit.metrics.base import NAN, Array, Statistic, as_number, empty_rule, label_objects
from segkit.metrics.surface import ROUNDING
from segkit.system.errors import SegkitError


@dataclass(frozen=True)
class CellScores:
    """Rand and information scores of a partition into cells (Arganda-Carreras et al., Front. Neuroanat. 2015), in 0..1.

    Pixel scores hardly notice such errors: one gap in a membrane joins two cells. Cells are what membranes separate
    (4-connected). p_ij is the share of pixels that lie in cell i of the target and cell j of the prediction, s and t its
    margins: v_rand = sum p_ij^2 / (sum s^2 + sum t^2) * 2, adapted_rand_error = 1 - v_rand, and
    v_info = 2 I(s; t) / (H(s) + H(t)).

    Only pixels in cells of the target count (foreground-restricted), so that the width of its membranes does not; those of
    the prediction are thinned to nothing, each pixel going to its nearest cell. The challenge leaves lines one pixel wide,
    which changes the scores by the few pixels of the lines.

    Args:
        of: whether the class of the mask is the cells or the membranes.
    """

    of: Literal["cells", "membranes"]

    names = ("adapted_rand_error", "v_rand", "v_info")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        rule = "membranes thinned; no cell in truth = missing, none predicted = worst"
        return tuple(Statistic(name, name, rule) for name in self.names)

    def __call__(self, pred: Array, target: Array, case: Case) -> dict[str, float]:
        if target.ndim != 2:
            raise SegkitError(f"{case.id}: CellScores is for images and slices, not volumes;   add  ~metric.cases.NAME  with its name")
        cells_pred, cells_target = (mask if self.of == "cells" else ~mask for mask in (pred, target))
        if not cells_target.any():
            return dict.fromkeys(self.names, NAN)
        if not cells_pred.any():
            return dict(zip(self.names, (1.0, 0.0, 0.0), strict=True))
        numbers_pred, numbers_target = (np.asarray(ndimage.label(cells)[0]) for cells in (cells_pred, cells_target))
        v_rand, v_info = partition_scores(numbers_target[cells_target], grown(numbers_pred)[cells_target])
        return dict(zip(self.names, (1 - v_rand, v_rand, v_info), strict=True))


def grown(cells: Array) -> Array:
    """Every pixel between cells gets the number of the nearest."""
    index = ndimage.distance_transform_edt(cells == 0, return_distances=False, return_indices=True)
    return np.asarray(cells[tuple(index)])


def partition_scores(target: Array, pred: Array) -> tuple[float, float]:
    """v_rand and v_info of two partitions, each the number of its cell for each pixel (N,).

    v_rand: harmonic mean of the chances that two pixels of one cell are together in the other partition as well. v_info is
    1 where both are one single cell, which hold no information and agree.
    """
    table = coo_array((np.ones(target.size), (target, pred)))
    table.sum_duplicates()
    joint = table / target.size
    s, t = np.asarray(joint.sum(axis=1)).ravel(), np.asarray(joint.sum(axis=0)).ravel()
    v_rand = min(1.0, float(2 * np.sum(joint.data**2) / (np.sum(s**2) + np.sum(t**2))))
    total = entropy(s) + entropy(t)
    v_info = min(1.0, float(2 * (total - entropy(joint.data)) / total)) if total > 0 else 1.0
    return v_rand, v_info


def entropy(shares: Array) -> float:
    known = shares[shares > 0]
    return float(-np.sum(known * np.log(known)))


@dataclass(frozen=True)
class Centerline:
    """clDice of thin structures: are they found in their whole length? In 0..1 (Shit et al., clDice, CVPR 2021).

    Harmonic mean of the share of the predicted skeleton that lies in the target, and of the target's skeleton that lies in
    the prediction. A gap costs its length, a wrong width nothing. For vessels, membranes and other threads. Skeletons by
    Zhang and Suen (1984) in 2-D, Lee et al. (1994) in 3-D, in pixels.

    Args:
        both_empty: as in `Overlap`.
        truth_empty: as in `Overlap`.
    """

    both_empty: float | None = 1.0
    truth_empty: float | None = 0.0

    names = ("cldice",)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        return (Statistic("cldice", "cldice", empty_rule(self.both_empty, self.truth_empty), scores_empty=True),)

    def __call__(self, pred: Array, target: Array, case: Case) -> dict[str, float]:
        if not target.any():
            return {"cldice": as_number(self.truth_empty if pred.any() else self.both_empty)}
        pred, target = oriented(pred, target)
        precision, sensitivity = within(pred, target), within(target, pred)
        total = precision + sensitivity
        return {"cldice": 2 * precision * sensitivity / total if total else 0.0}


def oriented(pred: Array, target: Array) -> tuple[Array, Array]:
    """Crop two masks (*S) to their common box and bring its axes into an order and direction that follow from the masks.

    An axis' profile is the number of pixels in each of its planes, of both masks together. Profiles ascend from axis to
    axis, and each is no larger than its mirror image; a transposed or mirrored pair ends the same, unless profiles tie.
    """
    box = tuple(slice(*side) for side in bounding_box(pred | target) or ())
    pair = np.stack([pred[box], target[box]])
    for axis in range(1, pair.ndim):
        if (counts := profile(pair, axis)) > counts[::-1]:
            pair = np.flip(pair, axis)
    order = sorted(range(1, pair.ndim), key=lambda axis: (pair.shape[axis], profile(pair, axis)))
    turned = np.ascontiguousarray(pair.transpose(0, *order))
    return turned[0], turned[1]


def profile(pair: Array, axis: int) -> list[int]:
    others = tuple(other for other in range(pair.ndim) if other != axis)
    return list(np.count_nonzero(pair, axis=others))


def within(mask: Array, other: Array) -> float:
    """The share of the skeleton of `mask` that lies in `other`; 0 where the mask is empty."""
    skeleton = np.asarray(skeletonize(mask)) > 0  # type: ignore[no-untyped-call]
    if not skeleton.any():
        skeleton = mask  # Lee's thinning leaves nothing of cubes with an even side
    n = int(np.count_nonzero(skeleton))
    return int(np.count_nonzero(skeleton & other)) / n if n else 0.0


@dataclass(frozen=True)
class ObjectScores:
    """Object-wise F1 = 2 matched / (objects in target + objects predicted), and the counts (Caicedo et al., Nature Methods 2019).

    Objects are connected pixels (touching by a corner is touching). Each object has one partner at most, chosen so that
    there are as many pairs as possible.

    Args:
        iou: a pair of objects matches from this IoU on, in (0, 1].
        both_empty: as in `Overlap`, for F1.
        truth_empty: as in `Overlap`, for F1.
    """

    iou: float = 0.5
    both_empty: float | None = 1.0
    truth_empty: float | None = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise SegkitError(f"ObjectScores: iou is {self.iou:g}, but must lie above 0 and not above 1;   iou=0.5 is usual")

    names = ("object_f1", "n_truth_objects", "n_pred_objects", "object_count_error")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        rule = f"IoU >= {self.iou:g}, {empty_rule(self.both_empty, self.truth_empty)}"
        count = Statistic("object_count_mae", "object_count_error", "counts every case", absolute=True)
        return Statistic("object_f1", "object_f1", rule, scores_empty=True), count

    def __call__(self, pred: Array, target: Array, case: Case) -> dict[str, float]:
        (objects_pred, n_pred), (objects_target, n_target) = label_objects(pred), label_objects(target)
        if n_target:
            f1 = 2 * n_matched(objects_pred, objects_target, self.iou) / (n_pred + n_target)
        else:
            f1 = as_number(self.truth_empty if n_pred else self.both_empty)
        return dict(zip(self.names, (f1, float(n_target), float(n_pred), float(n_pred - n_target)), strict=True))


def n_matched(pred: Array, target: Array, iou: float) -> int:
    """Most pairs of an object of each with at least that IoU. Both numbered from 1, 0 is background."""
    sizes = [np.bincount(objects.ravel()) for objects in (pred, target)]
    both = (pred > 0) & (target > 0)
    pairs, common = np.unique(np.stack([pred[both], target[both]]), axis=1, return_counts=True)
    p, t = pairs
    good = common * ROUNDING >= iou * (sizes[0][p] + sizes[1][t] - common)
    (rows, row), (columns, column) = (np.unique(numbers[good], return_inverse=True) for numbers in (p, t))
    matches = np.zeros((len(rows), len(columns)))
    matches[row, column] = 1
    return int(matches[linear_sum_assignment(matches, maximize=True)].sum())
