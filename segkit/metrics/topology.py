"""Are cells told apart? Rand and information scores of ISBI 2012 (Arganda-Carreras et al., Front. Neuroanat. 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array

from segkit.data.case import Case
from segkit.metrics import NAN, Array, Statistic
from segkit.system.errors import SegkitError


@dataclass(frozen=True)
class CellScores:
    """Judges the partition of an image (H, W) into cells, which pixel scores hardly notice: one gap in a membrane joins two.

    Cells are what membranes part (4-connected). The class of the mask is `of` the cells or the membranes. p_ij is the share
    of pixels that lie in cell i of the truth and cell j of the prediction, s and t its margins:
    v_rand = sum p_ij^2 / (sum s^2 + sum t^2) * 2, and adapted_rand_error = 1 - v_rand;
    v_info = 2 I(s; t) / (H(s) + H(t)).

    Only pixels in cells of the truth count (foreground-restricted), so that the width of its membranes does not; those of
    the prediction are thinned to nothing, each pixel going to its nearest cell. The challenge leaves lines one pixel wide,
    which changes the scores by the few pixels of the lines.
    """

    of: Literal["cells", "membranes"]

    names = ("adapted_rand_error", "v_rand", "v_info")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        rule = "membranes thinned; no cell in truth = missing, none predicted = worst"
        return tuple(Statistic(name, name, rule) for name in self.names)

    def __call__(self, pred: Array, truth: Array, case: Case) -> dict[str, float]:
        if truth.ndim != 2:
            raise SegkitError(f"{case.id}: CellScores judges images and slices, not volumes;   add  ~metric.cases.NAME  with its name")
        cells_pred, cells_truth = (mask if self.of == "cells" else ~mask for mask in (pred, truth))
        if not cells_truth.any():
            return dict.fromkeys(self.names, NAN)
        if not cells_pred.any():
            return dict(zip(self.names, (1.0, 0.0, 0.0), strict=True))
        joint = contingency(numbered(cells_truth)[cells_truth], grown(numbered(cells_pred))[cells_truth])
        v_rand = rand_score(joint)
        return dict(zip(self.names, (1 - v_rand, v_rand, information_score(joint)), strict=True))


def numbered(cells: Array) -> Array:
    """Cells numbered from 1, 0 between them. Pixels that share a side belong together."""
    return np.asarray(ndimage.label(cells)[0])


def grown(cells: Array) -> Array:
    """Every pixel between cells gets the number of the nearest."""
    index = ndimage.distance_transform_edt(cells == 0, return_distances=False, return_indices=True)
    return np.asarray(cells[tuple(index)])


def contingency(truth: Array, pred: Array) -> coo_array:
    """The share of pixels with each pair of numbers. Both (N,)."""
    table = coo_array((np.ones(truth.size), (truth, pred)))
    table.sum_duplicates()
    return table / truth.size


def margins(joint: coo_array) -> tuple[Array, Array]:
    return np.asarray(joint.sum(axis=1)).ravel(), np.asarray(joint.sum(axis=0)).ravel()


def rand_score(joint: coo_array) -> float:
    """Harmonic mean of the chances that two pixels of one cell are together in the other partition as well."""
    s, t = margins(joint)
    return min(1.0, float(2 * np.sum(joint.data**2) / (np.sum(s**2) + np.sum(t**2))))


def information_score(joint: coo_array) -> float:
    """1 where both partitions are one single cell, which tell nothing and agree."""
    s, t = margins(joint)
    information = entropy(s) + entropy(t) - entropy(joint.data)
    total = entropy(s) + entropy(t)
    return min(1.0, float(2 * information / total)) if total > 0 else 1.0


def entropy(shares: Array) -> float:
    known = shares[shares > 0]
    return float(-np.sum(known * np.log(known)))
