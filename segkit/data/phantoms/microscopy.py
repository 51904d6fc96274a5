"""Synthetic neural tissue in serial-section electron microscopy: dark membranes between pale cells.

Cells are the Voronoi regions of points in space, bent by a smooth field, so that they change slowly from slice to slice.
Membranes vary in width and in contrast, and smear where they lie oblique in the section. Mitochondria inside the cells are as
dark as membranes, and cytoplasm is grainy: a threshold finds dark things, not membranes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from segkit.data.phantoms.base import Array, Floats, Random, blurred, field, seeded, without_specks
from segkit.system.progress import track

SHAPE = (128, 128)
STEP = 2.5
"""Distance of two slices, in pixels. True stacks have 12.5, and cells that are longer than wide."""
STRETCH = 2.5
"""Membranes stand so much steeper in the section than in a Voronoi diagram of round cells."""
CELL = 24.0
"""Usual diameter of a cell, in pixels."""
REACH = 20.0
"""Points lie so far beyond the edges of the stack, in pixels, that cells there look like any others."""


@dataclass(frozen=True)
class Section:
    """One slice (H, W) uint8 and its membranes (H, W) bool."""

    image: Array
    membrane: Array


@dataclass(frozen=True)
class Tissue:
    """A block that sections are cut from. Lengths in pixels, places as z, y, x."""

    sites: KDTree
    tones: Floats
    """Brightness of each cell."""
    bend: Floats
    """(2, H, W): displacement of rows and columns."""
    width: Floats
    """(H, W): half width of the membranes."""
    mitochondria: Floats
    """(N, 6): center and radii."""


def sections(n: int, seed: int, step: int = 1) -> Iterator[Section]:
    """Yield `n` slices of one stack, every `step`-th."""
    tissue = _tissue(seeded(seed, 0), depth=n * step * STEP)
    for i in track(range(n), "drawing", total=n):
        yield _section(seeded(seed, i + 1), tissue, i * step * STEP)


def _tissue(random: Random, depth: float) -> Tissue:
    size = np.array([depth, *SHAPE]) + 2 * REACH
    sites = random.uniform(0, 1, (int(size.prod() / CELL**3), 3)) * size - REACH
    with_one = sites[random.uniform(size=len(sites)) < 0.7]
    return Tissue(
        sites=KDTree(sites),
        tones=random.normal(0.66, 0.05, len(sites)).astype(np.float32),
        bend=np.stack([3.0 * field(random, SHAPE, 9) for _ in range(2)]),
        width=np.clip(1.45 + 0.35 * field(random, SHAPE, 8), 1.0, 2.6),
        mitochondria=np.concatenate([with_one, random.uniform(3.0, 10.0, with_one.shape)], axis=1).astype(np.float32),
    )


def _section(random: Random, tissue: Tissue, z: float) -> Section:
    distance, cell, place = _cells(tissue, z)
    membrane = ~without_specks(~without_specks(distance < tissue.width))
    tone = tissue.tones[cell]
    for one in tissue.mitochondria[np.abs(tissue.mitochondria[:, 0] - z) < tissue.mitochondria[:, 3]]:
        radius = np.sqrt((((place - one[:3, None, None]) / one[3:, None, None]) ** 2).sum(axis=0))
        inside = (radius < 1) & (distance > 1.5 * tissue.width)
        tone[inside] = (0.40 - 0.14 * np.exp(-(((radius - 0.9) / 0.15) ** 2)))[inside]  # darker at the rim
    contrast = np.clip(0.40 + 0.09 * field(random, SHAPE, 7), 0.16, 0.55)
    tone = tone - contrast * np.exp(-((distance / (1.1 * tissue.width)) ** 2)) * (tone / 0.66)
    tone += 0.045 * field(random, SHAPE, 0.9) + 0.03 * field(random, SHAPE, 20) + random.normal(0, 0.02)
    noisy = blurred(tone, 0.6) + random.normal(0, 0.06, SHAPE)
    return Section(np.asarray(np.clip(np.round(255 * noisy), 0, 255), np.uint8), membrane)


def _cells(tissue: Tissue, z: float) -> tuple[Floats, Array, Floats]:
    """Distance of each pixel (H, W) to the nearest membrane, the number of its cell, and its place in the tissue (3, H, W)."""
    ys, xs = np.mgrid[: SHAPE[0], : SHAPE[1]] + np.cos(0.04 * z) * tissue.bend
    place = np.stack([np.full_like(ys, z), ys, xs])
    away, sites = tissue.sites.query(place.reshape(3, -1).T, k=4)
    points = tissue.sites.data[sites]
    apart = np.linalg.norm((points[:, 1:] - points[:, :1]) / (STRETCH, 1, 1), axis=-1)
    borders = (away[:, 1:] ** 2 - away[:, :1] ** 2) / (2 * apart)  # to the planes halfway between two points
    return borders.min(axis=1).reshape(SHAPE).astype(np.float32), sites[:, 0].reshape(SHAPE), place.astype(np.float32)
