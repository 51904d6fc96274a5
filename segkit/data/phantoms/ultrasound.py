"""A synthetic fetal head on ultrasound: a thing to learn, to test with, and to try every preset on without a download.

A fan-shaped sector of speckle holds one head: a bright, broken skull line around a darker, finer inside with a midline and
a few echoes. Around it lie other bright arcs and blobs, so that a threshold does not find the head (Otsu's Dice stays below
0.8) while its context does. Speckle is the magnitude of a complex Gaussian field, log-compressed as a scanner shows it
(Burckhardt, IEEE Trans. Sonics Ultrason. 1978).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segkit.system.progress import track

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Random = np.random.Generator

ROWS, COLUMNS = 192, 288
LARGEST = 1.39  # times ROWS x COLUMNS


@dataclass(frozen=True)
class Head:
    """The ellipse of the skull, in pixels; `angle` in degrees, clockwise from the x axis as OpenCV has it."""

    x: float
    y: float
    a: float
    b: float
    angle: float

    def radius(self, xs: Floats, ys: Floats) -> Floats:
        """1 on the ellipse, 0 in its centre."""
        u, v = self.axes(xs, ys)
        return np.asarray(np.hypot(u / self.a, v / self.b), np.float32)

    def axes(self, xs: Floats, ys: Floats) -> tuple[Floats, Floats]:
        """Coordinates along the long and the short axis, in pixels from the centre."""
        turn = np.deg2rad(self.angle)
        dx, dy = xs - self.x, ys - self.y
        return dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)


@dataclass(frozen=True)
class Drawing:
    """One phantom image (H, W) uint8 and what is true about it."""

    image: Array
    head: Head
    pixel_mm: float

    @cached_property
    def mask(self) -> Array:
        """The filled head, 0 and 255."""
        return self._drawn(cv2.FILLED)

    @cached_property
    def outline(self) -> Array:
        """The skull line alone, one pixel thin, 0 and 255."""
        return self._drawn(1)

    def _drawn(self, thickness: int) -> Array:
        head = self.head
        box = ((head.x, head.y), (2 * head.a, 2 * head.b), head.angle)
        canvas: Array = np.zeros_like(self.image)
        return np.asarray(cv2.ellipse(canvas, box, 255, thickness))

    @property
    def circumference_mm(self) -> float:
        """Ramanujan's second approximation."""
        a, b = self.head.a * self.pixel_mm, self.head.b * self.pixel_mm
        h = ((a - b) / (a + b)) ** 2
        return float(np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h))))


def exams(n: int, seed: int) -> Iterator[tuple[int, int, Drawing]]:
    """`n` drawings as (exam, k, drawing): every fourth image is the second one (k = 2) of the exam before it."""
    for i in track(range(n), "drawing", total=n):
        yield i - (i + 2) // 4, 2 if i % 4 == 2 else 1, draw(seed, i)


def drawings(n: int, seed: int) -> Iterator[tuple[str, Drawing]]:
    """The same as (name, drawing), names 000_1, 001_1, 001_2, …"""
    for exam, k, drawing in exams(n, seed):
        yield f"{exam:03d}_{k}", drawing


def draw(seed: int, i: int) -> Drawing:
    """Drawing number `i` of the series `seed`; the same bytes every time."""
    random = np.random.Generator(np.random.PCG64([seed, i]))
    scale = random.uniform(1.0, LARGEST)
    rows, columns = round(ROWS * scale), round(COLUMNS * scale)
    ys, xs = np.mgrid[:rows, :columns].astype(np.float32)
    head = _head(random, rows, columns)
    echo = _tissue(random, rows, columns)
    _add_distractors(random, echo, xs, ys)
    _add_head(random, echo, xs, ys, head)
    image = _scanned(random, echo, _sector(random, xs, ys))
    return Drawing(image, head, pixel_mm=float(random.uniform(0.25, 0.6)))


def _head(random: Random, rows: int, columns: int) -> Head:
    a = random.uniform(0.24, 0.38) * rows * 1.15
    b = a * random.uniform(0.70, 0.85)
    x, y = columns * random.uniform(0.40, 0.60), rows * random.uniform(0.46, 0.58)
    return Head(float(x), float(y), float(a), float(b), float(random.uniform(-35, 35)))


