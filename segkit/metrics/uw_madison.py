"""The score of the UW-Madison GI Tract challenge (Kaggle 2022): 0.4 Dice + 0.6 (1 - normalized 3-D Hausdorff distance).

Its code was never published. There are two reconstructions of the distance, and both are reported:
diag: of each class, between the borders of the masks, in voxels, over the diagonal of the volume (MONAI; first place);
cube: of all classes as one, between all voxels, in a volume of side 1, over sqrt(3) (mle-bench).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segkit.data.case import Case
from segkit.data.transforms.geometry import positions
from segkit.metrics.base import NAN, Array, Slices, Statistic, as_number, rule_text
from segkit.metrics.surface import border, nearest_distance, surface_distances
from segkit.metrics.volumes import ALL

W_DICE, W_DISTANCE = 0.4, 0.6
HOPELESS = 10
"""mle-bench measures no distance where more than so many times the true voxels are predicted: it is 1."""
DICE, SLICES = "uw_dice", "uw_slices"
DIAG, CUBE = "uw_hausdorff", "uw_hausdorff_cube"


@dataclass(frozen=True)
class UWMadison:
    """Dice by slice and normalized Hausdorff distances by volume and class, all in 0..1.

    uw_dice is the mean over the slices of a volume, uw_slices their number. The challenge weighs slices equally in Dice, and
    volumes and classes in the distance: so do the statistics, which have the numbers of the challenge.

    Args:
        both_empty: Dice of a slice in which a class is neither true nor predicted. None leaves it out (the host's word in
            Kaggle's discussion 324934), 0 is the literal text of the rules.
    """

    both_empty: float | None = None

    names = (DICE, SLICES, DIAG, CUBE)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        return (
            OverSlices(DICE, DICE, f"mean over slices, both empty {rule_text(self.both_empty)}"),
            Statistic(DIAG, DIAG, "mean over volumes, one side empty = 1, both empty = 0"),
            ChallengeScore("uw_score", DIAG, f"{W_DICE} {DICE} + {W_DISTANCE} (1 - {DIAG})"),
            Statistic(CUBE, CUBE, "mean over volumes, classes as one, one side empty = 1, both empty left out"),
            ChallengeScore("uw_score_cube", CUBE, f"{W_DICE} {DICE} + {W_DISTANCE} (1 - {CUBE})"),
        )

    def __call__(self, pred: Array, target: Array, case: Case, there: Slices = ALL) -> list[dict[str, float]]:
        cube = hausdorff_unit_cube(np.any(pred, axis=0), np.any(target, axis=0))
        return [self.of_class(p, t, cube, there) for p, t in zip(pred, target, strict=True)]

    def of_class(self, pred: Array, target: Array, cube: float, there: Slices) -> dict[str, float]:
        dices = slice_dice(pred[there], target[there], self.both_empty)
        known = dices[dices == dices]
        mean = float(known.mean()) if known.size else NAN
        return dict(zip(self.names, (mean, float(known.size), hausdorff_diag(pred, target), cube), strict=True))


class OverSlices(Statistic):
    """Dice, in which volumes and classes weigh as many slices as they have."""

    def of_rows(self, rows: Sequence[Mapping[str, float]]) -> Array:
        dices, slices = columns(rows, DICE, SLICES)
        return linearized(dices, slices)


class ChallengeScore(OverSlices):
    """0.4 mean Dice of all slices and classes + 0.6 (1 - mean distance of all volumes and classes)."""

    def of_rows(self, rows: Sequence[Mapping[str, float]]) -> Array:
        (distances,) = columns(rows, self.column)
        return W_DICE * super().of_rows(rows) + W_DISTANCE * (1 - linearized(distances, np.isfinite(distances)))


def columns(rows: Sequence[Mapping[str, float]], *names: str) -> list[Array]:
    return [np.array([row.get(name, NAN) for row in rows], float) for name in names]


def linearized(values: Array, weights: Array) -> Array:
    """Numbers whose plain mean is the weighted mean of `values`, and whose spread is its uncertainty (Taylor linearization).

    Wolter, Introduction to Variance Estimation, 2007, chapter 6. A row of weight 0 counts nowhere: it gets the mean. NaN
    without any weight.
    """
    weights = np.where(np.isfinite(values), np.nan_to_num(weights), 0.0)
    if not weights.sum():
        return np.full(values.shape, NAN)
    known = np.nan_to_num(values)
    mean = np.average(known, weights=weights)
    return np.asarray(mean + weights / weights.mean() * (known - mean))


def slice_dice(pred: Array, target: Array, both_empty: float | None = None) -> Array:
    """bool (D, H, W) -> (D,)."""
    common, total = (pred & target).sum(axis=(1, 2)), pred.sum(axis=(1, 2)) + target.sum(axis=(1, 2))
    return np.where(total > 0, 2 * common / np.maximum(total, 1), as_number(both_empty))


def hausdorff_diag(pred: Array, target: Array) -> float:
    """bool (D, H, W) of one class. Both empty: 0, one empty: 1."""
    found, there = bool(pred.any()), bool(target.any())
    if not (found and there):
        return float(found or there)
    distances = np.concatenate(surface_distances(pred, target, (1.0,) * target.ndim))
    return min(1.0, float(distances.max() / np.linalg.norm(target.shape)))


def hausdorff_unit_cube(pred: Array, target: Array) -> float:
    """bool (D, H, W) of all classes. Both empty: NaN, one empty: 1."""
    n_pred, n_target = int(pred.sum()), int(target.sum())
    if not (n_pred or n_target):
        return NAN
    if not (n_pred and n_target) or n_pred > HOPELESS * n_target:
        return 1.0
    return max(farthest(pred, target), farthest(target, pred)) / float(np.sqrt(target.ndim))


def farthest(mask: Array, other: Array) -> float:
    """Largest distance from a voxel of `mask` to the nearest of `other`, whose nearest voxel always lies on its border."""
    outside = positions(mask & ~other) / mask.shape
    return float(nearest_distance(outside, positions(border(other)) / mask.shape).max()) if len(outside) else 0.0
