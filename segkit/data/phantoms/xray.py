"""A synthetic pelvis on X-ray: bones in one another's shadow, seen from the front.

Attenuations add up along the beam (Lambert and Beer), so every bone stands among others of the same brightness, under bowel
gas and folds of soft tissue: a threshold finds bone, not which bone. `radiographs` labels six structures that exclude each
other; `projections` breaks sacrum and hip bones, which overlap, into fragments, and shows them from several directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segkit.data.phantoms.base import SIDES, Array, Floats, Random, field, group_sizes, seeded, without_specks
from segkit.system.progress import track

Points = npt.NDArray[np.float64]
Planes = dict[tuple[int, int], Array]

PELVIS = (160, 176)
"""Rows and columns."""


# attenuation


def filled(points: Points, shape: tuple[int, int], width: int = 0) -> Floats:
    """The share of each pixel that lies inside a closed outline of pixels (x, y), or under a line of some width."""
    canvas, path = np.zeros(shape, np.uint8), [np.round(points * 16).astype(np.int32)]
    if width:
        cv2.polylines(canvas, path, False, 255, width, cv2.LINE_AA, shift=4)
    else:
        cv2.fillPoly(canvas, path, 255, cv2.LINE_AA, shift=4)
    return np.asarray(canvas / np.float32(255), np.float32)


def bone(random: Random, part: Floats) -> Floats:
    """Spongy inside, denser cortex."""
    cortex = np.maximum(part - cv2.GaussianBlur(part, (0, 0), 1.8), 0)
    inside = cv2.GaussianBlur(part, (0, 0), 0.8)
    return np.asarray(random.uniform(0.36, 0.50) * inside * (1 + 0.22 * field(random, part.shape, 1.3)) + 1.1 * cortex, np.float32)


def exposed(random: Random, beam: Floats, noise: float = 0.06) -> Array:
    """Blur, grain, a lead letter for the side, and the film's own curve, to uint8."""
    film = cv2.GaussianBlur(beam, (0, 0), random.uniform(0.5, 0.8)) + random.normal(0, noise, beam.shape)
    low, high = np.percentile(film, (0.5, 99.5))
    gray = 255 * np.clip((film - low) / (high - low), 0, 1) ** random.uniform(0.8, 1.2)
    image = np.asarray(np.round(gray), np.uint8)
    corner = (int(random.integers(4, 20)), int(random.integers(14, 24)))
    cv2.putText(image, str(random.choice(["R", "R.", "RE"])), corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 250, 1, cv2.LINE_AA)
    return image


# the pelvis; outlines are of one side, in units of half the image, u to the right and v down


def _points(hundredths: str) -> Points:
    return np.array(hundredths.split(), float).reshape(-1, 2) / 100


_WING = _points("22 -38  26 -60  42 -80  62 -86  82 -74  90 -54  84 -36  74 -20  76 -2  62 2  46 8  36 -4  30 -18")
_RING = _points("36 0  54 4  58 30  52 54  42 70  30 68  20 60  10 56  3 48  3 26  12 20  26 18")
_FORAMEN = _points("15 36  24 29  36 29  44 38  42 50  33 56  22 53  15 46")
_BODY = _points("-2 10  18 10  21 40  17 70  -2 70")
_CREST = _points("0 -130  140 -130  140 -30  80 -36  55 -48  20 -42  0 -42")
_SHAFT = _points("57 24  64 6  80 15  90 8  97 24  93 50  91 130  76 130  77 60  72 42  66 33")
_TEARDROP = _points("40 10  39.5 19  42 27  46 25  47 14")
_SACRUM = _points("-34 -46  0 -54  34 -46  30 -24  15 -2  5 14  -5 14  -15 -2  -30 -24")
_VERTEBRA = _points("-21 -14  21 -14  21 13  -21 13")
_PROCESSES = _points("-36 -3  36 -3  36 4  -36 4")
_COCCYX = _points("-4 14  4 14  2 24  -2 24")
_HALF_PLANE = _points("-200 0  200 0  200 400  -200 400")
_HEAD, _HEAD_RADIUS, _ROOF_RADIUS = np.array((0.60, 0.16)), 0.135, 0.175


