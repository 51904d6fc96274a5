"""Synthetic ultrasound: a fetal head, and the nerves of the brachial plexus in the neck.

A fan-shaped sector of speckle holds one head: a bright, broken skull line around a darker, finer inside with a midline and
a few echoes. Around it lie other bright arcs and blobs, so that a threshold does not find the head (Otsu's Dice stays below
0.8) while its context does.

The nerve is a honeycomb of dark fascicles in bright sheaths, among layers of muscle and fascia, dark vessels and lobules of
fat of its own size. Its sheaths are as bright as fascia and its fascicles as dark as vessels: only its texture gives it away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from segkit.data.phantoms.base import Array, Blob, Floats, Random, field, group_sizes, seeded
from segkit.system.progress import track

ROWS, COLUMNS = 192, 288
LARGEST = 1.39  # times ROWS x COLUMNS
NECK = (105, 145)
"""Rows and columns of images of the neck."""


# the fetal head


@dataclass(frozen=True)
class Drawing:
    """A fetal head (H, W) uint8 and its ground truth."""

    image: Array
    head: Blob
    pixel_mm: float

    @cached_property
    def mask(self) -> Array:
        """The filled head, 0 and 255."""
        return self._ellipse(cv2.FILLED)

    @cached_property
    def outline(self) -> Array:
        """The skull line alone, one pixel thin, 0 and 255."""
        return self._ellipse(1)

    def _ellipse(self, thickness: int) -> Array:
        head, canvas = self.head, np.zeros_like(self.image)
        box = ((head.x, head.y), (2 * head.a, 2 * head.b), float(np.rad2deg(head.angle)))
        return np.asarray(cv2.ellipse(canvas, box, 255, thickness))

    @property
    def circumference_mm(self) -> float:
        """Ramanujan's second approximation."""
        a, b = self.head.a * self.pixel_mm, self.head.b * self.pixel_mm
        h = ((a - b) / (a + b)) ** 2
        return float(np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h))))


def exams(n: int, seed: int) -> Iterator[tuple[int, int, Drawing]]:
    """Yield exam, number and drawing of `n` heads: every fourth image is the second one of the exam before it."""
    for i in track(range(n), "drawing", total=n):
        yield i - (i + 2) // 4, 2 if i % 4 == 2 else 1, draw(seed, i)


def draw(seed: int, i: int) -> Drawing:
    """Head number `i` of the series `seed`."""
    random = seeded(seed, i)
    scale = random.uniform(1.0, LARGEST)
    rows, columns = round(ROWS * scale), round(COLUMNS * scale)
    ys, xs = np.mgrid[:rows, :columns].astype(np.float32)
    a = random.uniform(0.24, 0.38) * rows * 1.15
    b = a * random.uniform(0.70, 0.85)
    x, y = columns * random.uniform(0.40, 0.60), rows * random.uniform(0.46, 0.58)
    head = Blob(x, y, a, b, np.deg2rad(random.uniform(-35, 35)))
    coarse = random.normal(size=(7, 5)).astype(np.float32)  # echo strength, about 1, as if of layers lying across the beam
    echo = np.asarray(np.exp(0.45 * cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)), np.float32)
    _add_distractors(random, echo, xs, ys)
    _add_head(random, echo, xs, ys, head)
    image = _scanned(random, echo, _sector(random, xs, ys))
    return Drawing(image, head, pixel_mm=float(random.uniform(0.25, 0.6)))


def _add_distractors(random: Random, echo: Floats, xs: Floats, ys: Floats) -> None:
    """Bright arcs of other curvature (uterus, limbs) and blobs (placenta, bowel), anywhere: the head is drawn over them."""
    rows, columns = echo.shape

    def anywhere(a: float, b: float) -> Blob:
        return Blob(random.uniform(0, columns), random.uniform(0, rows), a, b, np.deg2rad(random.uniform(0, 180)))

    for _ in range(random.integers(3, 6)):
        a, flat = random.uniform(0.10, 0.5) * rows, random.uniform(0.4, 1.0)
        other = anywhere(a, a * flat)
        line = _ridge(other.radius(xs, ys), width_px=random.uniform(1.5, 3.5), radius_px=a)
        echo += random.uniform(2.0, 8.0) * line * _arc(random, other, xs, ys, share=random.uniform(0.15, 0.45))
    for low, high, flattest, is_fluid in ((0.02, 0.09, 0.3, False), (0.05, 0.12, 0.4, True)):
        for _ in range(random.integers(1, 3) if is_fluid else random.integers(3, 7)):
            size = random.uniform(low, high) * columns
            x, y = random.uniform(0, columns), random.uniform(0, rows)
            blob = Blob(x, y, size, size * random.uniform(flattest, 0.9), np.deg2rad(random.uniform(0, 180)))
            if is_fluid:
                echo *= 1 - 0.9 / (1 + blob.radius(xs, ys) ** 8)
            else:
                echo += random.uniform(1.5, 4.0) * np.exp(-(blob.radius(xs, ys) ** 2))


