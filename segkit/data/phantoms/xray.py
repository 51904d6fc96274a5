"""A synthetic pelvis on X-ray: bones in one another's shadow, seen from the front.

Attenuations add up along the beam (Lambert and Beer), so iliac wings, pubic rings and femora stand among sacrum, spine and
ischium of the same brightness, under bowel gas and folds of soft tissue: a threshold finds bone, not which bone. `radiograph`
labels six structures that exclude each other; `projections` breaks sacrum and hip bones into fragments that overlap, and
shows them from several directions. Outlines are in units of half the image, u to the right and v down, for one side; the
other side is their mirror image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segkit.system.progress import track

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Random = np.random.Generator
Points = npt.NDArray[np.float64]
Planes = dict[tuple[int, int], Array]

ROWS, COLUMNS = 160, 176
SIDES = (-1, 1)
"""Left and right in the image: the patient's right and left."""
FEMUR, ILIUM, FORAMEN, PUBIS, ROOF, TEARDROP = range(1, 7)
SACRUM, LEFT_HIP, RIGHT_HIP = range(1, 4)
MOST_VIEWS = 5
SPECK = 12
"""Pixels: pieces that are smaller are not labelled."""

_WING = [
    (0.22, -0.38),
    (0.26, -0.60),
    (0.42, -0.80),
    (0.62, -0.86),
    (0.82, -0.74),
    (0.90, -0.54),
    (0.84, -0.36),
    (0.74, -0.20),
    (0.76, -0.02),
    (0.62, 0.02),
    (0.46, 0.08),
    (0.36, -0.04),
    (0.30, -0.18),
]
_RING = [
    (0.36, 0.00),
    (0.54, 0.04),
    (0.58, 0.30),
    (0.52, 0.54),
    (0.42, 0.70),
    (0.30, 0.68),
    (0.20, 0.60),
    (0.10, 0.56),
    (0.03, 0.48),
    (0.03, 0.26),
    (0.12, 0.20),
    (0.26, 0.18),
]
_FORAMEN = [(0.15, 0.36), (0.24, 0.29), (0.36, 0.29), (0.44, 0.38), (0.42, 0.50), (0.33, 0.56), (0.22, 0.53), (0.15, 0.46)]
_BODY = [(-0.02, 0.10), (0.18, 0.10), (0.21, 0.40), (0.17, 0.70), (-0.02, 0.70)]
_CREST = [(0.0, -1.3), (1.4, -1.3), (1.4, -0.30), (0.80, -0.36), (0.55, -0.48), (0.20, -0.42), (0.0, -0.42)]
_SHAFT = [
    (0.57, 0.24),
    (0.64, 0.06),
    (0.80, 0.15),
    (0.90, 0.08),
    (0.97, 0.24),
    (0.93, 0.50),
    (0.91, 1.3),
    (0.76, 1.3),
    (0.77, 0.60),
    (0.72, 0.42),
    (0.66, 0.33),
]
_TEARDROP = [(0.40, 0.10), (0.395, 0.19), (0.42, 0.27), (0.46, 0.25), (0.47, 0.14)]
_SACRUM = [
    (-0.34, -0.46),
    (0.0, -0.54),
    (0.34, -0.46),
    (0.30, -0.24),
    (0.15, -0.02),
    (0.05, 0.14),
    (-0.05, 0.14),
    (-0.15, -0.02),
    (-0.30, -0.24),
]
_VERTEBRA = [(-0.21, -0.14), (0.21, -0.14), (0.21, 0.13), (-0.21, 0.13)]
_PROCESSES = [(-0.36, -0.03), (0.36, -0.03), (0.36, 0.04), (-0.36, 0.04)]
_COCCYX = [(-0.04, 0.14), (0.04, 0.14), (0.02, 0.24), (-0.02, 0.24)]
_HEAD, _HEAD_RADIUS, _ROOF_RADIUS = np.array((0.60, 0.16)), 0.135, 0.175


@dataclass(frozen=True)
class Radiograph:
    """`image` (H, W) uint8, bone bright; `labels` (H, W) uint8, 1 femur to 6 teardrop, each of both sides."""

    image: Array
    labels: Array


