"""Distances between surfaces: Hausdorff, its 95th percentile, their mean, and the share within a tolerance.

Definitions as in Maier-Hein, Reinke et al., "Metrics reloaded" (Nature Methods 2024); numbers agree with MONAI, or with
DeepMind's surface-distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from segkit.data.case import Case
from segkit.data.transforms.geometry import bounding_box, positions
from segkit.metrics.base import NAN, Array, Statistic
from segkit.system.errors import SegkitError

FAR = 95.0
"""Percentile that stands for the largest distance where single pixels shall not decide."""
PROJECTS = {"monai": "MONAI", "deepmind": "DeepMind's surface-distance"}
ROUNDING = 1 + 1e-9
"""Slack of a limit: multiples of 0.1 are not exact, and their differences depend on where an object lies."""


@dataclass(frozen=True)
class Surface:
    """Distances d from each border element of one mask to the nearest of the other, both ways.

    hd: the largest; hd95: the larger of the two 95th percentiles; assd: the mean; nsd (surface Dice): the share with
    d <= `tolerance`. Two definitions are in use, and differ by about a pixel:

    - monai: elements are border pixels, and each counts once, whatever area it stands for; assd is the mean of all.
    - deepmind: elements lie between pixels, where marching cubes puts the surface, and weigh by their area (length in 2-D),
      also in the percentile; assd is the mean of the two directions' means (Nikolov et al., JMIR 2021;
      github.com/google-deepmind/surface-distance). The table of areas is MONAI's copy of theirs: `pip install monai`.

    A missed or an invented object costs the diagonal of the image, more than any misplaced one could, so that a miss never
    improves a mean. How many there were is the mean of `missed` times its n: 1 where nothing was found of a structure that
    is in the target, and of `invented`: 1 where something was found of one that is not.

    Args:
        tolerance: of nsd, in `unit`.
        unit: px is for images whose pixel size is not known; with mm their distances are missing.
        both_empty: whether a case where both masks are empty is left out, or has distance 0 and nsd 1.
        definition: whose definition: monai, or deepmind.

    Raises:
        SegkitError: definition=deepmind, and MONAI is not installed.
    """

    tolerance: float = 2.0
    unit: Literal["mm", "px"] = "mm"
    both_empty: Literal["left out", "perfect"] = "left out"
    definition: Literal["monai", "deepmind"] = "monai"

    def __post_init__(self) -> None:
        if self.definition == "deepmind" and find_spec("monai") is None:
            raise SegkitError("Surface: definition=deepmind needs MONAI's table of surface areas;   pip install monai")

    @property
    def names(self) -> tuple[str, ...]:
        return *(f"{name}_{self.unit}" for name in ("hd", "hd95", "assd")), f"nsd_{self.tolerance:g}{self.unit}", "missed", "invented"

    @property
    def rule(self) -> str:
        unknown = "; pixel size unknown = missing" if self.unit == "mm" else ""
        return f"as {PROJECTS[self.definition]} defines it; one side empty = image diagonal (nsd 0), both empty {self.both_empty}{unknown}"

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        *distances, missed, invented = self.names
        flags = (Statistic(missed, missed, "share of cases with truth"), Statistic(invented, invented, "share of cases without truth"))
        return *(Statistic(name, name, self.rule) for name in distances), *flags

    def __call__(self, pred: Array, target: Array, case: Case) -> dict[str, float]:
        found, there = bool(pred.any()), bool(target.any())
        missed, invented = (NAN if not there else float(not found)), (NAN if there else float(found))
        return dict(zip(self.names, (*self.distances(pred, target, case.pixel_mm), missed, invented), strict=True))

    def distances(self, pred: Array, target: Array, pixel_mm: tuple[float, ...]) -> tuple[float, float, float, float]:
        """hd, hd95, assd and nsd of two masks (*S)."""
        n_empty = 2 - int(pred.any()) - int(target.any())
        if n_empty == 2:
            return (NAN,) * 4 if self.both_empty == "left out" else (0.0, 0.0, 0.0, 1.0)
        spacing = pixel_mm if self.unit == "mm" else (1.0,) * target.ndim
        if len(spacing) != target.ndim:
            return (NAN,) * 4
        if n_empty:
            diagonal = float(np.linalg.norm(np.multiply(target.shape, spacing)))
            return diagonal, diagonal, diagonal, 0.0
        if self.definition == "deepmind":
            return self.weighted_by_area(pred, target, spacing)
        there, back = surface_distances(pred, target, spacing)
        both = np.concatenate([there, back])
        hd95 = max(np.percentile(there, FAR), np.percentile(back, FAR))
        return float(both.max()), float(hd95), float(both.mean()), float((both <= self.tolerance * ROUNDING).mean())

    def weighted_by_area(self, pred: Array, target: Array, spacing: tuple[float, ...]) -> tuple[float, float, float, float]:
        """hd, hd95, assd and nsd by DeepMind's definition. Neither mask may be empty."""
        points, areas = zip(*(surface_elements(mask, spacing) for mask in (pred, target)), strict=True)
        there, back = nearest_distance(points[0], points[1]), nearest_distance(points[1], points[0])
        hd95 = max(weighted_percentile(d, area) for d, area in zip((there, back), areas, strict=True))
        assd = np.mean([np.average(d, weights=area) for d, area in zip((there, back), areas, strict=True)])
        both, area = np.concatenate([there, back]), np.concatenate(areas)
        within = float(area[both <= self.tolerance * ROUNDING].sum() / area.sum())
        return float(both.max()), float(hd95), float(assd), within