def _add_head(random: Random, echo: Floats, xs: Floats, ys: Floats, head: Blob) -> None:
    """Replace the tissue inside: darker and even, a midline, a few echoes; then the skull, brightest across the beam."""
    radius = head.radius(xs, ys)
    inside = 1 / (1 + np.exp(np.minimum((radius - 1) * 40, 50)))
    content = np.full_like(echo, random.uniform(0.22, 0.40))
    u, v = head.axes(xs, ys)
    midline = np.exp(-((v / 1.3) ** 2)) * (np.abs(u) < 0.75 * head.a) * (np.sin(u / head.a * 9 + random.uniform(0, 6)) > -0.6)
    content += random.uniform(0.5, 1.6) * midline
    for _ in range(random.integers(2, 5)):
        place, size = random.uniform(-0.55, 0.55, 2), random.uniform(0.05, 0.14) * head.a
        content += random.uniform(0.3, 1.4) * np.exp(-((u - place[0] * head.a) ** 2 + (v - place[1] * head.b) ** 2) / size**2)
    echo *= 1 - inside
    echo += inside * content
    across = np.abs(ys - head.y) / np.maximum(np.hypot(xs - head.x, ys - head.y), 1)  # 1 above and below, 0 at the sides
    skull = _ridge(radius, random.uniform(1.6, 3.0), head.a) * (0.12 + 0.88 * across**1.5)
    echo += random.uniform(8.0, 20.0) * skull * _arc(random, head, xs, ys, share=random.uniform(0.75, 0.93))


def _ridge(radius: Floats, width_px: float, radius_px: float) -> Floats:
    """1 on the border of a blob, 0 away from it."""
    return np.asarray(np.exp(-(((radius - 1) * radius_px / width_px) ** 2)), np.float32)


def _arc(random: Random, head: Blob, xs: Floats, ys: Floats, share: float) -> Floats:
    """1 over `share` of the directions from the center, in two or three smooth-edged pieces, else 0."""
    direction = np.arctan2(*reversed(head.axes(xs, ys)))
    sines = sum(random.normal() / k * np.cos(k * direction + random.uniform(0, 2 * np.pi)) for k in range(1, 5))
    threshold = np.quantile(np.asarray(sines)[::4, ::4], 1 - share)
    return np.asarray(1 / (1 + np.exp(-(sines - threshold) * 12)), np.float32)


def _sector(random: Random, xs: Floats, ys: Floats) -> Floats:
    """The fan of the probe: 1 inside, 0 outside, and weaker with depth."""
    rows, columns = xs.shape
    above = random.uniform(0.15, 0.5) * rows
    depth = np.hypot(xs - columns / 2, ys + above)
    angle = np.arctan2(np.abs(xs - columns / 2), ys + above)
    fan = (angle < random.uniform(0.75, 1.0)) & (depth > above * 1.05) & (depth < (rows + above) * random.uniform(0.97, 1.1))
    return np.asarray(fan * np.exp(-random.uniform(0.0, 0.8) * depth / rows), np.float32)


def _scanned(random: Random, echo: Floats, sector: Floats) -> Array:
    """Speckle (magnitude of a complex Gaussian field, Burckhardt 1978), log compression and gain, to uint8."""
    grains = np.hypot(*(cv2.GaussianBlur(random.normal(size=echo.shape).astype(np.float32), (0, 0), 1.1, sigmaY=0.7) for _ in range(2)))
    amplitude = echo * sector * grains / grains.mean()
    gain, spread = random.uniform(70, 105), random.uniform(26, 36)
    gray = (gain + spread * np.log(np.maximum(amplitude, 1e-4))) * (sector > 0)
    return np.asarray(np.clip(np.round(gray), 0, 255), np.uint8)


