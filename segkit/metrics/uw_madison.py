"""The score of the UW-Madison GI Tract challenge (Kaggle 2022): 0.4 Dice + 0.6 (1 - normalised 3-D Hausdorff distance).

Its code was never published. There are two reconstructions of the distance, and both are here:
diag: of each class, between the borders of the masks, in voxels, over the diagonal of the volume (MONAI; first place);
unit_cube: of all classes as one, between all voxels, in a volume of side 1, over sqrt(3) (mle-bench).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segkit.data.manifest import Case
from segkit.metrics import NAN, Array, Statistic
from segkit.metrics.overlap import as_number, told
from segkit.metrics.surface import border, nearest_distance, surface_distances

W_DICE, W_DISTANCE = 0.4, 0.6
HOPELESS = 10
"""mle-bench measures no distance where more than so many times the true voxels are predicted: it is 1."""


@dataclass(frozen=True)
class UWMadison:
    """uw_dice: mean over the slices of a volume and class; uw_hausdorff: 0..1; uw_score of both.

    `both_empty`: Dice of a slice in which a class is neither true nor predicted. None leaves it out (the host's word in
    Kaggle's discussion 324934), 0 is the literal text of the rules. The challenge weighs slices equally, the mean over
    rows of this metric volumes and classes: `pooled_score` makes its number.
    """

    hd: Literal["diag", "unit_cube"] = "diag"
    both_empty: float | None = None

    names = ("uw_dice", "uw_hausdorff", "uw_score")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        dice = f"slice with both empty {told(self.both_empty)}"
        distance = f"hd {self.hd}, one side empty = 1, both empty " + ("= 0" if self.hd == "diag" else "left out")
        return tuple(Statistic(*pair) for pair in zip(self.names, self.names, (dice, distance, f"{dice}; {distance}"), strict=True))

    def __call__(self, pred: Array, truth: Array, case: Case) -> list[dict[str, float]]:
        dices = [mean_of_known(slice_dice(p, t, self.both_empty)) for p, t in zip(pred, truth, strict=True)]
        rows = zip(dices, self.distances(pred, truth), strict=True)
        return [dict(zip(self.names, (d, h, weighted(d, h)), strict=True)) for d, h in rows]

    def distances(self, pred: Array, truth: Array) -> list[float]:
        """Of each class; with unit_cube the one of their union."""
        if self.hd == "diag":
            return [hausdorff_diag(p, t) for p, t in zip(pred, truth, strict=True)]
        return [hausdorff_unit_cube(np.any(pred, axis=0), np.any(truth, axis=0))] * len(pred)


def pooled_score(dices: Iterable[float], distances: Iterable[float]) -> float:
    """The challenge's number: of Dice by slice and class, and of distances by volume (and class). NaN is left out."""
    return weighted(mean_of_known(np.array([*dices])), mean_of_known(np.array([*distances])))


def weighted(dice: float, distance: float) -> float:
    return W_DICE * dice + W_DISTANCE * (1 - distance)


def mean_of_known(values: Array) -> float:
    known = values[values == values]
    return float(known.mean()) if known.size else NAN


def slice_dice(pred: Array, truth: Array, both_empty: float | None = None) -> Array:
    """bool (D, H, W) -> (D,)."""
    common, total = (pred & truth).sum(axis=(1, 2)), pred.sum(axis=(1, 2)) + truth.sum(axis=(1, 2))
    return np.where(total > 0, 2 * common / np.maximum(total, 1), as_number(both_empty))


def hausdorff_diag(pred: Array, truth: Array) -> float:
    """bool (D, H, W) of one class. Both empty: 0, one empty: 1."""
    found, there = bool(pred.any()), bool(truth.any())
    if not (found and there):
        return float(found or there)
    distances = np.concatenate(surface_distances(pred, truth, (1.0,) * truth.ndim))
    return min(1.0, float(distances.max() / np.linalg.norm(truth.shape)))


def hausdorff_unit_cube(pred: Array, truth: Array) -> float:
    """bool (D, H, W) of all classes. Both empty: NaN, one empty: 1."""
    n_pred, n_truth = int(pred.sum()), int(truth.sum())
    if not (n_pred or n_truth):
        return NAN
    if not (n_pred and n_truth) or n_pred > HOPELESS * n_truth:
        return 1.0
    return max(farthest(pred, truth), farthest(truth, pred)) / float(np.sqrt(truth.ndim))


def farthest(mask: Array, other: Array) -> float:
    """Largest distance from a voxel of `mask` to the nearest of `other`, whose nearest voxel always lies on its border."""
    outside = np.argwhere(mask & ~other) / mask.shape
    return float(nearest_distance(outside, np.argwhere(border(other)) / mask.shape).max()) if len(outside) else 0.0