def surface_elements(mask: Array, spacing: tuple[float, ...]) -> tuple[Array, Array]:
    """Where the surface of a mask (*S) runs between its pixels, (N, D) in the unit of `spacing`, and the area of each element, (N,)."""
    from monai.metrics.utils import get_code_to_measure_table

    box = tuple(slice(*side) for side in bounding_box(mask) or ())
    areas, kernel = get_code_to_measure_table(spacing)  # type: ignore[no-untyped-call]
    powers = kernel.numpy().reshape((2,) * mask.ndim).astype(int)
    padded = np.pad(mask[box], 1).astype(int)
    codes = sum(
        power * padded[tuple(slice(i, i + n - 1) for i, n in zip(at, padded.shape, strict=True))] for at, power in np.ndenumerate(powers)
    )
    on_surface = (codes > 0) & (codes < powers.sum())
    corner = np.array([side.start for side in box])
    return (positions(on_surface) + corner) * spacing, areas.numpy()[codes[on_surface]].astype(float)


def weighted_percentile(distances: Array, areas: Array) -> float:
    """The distance within which FAR percent of the area lies."""
    order = np.lexsort((areas, distances))
    reached = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order][min(int(np.searchsorted(reached, FAR / 100)), len(order) - 1)])


def surface_distances(pred: Array, target: Array, spacing: tuple[float, ...]) -> tuple[Array, Array]:
    """From each border pixel of `pred` to the border of `target`, (N,), and back, (M,). Neither mask may be empty.

    A tree of the border pixels: its cost grows with the surface, that of a distance map with the volume.
    """
    box = tuple(slice(*side) for side in bounding_box(pred | target) or ())
    a, b = (positions(border(mask[box])) * spacing for mask in (pred, target))
    return nearest_distance(a, b), nearest_distance(b, a)


def nearest_distance(points: Array, others: Array) -> Array:
    """From each of (N, D) points to the nearest of the others (M, D)."""
    # Pixels of a grid split well in the middle; looking for medians would only take time.
    tree = cKDTree(others, balanced_tree=False, compact_nodes=False)
    return np.asarray(tree.query(points)[0])


def border(mask: Array) -> Array:
    """The pixels of a bool mask (*S) with a neighbor outside, across a face; what lies beyond the array is outside."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        here, lower, upper = (np.moveaxis(array, axis, 0) for array in (inside, mask, mask))
        here[1:] &= lower[:-1]
        here[:-1] &= upper[1:]
        here[[0, -1]] = False
    return mask & ~inside