# the nerve


@dataclass(frozen=True)
class Frame:
    """An image of the neck (H, W) uint8 and the nerve in it, 0 and 255."""

    subject: int
    number: int
    image: Array
    mask: Array


def frames(n: int, seed: int) -> Iterator[Frame]:
    """Yield `n` frames of subjects with up to eight each."""
    sizes = group_sizes(n, 8)
    for subject, size in enumerate(track(sizes, "drawing", total=len(sizes))):
        for number in range(size):
            yield draw_nerve(seed, subject, number)


def draw_nerve(seed: int, subject: int, number: int) -> Frame:
    """Frame `number` of a subject of the series `seed`, both from 0. Every third has no nerve.

    Dark vessels and lobules as bright as the nerve lie around it; its fascicles form a honeycomb.
    """
    person, random = seeded(seed, subject), seeded(seed, subject, number)
    ys, xs = np.mgrid[: NECK[0], : NECK[1]].astype(np.float32)
    echo = _layers(person, random, xs, ys)
    attenuation = np.exp(-random.uniform(0.1, 0.7) * ys / NECK[0])
    xs, ys = (places + 0.8 * field(random, NECK, 6) for places in (xs, ys))  # no border is an exact ellipse
    home = person.uniform((0.32, 0.42), (0.68, 0.62)) * NECK[::-1] + random.normal(0, 7, 2)
    nerve = _oval(random, home, (15, 9), (22, 13))
    for content in (0.10, 0.10, *random.uniform(0.7, 1.6, 3)):
        turn = random.uniform(0, 2 * np.pi)
        place = home + np.array([np.cos(turn), np.sin(turn)]) * (nerve.a + 18) * random.uniform(1.0, 1.5)
        _add_oval(echo, _oval(random, place, (8, 6), (17, 11)), xs, ys, content)
    mask = np.zeros(NECK, np.uint8)
    if number % 3 != 1:
        pitch = 4 * np.pi / (np.sqrt(3) * random.uniform(5.5, 7.0))
        honeycomb = sum(np.cos(pitch * (xs * np.cos(turn) + ys * np.sin(turn))) for turn in np.arange(3) * np.pi / 3)
        _add_oval(echo, nerve, xs, ys, np.where(honeycomb > 0.1, 0.22, 2.4))
        mask[nerve.radius(xs, ys) < 1] = 255
    return Frame(subject + 1, number + 1, _scanned(random, echo, attenuation), mask)


def _oval(random: Random, place: Array, least: tuple[float, float], most: tuple[float, float]) -> Blob:
    a, b = random.uniform(least, most)
    return Blob(place[0], place[1], a, b, random.uniform(-0.5, 0.5))


def _layers(person: Random, random: Random, xs: Floats, ys: Floats) -> Floats:
    """Echo strength, about 1: skin, fat and muscle in layers that a subject keeps, bent a little otherwise in each image."""
    rows, columns = NECK
    bend = sum(person.normal(0, 7) / k * np.sin(k * xs / columns * 3 + person.uniform(0, 6) + random.normal(0, 0.2)) for k in (1, 2, 3))
    depth = (ys + bend + random.normal(0, 2)) / rows
    stripes = np.sin(depth * person.uniform(110, 150) + 2 * np.sin(xs / 17 + person.uniform(0, 6)))
    echo = np.exp(0.3 * np.sin(depth * 11 + person.uniform(0, 6))) * (1 + 0.45 * stripes * (depth > 0.22))
    for line in person.uniform(0.08, 0.95, 6):  # fascia
        broken = np.sin(xs / person.uniform(9, 25) + random.uniform(0, 6)) > -0.5
        echo += random.uniform(2, 5) * np.exp(-(((depth - line) * rows / 1.3) ** 2)) * broken
    return np.asarray(echo + 2.5 * np.exp(-(((depth - 0.04) * 25) ** 2)), np.float32)


def _add_oval(echo: Floats, oval: Blob, xs: Floats, ys: Floats, content: Array | float) -> None:
    """Replace the tissue inside, and add a bright border."""
    radius = oval.radius(xs, ys)
    echo[:] = np.where(radius < 1, content, echo) + 1.5 * _ridge(radius, 1.2, oval.b)
