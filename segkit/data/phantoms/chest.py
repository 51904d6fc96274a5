"""A synthetic chest on X-ray, with the outlines of bones that an annotator would draw.

Dark lungs lie beside the bright mediastinum; clavicles, posterior and anterior ribs cross. Vessels, shoulder blades
and folds of skin are as bright as ribs and belong to no class, so no threshold finds the bones. Not meant as anatomy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from segkit.data.io import polygons
from segkit.data.io.polygons import Shape
from segkit.data.phantoms.base import SIDES, Array, Floats, Random, field, seeded
from segkit.data.phantoms.xray import Points, bone, exposed, filled
from segkit.system.progress import track

CHEST = (192, 208)
"""Rows and columns."""
DENSITY = {"clavicle": 0.42, "posterior": 0.32, "anterior": 0.24}
LABELS = tuple(DENSITY)
POSTERIOR, ANTERIOR = 7, 5
"""Ribs of a side."""
_T = np.linspace(0, 1, 12)
"""Along a bone. Places: x from -1 to 1 (0 is the midline), y from 0 (top) to 1."""
_DISTRACTORS = (
    (8, (0.06, 0.15, 0.50, -1.3, 0.15, -0.12, 0.6), (0.15, 0.15, 0.50, 1.4, 0.42, 0.12, 1.8)),
    (1, (0.12, 0.62, 0.12, 1.20, 0.25, 0.05, 2.0), (0.22, 0.76, 0.20, 1.75, 0.40, 0.05, 4.5)),
    (1, (0.08, 0.20, 0.70, -0.4, 0.40, 0.10, 1.8), (0.14, 0.40, 0.85, 0.30, 0.60, 0.10, 3.2)),
)
"""Vessels from the hilum, the edge of the shoulder blade and a fold of skin: how many a side; least and greatest density, place,
angle, length, bend and half width."""
_TURN = np.linspace(0, 2 * np.pi, 60, endpoint=False)
"""Around an organ."""


@dataclass(frozen=True)
class Outline:
    """A closed outline of a bone or an organ, points (x, y) in pixels. Pieces of one bone share `group`."""

    label: str
    points: tuple[tuple[float, float], ...]
    group: int | None = None


@dataclass(frozen=True)
class Chest:
    """An image (H, W) uint8 and its bones; or, seen by another annotator, lungs, heart and clavicles by side."""

    image: Array
    bones: tuple[Outline, ...]
    organs: tuple[Outline, ...]

    def mask(self, label: str) -> Array:
        """All bones of a label (H, W), 0 and 1, as LabelMe fills their outlines."""
        shapes = ((Shape(label, "polygon", one.points), 1) for one in self.bones if one.label == label)
        return polygons.draw(shapes, *self.image.shape)


@dataclass(frozen=True)
class Patient:
    """How a patient stands before the film."""

    scale: float
    shift: Points

    def pixels(self, x: Array, y: Array) -> Points:
        """Places (n, 2) x, y in pixels."""
        return np.asarray(self.scale * np.stack([x * CHEST[1] / 2, (y - 0.5) * CHEST[0]], axis=1) + np.array(CHEST[::-1]) / 2 + self.shift)

    def ribbon(self, label: str, x: Array, y: Array, half: float, group: int | None = None) -> Outline:
        """A band along a curve, `half` pixels to each side."""
        center = self.pixels(x, y)
        along = np.gradient(center, axis=0)
        across = half * np.stack([-along[:, 1], along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
        return _outline(label, np.concatenate([center + across, (center - across)[::-1]]), group)


def _outline(label: str, pixels: Points, group: int | None = None) -> Outline:
    """On the image."""
    kept = np.clip(pixels, 0, (CHEST[1] - 1, CHEST[0] - 1)).round(1)
    return Outline(label, tuple((float(x), float(y)) for x, y in kept), group)


def chests(n: int, seed: int) -> Iterator[tuple[str, Chest]]:
    """Yield name and chest: person00, person01, …"""
    for i in track(range(n), "drawing", total=n):
        yield f"person{i:02d}", chest(seed, i)


def chest(seed: int, i: int) -> Chest:
    """Chest number `i` of the series `seed`."""
    random = seeded(seed, i)
    patient = Patient(random.uniform(0.88, 1.04), random.normal(0, 3, 2))
    bones = tuple(_bones(random, patient))
    organs, beam = _organs(random, patient)
    for density, thing in _distractors(random, patient):
        beam += density * filled(np.array(thing.points), CHEST)
    for one in bones:
        beam += DENSITY[one.label] * bone(random, filled(np.array(one.points), CHEST))
    clavicles = [replace(one, label=f"{side}_clavicle") for side, one in zip(("right", "left"), bones, strict=False)]
    return Chest(exposed(random, beam, noise=0.035), bones, (*organs, *clavicles))


def _bones(random: Random, patient: Patient) -> Iterator[Outline]:
    """Clavicles, then ribs: posterior ones fall away from the spine, anterior ones come back towards the sternum."""
    width, first, step = random.uniform(0.68, 0.80), random.uniform(0.15, 0.19), random.uniform(0.095, 0.105)
    walls = [width * (0.72 + 0.28 * np.sin(min(k + 1, 6) / 6 * np.pi / 2)) for k in range(POSTERIOR)]
    for side in SIDES:
        y = random.uniform(0.17, 0.21) - random.uniform(0.07, 0.12) * _T + random.uniform(0.015, 0.03) * np.sin(2 * np.pi * _T)
        yield patient.ribbon("clavicle", side * (0.08 + 0.70 * _T), y, random.uniform(2.6, 3.6))
    for side in SIDES:
        for k, wall in enumerate(walls):
            x, half = side * (0.11 + (wall - 0.11) * _T), random.uniform(2.4, 3.1)
            y = first + k * step - random.uniform(0, 0.03) * np.sin(np.pi * _T) + random.uniform(0.13, 0.17) * _T**2.4
            # behind the shoulder blade annotators stop, and go on: two pieces of one rib
            for piece in (slice(0, 7), slice(5, 12)) if k == 2 else (slice(None),):
                yield patient.ribbon("posterior", x[piece], y[piece], half, (side + 1) // 2 if k == 2 else None)
        for k, wall in enumerate(walls[1 : ANTERIOR + 1]):
            y = first + 0.10 + k * step + random.uniform(0.15, 0.20) * np.sin(np.pi / 2 * _T) ** 1.3
            yield patient.ribbon("anterior", side * (wall + (random.uniform(0.20, 0.32) - wall) * _T), y, random.uniform(2.8, 3.8))


def _organs(random: Random, patient: Patient) -> tuple[list[Outline], Floats]:
    """Heart and lungs, and what a beam meets without bones: trunk, mediastinum with the heart, and air in the lungs."""
    organs = [_outline("heart", patient.pixels(0.13 + 0.2 * np.cos(_TURN), 0.66 + 0.133 * np.sin(_TURN)))]
    ys, xs = np.mgrid[: CHEST[0], : CHEST[1]].astype(np.float32)
    x = (xs - CHEST[1] / 2 - patient.shift[0]) / (CHEST[1] / 2 * patient.scale)
    y = (ys - CHEST[0] / 2 - patient.shift[1]) / (CHEST[0] * patient.scale) + 0.5
    beam = 0.95 - 0.25 * x**2 + 0.06 * field(random, CHEST, 14) + 0.35 * np.exp(-((x / 0.13) ** 2))
    beam += 0.35 * np.exp(-(((x - 0.13) / 0.24) ** 2) - ((y - 0.66) / 0.16) ** 2)
    for side in SIDES:
        top, dome = random.uniform(0.12, 0.16), random.uniform(0.84, 0.92)
        u, v = (np.sign(part) * np.abs(part) ** (2 / 2.6) for part in (np.cos(_TURN), np.sin(_TURN)))
        down = (top + dome) / 2 + v * (dome - top) / 2
        lung = patient.pixels(side * (0.42 + (0.225 + 0.15 * down) * u), down)
        organs.append(_outline(f"{'left' if side > 0 else 'right'}_lung", lung))
        air = filled(np.array(organs[-1].points), CHEST)
        beam -= random.uniform(0.50, 0.62) * cv2.GaussianBlur(air, (0, 0), 3)
    return organs, np.asarray(beam * (1 - 0.9 * (np.abs(x) > 1)), np.float32)


def _distractors(random: Random, patient: Patient) -> Iterator[tuple[float, Outline]]:
    for side in SIDES:
        for count, low, high in _DISTRACTORS:
            for _ in range(count):
                density, x, y, angle, length, bend, half = random.uniform(low, high)
                down = y + length * np.sin(angle) * _T + bend * _T**2
                yield density, patient.ribbon("", side * (x + length * np.cos(angle) * _T), down, half)