@dataclass(frozen=True)
class Radiograph:
    """A pelvis (H, W) uint8, bone bright; labels 1 femur, 2 ilium, 3 foramen, 4 pubis, 5 acetabular roof, 6 teardrop."""

    image: Array
    labels: Array


@dataclass(frozen=True)
class Projection:
    """What reaches the detector (H, W) float32, bone dark; fragments (H, W) bool by category (1 to 3) and number."""

    image: Array
    fragments: Planes


@dataclass(frozen=True)
class Pose:
    """From outlines to pixels: waves that make each pelvis its own, then an affine map of the view."""

    waves: tuple[tuple[float, ...], ...]
    affine: Points

    @classmethod
    def draw(cls, anatomy: Random, view: Random, turn: float) -> Pose:
        """Draw a view; `turn` is how far it leaves the straight one, as shear, foreshortening and rotation in radians."""
        waves = tuple(tuple(anatomy.uniform((-0.02, -0.02, -4, -4, 0), (0.02, 0.02, 4, 4, 6.3))) for _ in range(5))
        rotation, size = _rotation(view.normal(0, turn / 3)), view.uniform(0.88, 0.98)
        shape = np.array([[1 - abs(view.normal(0, turn)), view.normal(0, turn / 2)], [0, 1 - abs(view.normal(0, turn / 2))]])
        half = np.array(PELVIS[::-1]) / 2
        return cls(waves, np.column_stack([size * np.diag(half) @ rotation @ shape, half + view.normal(0, 2.5, 2)]))

    def pixels(self, points: Points) -> Points:
        """(N, 2) u, v -> (N, 2) x, y."""
        moved = points + sum(np.outer(np.sin(points @ w[2:4] + w[4]), w[:2]) for w in map(np.array, self.waves))
        return np.asarray(moved @ self.affine[:, :2].T + self.affine[:, 2])

    def area(self, points: Points) -> Floats:
        """The share of each pixel inside a closed outline."""
        return filled(self.pixels(points), PELVIS)

    def line(self, points: Points, width: int) -> Floats:
        """The share of each pixel under a line."""
        return filled(self.pixels(points), PELVIS, width)


def radiographs(n: int, seed: int) -> Iterator[Radiograph]:
    """Yield `n` pelves."""
    for i in track(range(n), "drawing", total=n):
        yield radiograph(seed, i)


def radiograph(seed: int, i: int) -> Radiograph:
    """Pelvis number `i` of the series `seed`."""
    random = seeded(seed, i)
    pose = Pose.draw(random, random, turn=0.06)
    labels = np.zeros(PELVIS, np.uint8)
    beam = _soft_tissue(random) + _axial_bones(random, pose)
    arcs = []
    for side in SIDES:
        wing, ring, femur, foramen = (pose.area(_smooth(part) * (side, 1)) for part in (_WING, _RING, _SHAFT, _FORAMEN))
        femur = np.maximum(femur, pose.area(_head(side)))
        ring = ring * (1 - foramen)
        roof = pose.line(_arc(_ROOF_RADIUS, random.uniform(-155, -140), random.uniform(-50, -35), side), int(random.integers(2, 4)))
        teardrop = pose.line(_TEARDROP * (side, 1), 2)
        bones = sum(bone(random, part) for part in (wing, ring, femur))
        beam += bones + random.uniform(0.45, 0.75) * roof + random.uniform(0.4, 0.6) * teardrop
        crest, body = (pose.area(_smooth(part) * (side, 1)) for part in (_CREST, _BODY))
        for value, part in ((2, wing * crest), (1, femur), (3, foramen), (4, ring * body)):
            labels[part > 0.5] = value
        arcs += [(5, roof), (6, teardrop)]
    for value, part in arcs:
        labels[part > 0.4] = value
    return Radiograph(exposed(random, beam), without_specks(labels))


def projections(n: int, seed: int) -> Iterator[tuple[int, int, Projection]]:
    """Yield case, view and projection: up to five views of a case."""
    views = [(case, view) for case, size in enumerate(group_sizes(n, 5), 1) for view in range(size)]
    for case, view in track(views, "drawing", total=n):
        yield case, view, projection(seed, case, view)


