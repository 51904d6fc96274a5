"""What a data set is like, in numbers: what `segkit plan` decides by (after the fingerprint of nnU-Net, Isensee et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segkit.data.case import Manifest
from segkit.data.measures import PERCENTILES
from segkit.data.statistics import CaseFacts

LOW, HIGH = PERCENTILES.index(0.5), PERCENTILES.index(99.5)
CT_AIR = -500
"""Hounsfield units; images of other modalities hardly go below zero."""


@dataclass(frozen=True)
class Fingerprint:
    """Medians are over the labelled cases; shapes and spacings by axis, (slices,) rows, columns."""

    n: int
    groups: int
    dims: int
    is_sliced: bool
    """2-D images that are slices of volumes."""
    slices_per_volume: float
    shape: tuple[int, ...]
    smallest: tuple[int, ...]
    largest: tuple[int, ...]
    same_shape: bool
    aspect_spread: float
    """Largest over smallest ratio of columns to rows."""
    spacing_mm: tuple[float, ...]
    """Empty where it is not known of all."""
    spacing_spread: float
    """Largest over smallest spacing of the axis that varies most."""
    channels: int
    dtype: str
    is_ct: bool
    foreground: tuple[float, float]
    """0.5 and 99.5 % of the raw intensities inside structures, medians over cases."""
    pixel_share: Mapping[str, float]
    """Of all pixels, by class."""
    diameter_px: Mapping[str, float]
    """Of a disc or ball as large as the class is where it occurs, median over cases."""
    empty: float
    """Share of cases without any structure."""


def fingerprint(manifest: Manifest, facts: Mapping[str, CaseFacts]) -> Fingerprint:
    cases = [case for case in manifest if case.masks and not facts[case.id].errors]
    seen = [facts[case.id] for case in cases]
    shapes = np.array([f.shape for f in seen])
    counts = [f.class_pixels(manifest.labels) for f in seen]
    pixels = sum(math.prod(f.shape) for f in seen)
    spacings = np.array([case.pixel_mm for case in cases]) if all(case.pixel_mm for case in cases) else np.zeros((0, manifest.dims))
    aspects = shapes[:, -1] / shapes[:, -2]
    inside = [f.foreground_quantiles[0] for f in seen if f.foreground_quantiles]
    volumes = [case.volume for case in cases if case.volume]
    return Fingerprint(
        n=len(cases),
        groups=len({case.group_or_id for case in cases}),
        dims=manifest.dims,
        is_sliced=bool(volumes),
        slices_per_volume=len(volumes) / max(1, len(set(volumes))),
        shape=medians(shapes),
        smallest=tuple(int(v) for v in shapes.min(axis=0)),
        largest=tuple(int(v) for v in shapes.max(axis=0)),
        same_shape=bool((shapes == shapes[0]).all()),
        aspect_spread=float(aspects.max() / aspects.min()),
        spacing_mm=tuple(round(float(v), 4) for v in np.median(spacings, axis=0)) if len(spacings) else (),
        spacing_spread=float((spacings.max(axis=0) / spacings.min(axis=0)).max()) if len(spacings) else 1.0,
        channels=seen[0].channels,
        dtype=" and ".join(sorted({f.dtype for f in seen})),
        is_ct=bool(np.median([f.quantiles[0][0] for f in seen if f.quantiles] or [0]) < CT_AIR),
        foreground=(median([q[LOW] for q in inside]), median([q[HIGH] for q in inside])),
        pixel_share={name: sum(c[name] for c in counts) / max(1, pixels) for name in manifest.labels.classes},
        diameter_px={name: diameter([c[name] for c in counts if c[name]], manifest.dims) for name in manifest.labels.classes},
        empty=sum(not any(c.values()) for c in counts) / max(1, len(counts)),
    )


def medians(rows: np.ndarray) -> tuple[int, ...]:
    return tuple(int(v) for v in np.median(rows, axis=0))


def median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0


def diameter(pixels: Sequence[int], dims: int) -> float:
    """Of a disc of the median area, or a ball of the median volume."""
    if not pixels:
        return 0.0
    size = float(np.median(pixels))
    return float(2 * (size / math.pi) ** 0.5 if dims == 2 else 2 * (size * 3 / (4 * math.pi)) ** (1 / 3))