def _tissue(random: Random, rows: int, columns: int) -> Floats:
    """Slowly varying echo strength, about 1, as if of layers lying across the beam."""
    coarse = random.normal(size=(7, 5)).astype(np.float32)
    return np.asarray(np.exp(0.45 * cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)), np.float32)


def _add_distractors(random: Random, echo: Floats, xs: Floats, ys: Floats) -> None:
    """Bright arcs of other curvature (uterus, limbs) and blobs (placenta, bowel), anywhere: the head is drawn over them."""
    rows, columns = echo.shape
    for _ in range(random.integers(3, 6)):
        a, flat = random.uniform(0.10, 0.5) * rows, random.uniform(0.4, 1.0)
        other = Head(random.uniform(0, columns), random.uniform(0, rows), a, a * flat, random.uniform(0, 180))
        line = _ridge(other.radius(xs, ys), width_px=random.uniform(1.5, 3.5), radius_px=a)
        echo += random.uniform(2.0, 8.0) * line * _arc(random, other, xs, ys, share=random.uniform(0.15, 0.45))
    for _ in range(random.integers(3, 7)):
        size = random.uniform(0.02, 0.09) * columns
        blob = Head(random.uniform(0, columns), random.uniform(0, rows), size, size * random.uniform(0.3, 0.9), random.uniform(0, 180))
        echo += random.uniform(1.5, 4.0) * np.exp(-(blob.radius(xs, ys) ** 2))
    for _ in range(random.integers(1, 3)):  # a dark pocket of fluid
        size = random.uniform(0.05, 0.12) * columns
        blob = Head(random.uniform(0, columns), random.uniform(0, rows), size, size * random.uniform(0.4, 0.9), random.uniform(0, 180))
        echo *= 1 - 0.9 / (1 + blob.radius(xs, ys) ** 8)


def _add_head(random: Random, echo: Floats, xs: Floats, ys: Floats, head: Head) -> None:
    """Replaces the tissue inside: darker and even, a midline, a few echoes; then the skull, brightest across the beam."""
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
    return np.asarray(np.exp(-(((radius - 1) * radius_px / width_px) ** 2)), np.float32)


def _arc(random: Random, head: Head, xs: Floats, ys: Floats, share: float) -> Floats:
    """1 over `share` of the directions from the centre, in two or three smooth-edged pieces, else 0."""
    direction = np.arctan2(*reversed(head.axes(xs, ys)))
    waves = sum(random.normal() / k * np.cos(k * direction + random.uniform(0, 2 * np.pi)) for k in range(1, 5))
    threshold = np.quantile(np.asarray(waves)[::4, ::4], 1 - share)
    return np.asarray(1 / (1 + np.exp(-(waves - threshold) * 12)), np.float32)


def _sector(random: Random, xs: Floats, ys: Floats) -> Floats:
    """The fan of the probe: 1 inside, 0 outside, and weaker with depth."""
    rows, columns = xs.shape
    above = random.uniform(0.15, 0.5) * rows
    depth = np.hypot(xs - columns / 2, ys + above)
    angle = np.arctan2(np.abs(xs - columns / 2), ys + above)
    fan = (angle < random.uniform(0.75, 1.0)) & (depth > above * 1.05) & (depth < (rows + above) * random.uniform(0.97, 1.1))
    return np.asarray(fan * np.exp(-random.uniform(0.0, 0.8) * depth / rows), np.float32)


def _scanned(random: Random, echo: Floats, sector: Floats) -> Array:
    """Speckle, log compression and gain, to uint8."""
    grains = [cv2.GaussianBlur(random.normal(size=echo.shape).astype(np.float32), (0, 0), 1.1, sigmaY=0.7) for _ in range(2)]
    speckle = np.hypot(*grains)
    amplitude = echo * sector * speckle / speckle.mean()
    gain, spread = random.uniform(70, 105), random.uniform(26, 36)
    grey = (gain + spread * np.log(np.maximum(amplitude, 1e-4))) * (sector > 0)
    return np.asarray(np.clip(np.round(grey), 0, 255), np.uint8)