def projection(seed: int, case: int, view: int) -> Projection:
    """View number `view` of case number `case` of the series `seed`. The patient's left is on the right of the image."""
    anatomy, random = seeded(seed, case), seeded(seed, case, view)
    pose = Pose.draw(anatomy, random, turn=0.14)
    beam = _soft_tissue(random) + _axial_bones(random, pose, sacrum=False)
    for side in SIDES:
        beam += bone(random, np.maximum(pose.area(_smooth(_SHAFT) * (side, 1)), pose.area(_head(side))))
    left, right = ([_smooth(part) * (side, 1) for part in (_WING, _RING, _FORAMEN)] for side in (1, -1))
    fragments: Planes = {}
    for category, (solids, holes) in enumerate((([_smooth(_SACRUM)], []), (left[:2], left[2:]), (right[:2], right[2:])), 1):
        whole = np.max([pose.area(outline) for outline in solids], axis=0) * np.prod([1 - pose.area(hole) for hole in holes], axis=0)
        for fragment, where in enumerate(_fragments(anatomy, pose, np.concatenate(solids).mean(axis=0)), 1):
            part = np.asarray(whole * where, np.float32)
            plane = without_specks(part > 0.5)
            if plane.any():
                fragments[category, fragment] = plane
                beam += bone(random, part)
    metal = pose.line(anatomy.uniform((-0.9, -0.9), (0.9, 0.9), (2, 2)), 2)  # a wire that holds bones together
    detected = np.exp(-1.2 * (beam + 0.9 * metal)) * (1 + random.normal(0, 0.035, beam.shape))
    return Projection(np.asarray(np.maximum(detected, 1e-3), np.float32), fragments)


def _rotation(angle: float) -> Points:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _smooth(outline: Points) -> Points:
    """A closed outline with its corners cut thrice (Chaikin, 1974)."""
    for _ in range(3):
        following = np.roll(outline, -1, axis=0)
        outline = np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], axis=1).reshape(-1, 2)
    return outline


def _arc(radius: float, start: float, end: float, side: int) -> Points:
    """About the femoral head; angles in degrees from the outer side, clockwise."""
    angles = np.deg2rad(np.linspace(start, end, 40))
    return np.asarray((_HEAD + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)) * (side, 1))


def _head(side: int) -> Points:
    return _arc(_HEAD_RADIUS, 0, 360, side)


def _fragments(random: Random, pose: Pose, center: Points) -> Iterator[Floats]:
    """The share of each pixel in each of one to three fragments, which lie on the two sides of lines near the center."""
    rest = np.ones(PELVIS, np.float32)
    for _ in range(random.integers(0, 3)):
        ahead = pose.area(_HALF_PLANE @ _rotation(random.uniform(0, 2 * np.pi)).T + center + random.normal(0, 0.06, 2))
        yield rest * ahead
        rest = rest * (1 - ahead)
    yield rest


def _axial_bones(random: Random, pose: Pose, sacrum: bool = True) -> Floats:
    """Spine and coccyx, which nobody labels."""
    outlines = [_smooth(outline) + np.array((0, v)) for outline in (_VERTEBRA, _PROCESSES) for v in (-1.10, -0.84, -0.58)]
    outlines += [_smooth(_COCCYX), *([_smooth(_SACRUM)] * sacrum)]
    return np.asarray(sum(bone(random, pose.area(outline)) for outline in outlines), np.float32)


def _soft_tissue(random: Random) -> Floats:
    """Thicker in the middle, with folds; gas in the bowel; stones and vessels that have calcified."""
    rows, columns = PELVIS
    ys, xs = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    place = random.normal(0, 0.12, 2)
    tissue = random.uniform(0.5, 0.8) * np.exp(-((xs - place[0]) ** 2) / 0.7 - (ys - place[1]) ** 2 / 1.5) + 0.14 * field(
        random, PELVIS, 16
    )
    tissue += random.uniform(-0.25, 0.25) * xs + random.uniform(-0.2, 0.2) * ys
    for low, high, depth, count in ((0.05, 0.16, -0.35, 7), (0.010, 0.022, 0.7, 4)):
        for _ in range(random.integers(2, count)):
            center, size = random.uniform((-0.6, -0.95), (0.6, 0.6)), random.uniform(low, high)
            radius = np.hypot((xs - center[0]) / random.uniform(0.8, 1.6), ys - center[1]) / size
            tissue += depth * random.uniform(0.5, 1) / (1 + radius**6)
    return np.asarray(tissue, np.float32)