@dataclass(frozen=True)
class Projection:
    """`image` (H, W) float32, what reaches the detector, bone dark; `fragments` (category, fragment) -> (H, W) bool."""

    image: Array
    fragments: Planes


@dataclass(frozen=True)
class Pose:
    """From outlines to pixels: waves that make each pelvis its own, then an affine map of the view."""

    waves: tuple[tuple[float, ...], ...]
    affine: Points

    @classmethod
    def draw(cls, anatomy: Random, view: Random, turn: float) -> Pose:
        """`turn`: how far views leave the straight one; shear and foreshortening in these units, rotation in radians."""
        waves = tuple(tuple(anatomy.uniform((-0.02, -0.02, -4, -4, 0), (0.02, 0.02, 4, 4, 6.3))) for _ in range(5))
        angle, size = view.normal(0, turn / 3), view.uniform(0.88, 0.98)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shape = np.array([[1 - abs(view.normal(0, turn)), view.normal(0, turn / 2)], [0, 1 - abs(view.normal(0, turn / 2))]])
        half = np.diag([COLUMNS / 2, ROWS / 2])
        shift = np.array([COLUMNS / 2, ROWS / 2]) + view.normal(0, 2.5, 2)
        return cls(waves, np.column_stack([size * half @ rotation @ shape, shift]))

    def pixels(self, points: Points) -> Points:
        """(N, 2) u, v -> (N, 2) x, y."""
        moved = points + sum(np.outer(np.sin(points @ w[2:4] + w[4]), w[:2]) for w in map(np.array, self.waves))
        return np.asarray(moved @ self.affine[:, :2].T + self.affine[:, 2])

    def area(self, points: Points) -> Floats:
        """How much of each pixel lies inside a closed outline: 0 to 1."""
        canvas = np.zeros((ROWS, COLUMNS), np.uint8)
        cv2.fillPoly(canvas, [np.round(self.pixels(points) * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
        return np.asarray(canvas / np.float32(255), np.float32)

    def line(self, points: Points, width: int) -> Floats:
        canvas = np.zeros((ROWS, COLUMNS), np.uint8)
        cv2.polylines(canvas, [np.round(self.pixels(points) * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, shift=4)
        return np.asarray(canvas / np.float32(255), np.float32)


def radiographs(n: int, seed: int) -> Iterator[Radiograph]:
    for i in track(range(n), "drawing", total=n):
        yield radiograph(seed, i)


def radiograph(seed: int, i: int) -> Radiograph:
    """Pelvis number `i` of the series `seed`; the same pixels every time."""
    random = np.random.Generator(np.random.PCG64([seed, i]))
    pose = Pose.draw(random, random, turn=0.06)
    labels = np.zeros((ROWS, COLUMNS), np.uint8)
    beam = _soft_tissue(random) + _axial_bones(random, pose)
    arcs = []
    for side in SIDES:
        wing, ring, femur = (pose.area(part) for part in (_side(_WING, side), _side(_RING, side), _side(_SHAFT, side)))
        femur = np.maximum(femur, pose.area(_head(side)))
        foramen = pose.area(_side(_FORAMEN, side))
        ring = ring * (1 - foramen)
        roof = pose.line(_roof(random, side), int(random.integers(2, 4)))
        teardrop = pose.line(_mirrored(np.array(_TEARDROP), side), 2)
        beam += (
            sum(_bone(random, part) for part in (wing, ring, femur))
            + random.uniform(0.45, 0.75) * roof
            + random.uniform(0.4, 0.6) * teardrop
        )
        crest, body = pose.area(_side(_CREST, side)), pose.area(_side(_BODY, side))
        for value, part in ((ILIUM, wing * crest), (FEMUR, femur), (FORAMEN, foramen), (PUBIS, ring * body)):
            labels[part > 0.5] = value
        arcs += [(ROOF, roof), (TEARDROP, teardrop)]
    for value, part in arcs:
        labels[part > 0.4] = value
    return Radiograph(_exposed(random, beam), _without_specks(labels))


def projections(n: int, seed: int) -> Iterator[tuple[int, int, Projection]]:
    """`n` images as (case, view, projection): up to five views of a case, four cases or more where there are enough images."""
    cases = max(-(-n // MOST_VIEWS), min(n, 4))
    todo = [(case, view) for case, views in enumerate(np.array_split(np.arange(n), cases), 1) for view in range(len(views))]
    for case, view in track(todo, "drawing", total=n):
        yield case, view, projection(seed, case, view)


def projection(seed: int, case: int, view: int) -> Projection:
    """View number `view` of case number `case` of the series `seed`; the same pixels every time."""
    anatomy = np.random.Generator(np.random.PCG64([seed, case]))
    random = np.random.Generator(np.random.PCG64([seed, case, view]))
    pose = Pose.draw(anatomy, random, turn=0.14)
    beam = _soft_tissue(random) + _axial_bones(random, pose, sacrum=False)
    for side in SIDES:
        beam += _bone(random, np.maximum(pose.area(_side(_SHAFT, side)), pose.area(_head(side))))
    fragments: Planes = {}
    for category, (solids, holes) in _bones().items():
        for fragment, (pieces, move) in enumerate(_fracture(anatomy, solids), 1):
            part = np.max([pose.area(move(outline)) for outline in solids], axis=0)
            for hole in holes:
                part = part * (1 - pose.area(move(hole)))
            for piece in pieces:
                part = part * pose.area(move(piece))
            plane = _without_specks(part > 0.5)
            if plane.any():
                fragments[category, fragment] = plane
                beam += _bone(random, part)
    metal = pose.line(anatomy.uniform((-0.9, -0.9), (0.9, 0.9), (2, 2)), 2)  # a wire that holds bones together
    detected = np.exp(-1.2 * (beam + 0.9 * metal)) * (1 + random.normal(0, 0.035, beam.shape))
    return Projection(np.asarray(np.maximum(detected, 1e-3), np.float32), fragments)


# outlines


def _smooth(points: Sequence[tuple[float, float]] | Points) -> Points:
    """A closed outline with its corners cut thrice (Chaikin, 1974)."""
    outline = np.array(points, float)
    for _ in range(3):
        following = np.roll(outline, -1, axis=0)
        outline = np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], axis=1).reshape(-1, 2)
    return outline


def _mirrored(points: Points, side: int) -> Points:
    return np.asarray(points * (side, 1))


def _side(points: Sequence[tuple[float, float]], side: int) -> Points:
    return _mirrored(_smooth(points), side)


def _circle(radius: float, start: float, end: float, side: int) -> Points:
    """About the femoral head; angles in degrees from the outer side, clockwise."""
    angles = np.deg2rad(np.linspace(start, end, 40))
    return _mirrored(_HEAD + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1), side)


def _head(side: int) -> Points:
    return _circle(_HEAD_RADIUS, 0, 360, side)


def _roof(random: Random, side: int) -> Points:
    return _circle(_ROOF_RADIUS, random.uniform(-155, -140), random.uniform(-50, -35), side)


def _bones() -> Mapping[int, tuple[list[Points], list[Points]]]:
    """Category -> solid outlines and holes. The patient's left is on the right of the image."""
    hips = {side: ([_side(_WING, side), _side(_RING, side)], [_side(_FORAMEN, side)]) for side in SIDES}
    return {SACRUM: ([_smooth(_SACRUM)], []), LEFT_HIP: hips[1], RIGHT_HIP: hips[-1]}


@dataclass(frozen=True)
class Move:
    """A fragment out of its place: turned about `centre` by `angle`, then shifted."""

    centre: Points
    angle: float
    shift: Points

    def __call__(self, points: Points) -> Points:
        turn = np.array([[np.cos(self.angle), -np.sin(self.angle)], [np.sin(self.angle), np.cos(self.angle)]])
        return np.asarray((points - self.centre) @ turn.T + self.centre + self.shift)


def _fracture(random: Random, solids: Sequence[Points]) -> Iterator[tuple[list[Points], Move]]:
    """One to three fragments: the half planes in which each lies, and how it has moved."""
    outline = np.concatenate(solids)
    centre = outline.mean(axis=0)
    lines = [(centre + random.normal(0, 0.06, 2), random.uniform(0, 2 * np.pi)) for _ in range(random.integers(0, 3))]
    for fragment in range(len(lines) + 1):
        before = [_half_plane(*line, ahead=False) for line in lines[:fragment]]
        pieces = [*before, *(_half_plane(*line, ahead=True) for line in lines[fragment : fragment + 1])]
        yield pieces, Move(centre, random.normal(0, 0.05) * len(lines), random.normal(0, 0.025, 2) * len(lines))


def _half_plane(point: Points, angle: float, ahead: bool) -> Points:
    """A square of four half images beside a line, which its first edge lies on."""
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)]) * (1 if ahead else -1)
    return np.array([point - 2 * along, point + 2 * along, point + 2 * along + 4 * across, point - 2 * along + 4 * across])


# attenuation


def _bone(random: Random, part: Floats) -> Floats:
    """Spongy inside, denser cortex."""
    cortex = np.maximum(part - cv2.GaussianBlur(part, (0, 0), 1.8), 0)
    inside = cv2.GaussianBlur(part, (0, 0), 0.8)
    return np.asarray(random.uniform(0.36, 0.50) * inside * (1 + 0.22 * _field(random, 1.3)) + 1.1 * cortex, np.float32)


def _axial_bones(random: Random, pose: Pose, sacrum: bool = True) -> Floats:
    """Spine and coccyx, which nobody labels."""
    heights = (-1.10, -0.84, -0.58)
    outlines = [_smooth(outline) + np.array((0, v)) for outline in (_VERTEBRA, _PROCESSES) for v in heights]
    outlines += [_smooth(_COCCYX), *([_smooth(_SACRUM)] * sacrum)]
    return np.asarray(sum(_bone(random, pose.area(outline)) for outline in outlines), np.float32)


def _soft_tissue(random: Random) -> Floats:
    """Thicker in the middle, with folds; gas in the bowel; stones and vessels that have calcified."""
    ys, xs = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    place = random.normal(0, 0.12, 2)
    tissue = random.uniform(0.5, 0.8) * np.exp(-((xs - place[0]) ** 2) / 0.7 - (ys - place[1]) ** 2 / 1.5) + 0.14 * _field(random, 16)
    tissue += random.uniform(-0.25, 0.25) * xs + random.uniform(-0.2, 0.2) * ys
    for low, high, depth, count in ((0.05, 0.16, -0.35, 7), (0.010, 0.022, 0.7, 4)):
        for _ in range(random.integers(2, count)):
            centre, size = random.uniform((-0.6, -0.95), (0.6, 0.6)), random.uniform(low, high)
            radius = np.hypot((xs - centre[0]) / random.uniform(0.8, 1.6), ys - centre[1]) / size
            tissue += depth * random.uniform(0.5, 1) / (1 + radius**6)
    return np.asarray(tissue, np.float32)


def _exposed(random: Random, beam: Floats) -> Array:
    """Blur, grain, a lead letter that tells the side, and the film's own curve, to uint8."""
    film = cv2.GaussianBlur(beam, (0, 0), random.uniform(0.5, 0.8)) + random.normal(0, 0.06, beam.shape)
    low, high = np.percentile(film, (0.5, 99.5))
    grey = 255 * np.clip((film - low) / (high - low), 0, 1) ** random.uniform(0.8, 1.2)
    image = np.asarray(np.round(grey), np.uint8)
    corner = (int(random.integers(4, 20)), int(random.integers(14, 24)))
    cv2.putText(image, str(random.choice(["R", "R.", "RE"])), corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 250, 1, cv2.LINE_AA)
    return image


def _field(random: Random, scale: float) -> Floats:
    """Smooth noise of standard deviation 1."""
    noise = cv2.GaussianBlur(random.normal(size=(ROWS, COLUMNS)).astype(np.float32), (0, 0), scale)
    return np.asarray(noise / noise.std(), np.float32)


def _without_specks(mask: Array) -> Array:
    """Without pieces of a value that are smaller than annotators draw."""
    kept = mask.copy()
    for value in np.unique(mask[mask > 0]):
        pieces, _ = ndimage.label(mask == value, np.ones((3, 3)))
        kept[(pieces > 0) & (np.bincount(pieces.reshape(-1)) < SPECK)[pieces]] = 0
    return kept
