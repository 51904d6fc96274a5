"""Chest radiographs that look a little like chest radiographs, with outlines of the bones that an annotator would draw.

Dark lungs beside the bright mediastinum; posterior ribs that fall away from the spine, anterior ribs that come back towards
the sternum and cross them, and clavicles over both. Vessels, shoulder blades, vertebrae and a cable are as bright as ribs
and belong to nobody, so that no threshold on brightness finds them. Nothing here is meant to be anatomy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segkit.data.io import polygons
from segkit.data.io.polygons import Shape
from segkit.system.progress import track

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Random = np.random.Generator

ROWS, COLUMNS = 192, 208
LABELS = ("clavicle", "posterior", "anterior")
SIDES = (-1, 1)
SIDE = {-1: "right", 1: "left"}
"""Of the patient, who faces the reader."""
POSTERIOR, ANTERIOR = 7, 5
"""Ribs of a side."""
_FINE = 4
"""Sub-pixels along an axis, for edges that are neither black nor white."""

Curve = Callable[[Floats], tuple[Floats, Floats]]
"""Of t in 0 … 1: x from -1 to 1 (0 is the midline), y from 0 (top) to 1."""


@dataclass(frozen=True)
class Bone:
    """A closed outline, points (x, y) in pixels; of an organ as well. Pieces of one bone share `group`."""

    label: str
    points: tuple[tuple[float, float], ...]
    group: int | None = None


@dataclass(frozen=True)
class Drawing:
    """An image (H, W) uint8 and its bones; or, seen by another annotator, lungs, heart and clavicles by side."""

    image: Array
    bones: tuple[Bone, ...]
    organs: tuple[Bone, ...] = ()

    def mask(self, label: str) -> Array:
        """All bones of a label: 0 and 1, as LabelMe fills their outlines."""
        shapes = ((Shape(label, "polygon", bone.points), 1) for bone in self.bones if bone.label == label)
        return polygons.draw(shapes, *self.image.shape)


@dataclass(frozen=True)
class Pose:
    """How the patient stands before the film."""

    scale: float
    angle: float
    shift: tuple[float, float]

    @classmethod
    def draw(cls, random: Random) -> Pose:
        x, y = random.normal(0, 3, 2)
        return cls(float(random.uniform(0.88, 1.04)), float(random.normal(0, 0.04)), (float(x), float(y)))

    def __call__(self, x: Floats, y: Floats) -> Array:
        """Pixels (n, 2) of places."""
        u, v = x * COLUMNS / 2 * self.scale, (y - 0.5) * ROWS * self.scale
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = np.stack([cos * u - sin * v, sin * u + cos * v], axis=1)
        return np.asarray(turned + np.array([COLUMNS / 2 + self.shift[0], ROWS / 2 + self.shift[1]]))


def drawings(n: int, seed: int) -> Iterator[tuple[str, Drawing]]:
    """(name, drawing), names person00, person01, …: an image of each."""
    for i in track(range(n), "drawing", total=n):
        yield f"person{i:02d}", draw(seed, i)


def draw(seed: int, i: int) -> Drawing:
    """Drawing number `i` of the series `seed`; the same bytes every time."""
    random = np.random.Generator(np.random.PCG64([seed, i]))
    pose = Pose.draw(random)
    bones = tuple(_bones(random, pose))
    beam, organs = _soft_tissue(random, pose)
    beam += _distractors(random, pose)
    for label, density in zip(LABELS, (0.20, 0.15, 0.11), strict=True):
        whole: dict[int, Floats] = {}
        for number, bone in enumerate(b for b in bones if b.label == label):
            key = bone.group if bone.group is not None else -1 - number
            whole[key] = np.maximum(whole.get(key, np.float32(0)), _area(bone.points))
        beam += sum((_bone(random, area, density) for area in whole.values()), np.zeros_like(beam))
    clavicles = [replace(bone, label=f"{SIDE[side]}_clavicle") for side, bone in zip(SIDES, bones, strict=False)]  # bones begin with them
    return Drawing(_exposed(random, beam), bones, (*organs, *clavicles))


# bones


def _bones(random: Random, pose: Pose) -> Iterator[Bone]:
    width, first, step = random.uniform(0.68, 0.80), random.uniform(0.15, 0.19), random.uniform(0.095, 0.105)
    for side in SIDES:
        yield Bone("clavicle", _ribbon(pose, _clavicle(random, side), random.uniform(2.6, 3.6)))
    for side in SIDES:
        for k in range(POSTERIOR):
            curve, half = _posterior(random, side, first + k * step, _wall(k, width)), random.uniform(2.4, 3.1)
            if k == 2:  # behind the shoulder blade annotators stop, and go on: two pieces of one rib
                for begin, end in ((0.0, 0.5), (0.44, 1.0)):
                    yield Bone("posterior", _ribbon(pose, curve, half, begin, end), group=(side + 1) // 2)
            else:
                yield Bone("posterior", _ribbon(pose, curve, half))
        for k in range(ANTERIOR):
            start = first + 0.10 + k * step
            yield Bone("anterior", _ribbon(pose, _anterior(random, side, start, _wall(k + 1, width)), random.uniform(2.8, 3.8)))


def _wall(k: int, width: float) -> float:
    """Half the width of the chest at rib `k`."""
    return float(width * (0.72 + 0.28 * np.sin(min(k + 1, 6) / 6 * np.pi / 2)))


def _posterior(random: Random, side: int, y: float, wall: float) -> Curve:
    """From the spine outwards, ever steeper down."""
    fall, rise = random.uniform(0.13, 0.17), random.uniform(0.0, 0.03)
    return lambda t: (side * (0.11 + (wall - 0.11) * t), y - rise * np.sin(np.pi * t) + fall * t**2.4)


def _anterior(random: Random, side: int, y: float, wall: float) -> Curve:
    """From the wall of the chest inwards and down, to where cartilage begins."""
    fall, end = random.uniform(0.15, 0.20), random.uniform(0.20, 0.32)
    return lambda t: (side * (wall + (end - wall) * t), y + fall * np.sin(np.pi / 2 * t) ** 1.3)


def _clavicle(random: Random, side: int) -> Curve:
    """An S from the sternum to the shoulder."""
    y, rise, bend = random.uniform(0.17, 0.21), random.uniform(0.07, 0.12), random.uniform(0.015, 0.03)
    return lambda t: (side * (0.08 + 0.70 * t), y - rise * t + bend * np.sin(2 * np.pi * t))


def _ribbon(pose: Pose, curve: Curve, half: float, begin: float = 0.0, end: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Outline of a band along a curve, `half` pixels to each side, kept on the image."""
    centre = pose(*curve(np.linspace(begin, end, 12, dtype=np.float32)))
    along = np.gradient(centre, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
    outline = np.concatenate([centre + half * across, (centre - half * across)[::-1]])
    kept = np.clip(outline, 0, (COLUMNS - 1, ROWS - 1)).round(1)
    return tuple((float(x), float(y)) for x, y in kept)


def _area(points: tuple[tuple[float, float], ...]) -> Floats:
    """The share of each pixel that lies inside, blurred a little as by the beam."""
    fine = tuple(((x + 0.5) * _FINE - 0.5, (y + 0.5) * _FINE - 0.5) for x, y in points)
    filled = polygons.draw([(Shape("", "polygon", fine), 1)], ROWS * _FINE, COLUMNS * _FINE)
    return np.asarray(cv2.resize(filled.astype(np.float32), (COLUMNS, ROWS), interpolation=cv2.INTER_AREA), np.float32)


def _bone(random: Random, area: Floats, density: float) -> Floats:
    """Spongy inside, denser cortex."""
    cortex = np.maximum(area - cv2.GaussianBlur(area, (0, 0), 1.5), 0)
    spongy = cv2.GaussianBlur(area, (0, 0), 0.6) * (1 + 0.15 * _field(random, 2))
    return np.asarray(random.uniform(0.85, 1.15) * density * (spongy + 0.9 * cortex), np.float32)


# everything else


def _soft_tissue(random: Random, pose: Pose) -> tuple[Floats, list[Bone]]:
    """What a beam meets without bones: trunk, mediastinum with the heart, diaphragm, and air in the lungs; outlines of these."""
    organs = [_outline("heart", pose, lambda cos, sin: (0.13 + 0.2 * cos, 0.66 + 0.133 * sin))]
    ys, xs = np.mgrid[:ROWS, :COLUMNS].astype(np.float32)
    x = (xs - COLUMNS / 2 - pose.shift[0]) / (COLUMNS / 2 * pose.scale)
    y = (ys - ROWS / 2 - pose.shift[1]) / (ROWS * pose.scale) + 0.5
    beam = 0.95 - 0.25 * x**2 + 0.06 * _field(random, 14)
    beam += 0.35 * np.exp(-((x / 0.13) ** 2)) + 0.35 * np.exp(-(((x - 0.13) / 0.24) ** 2) - ((y - 0.66) / 0.16) ** 2)
    for side in SIDES:
        top, dome = random.uniform(0.12, 0.16), random.uniform(0.84, 0.92)
        u = (x * side - 0.42) / (0.30 * (0.75 + 0.5 * np.clip(y, 0, 1)))
        v = (y - (top + dome) / 2) / ((dome - top) / 2)
        beam -= random.uniform(0.50, 0.62) * _soft(1 - (np.abs(u) ** 2.6 + np.abs(v) ** 2.6), 0.12)
        organs.append(_outline(f"{SIDE[side]}_lung", pose, _lung(side, top, dome)))
    return np.asarray(beam * (1 - 0.9 * _soft(np.abs(x) - 1.0, 0.03)), np.float32), organs


def _lung(side: int, top: float, dome: float) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The curve |u|^2.6 + |v|^2.6 = 1 of the air that `_soft_tissue` takes away."""

    def place(cos: Array, sin: Array) -> tuple[Array, Array]:
        u, v = (np.sign(part) * np.abs(part) ** (2 / 2.6) for part in (cos, sin))
        y = (top + dome) / 2 + v * (dome - top) / 2
        return side * (0.42 + 0.30 * (0.75 + 0.5 * np.clip(y, 0, 1)) * u), y

    return place


def _outline(label: str, pose: Pose, place: Callable[[Array, Array], tuple[Array, Array]]) -> Bone:
    """A closed curve of cosine and sine, on the image; soft tissue is shifted and scaled with the patient, not turned."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x, y = place(np.cos(angles), np.sin(angles))
    columns = np.clip(x * COLUMNS / 2 * pose.scale + COLUMNS / 2 + pose.shift[0], 0, COLUMNS - 1).round(1)
    rows = np.clip((y - 0.5) * ROWS * pose.scale + ROWS / 2 + pose.shift[1], 0, ROWS - 1).round(1)
    return Bone(label, tuple((float(c), float(r)) for c, r in zip(columns, rows, strict=True)))


def _distractors(random: Random, pose: Pose) -> Floats:
    """Bright as ribs: vessels from the hilum, edges of the shoulder blades, vertebrae, a cable, folds of skin."""
    beam = np.zeros((ROWS, COLUMNS), np.float32)
    for side in SIDES:
        for _ in range(random.integers(6, 10)):
            angle, length, bend = random.uniform(-1.3, 1.4), random.uniform(0.15, 0.42), random.uniform(-0.12, 0.12)
            vessel = _ray(side, 0.15, 0.50, angle, length, bend)
            beam += random.uniform(0.06, 0.15) * _area(_ribbon(pose, vessel, random.uniform(0.6, 1.8)))
        blade = _ray(
            side, random.uniform(0.62, 0.76), random.uniform(0.12, 0.20), random.uniform(1.2, 1.75), random.uniform(0.25, 0.4), 0.05
        )
        beam += random.uniform(0.12, 0.22) * _area(_ribbon(pose, blade, random.uniform(2.0, 4.5)))
        fold = _ray(side, random.uniform(0.2, 0.4), random.uniform(0.70, 0.85), random.uniform(-0.4, 0.3), random.uniform(0.4, 0.6), 0.10)
        beam += random.uniform(0.08, 0.14) * _area(_ribbon(pose, fold, random.uniform(1.8, 3.2)))
    for y in np.arange(0.08, 0.95, 0.085):
        beam += 0.10 * _area(_ribbon(pose, _ray(1, -0.08, float(y), 0.0, 0.16, 0.0), 4.0))
    cable = _ray(1, random.uniform(-0.7, 0.0), random.uniform(0.0, 0.3), random.uniform(0.2, 1.2), 0.9, random.uniform(-0.2, 0.2))
    return np.asarray(beam + 0.25 * _area(_ribbon(pose, cable, 0.6)), np.float32)


def _ray(side: int, x: float, y: float, angle: float, length: float, bend: float) -> Curve:
    """From a place outwards, `angle` radians below the horizontal."""
    return lambda t: (side * (x + length * np.cos(angle) * t), y + length * np.sin(angle) * t + bend * t**2)


def _exposed(random: Random, beam: Floats) -> Array:
    """Vignetting, blur, grain and the film's own curve, to uint8."""
    ys, xs = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    place = random.normal(0, 0.2, 2)
    shaded = beam * (1 - random.uniform(0.10, 0.22) * ((xs - place[0]) ** 2 + (ys - place[1]) ** 2))
    film = cv2.GaussianBlur(shaded, (0, 0), random.uniform(0.5, 0.8)) + random.normal(0, 0.035, beam.shape)
    low, high = np.percentile(film, (0.5, 99.5))
    grey = 255 * np.clip((film - low) / (high - low), 0, 1) ** random.uniform(0.8, 1.15)
    image = np.asarray(np.round(grey), np.uint8)
    corner = (int(random.integers(3, 10)), int(random.integers(14, 22)))
    cv2.putText(image, str(random.choice(["R", "RE", "PA"])), corner, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 250, 1, cv2.LINE_AA)
    return image


def _soft(value: Array, width: float) -> Array:
    """0 below zero, 1 above, without a sharp edge."""
    return np.asarray(1 / (1 + np.exp(-np.clip(value / width, -40, 40))))


def _field(random: Random, scale: float) -> Floats:
    """Smooth noise of standard deviation 1."""
    noise = cv2.GaussianBlur(random.normal(size=(ROWS, COLUMNS)).astype(np.float32), (0, 0), scale)
    return np.asarray(noise / noise.std(), np.float32)
