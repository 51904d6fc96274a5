"""A synthetic neck on ultrasound: the nerves of the brachial plexus among vessels and muscles.

Skin and fat lie in bright layers, fascia runs through in wavy lines, muscles are striped along them. The nerve is a honeycomb:
a cluster of dark, round fascicles in bright sheaths. Around it lie dark vessels, brighter tissue behind them, and lobules of
fat of the nerve's size; a third of the images has no nerve. Its sheaths are as bright as fascia and its fascicles as dark as
vessels, so a threshold does not find it; its texture does. Speckle is the magnitude of a complex Gaussian field, log-compressed
as a scanner shows it (Burckhardt, IEEE Trans. Sonics Ultrason. 1978).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segkit.system.progress import track

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Random = np.random.Generator

ROWS, COLUMNS = 105, 145
SIZE = np.array([COLUMNS, ROWS])
MOST_FRAMES = 8


@dataclass(frozen=True)
class Frame:
    """One image (H, W) uint8 of a subject, and the nerve in it, 0 and 255."""

    subject: int
    number: int
    image: Array
    mask: Array


@dataclass(frozen=True)
class Oval:
    """An ellipse of wavy border, in pixels; `angle` in radians."""

    x: float
    y: float
    a: float
    b: float
    angle: float
    waves: tuple[tuple[float, float], ...]

    def radius(self, xs: Floats, ys: Floats) -> Floats:
        """1 on its border, 0 in its middle."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        dx, dy = xs - self.x, ys - self.y
        u, v = (dx * cos + dy * sin) / self.a, (dy * cos - dx * sin) / self.b
        turn = np.arctan2(v, u)
        border = 1 + sum(much * np.cos(k * turn + phase) for k, (much, phase) in enumerate(self.waves, 2))
        return np.asarray(np.hypot(u, v) / border, np.float32)


def frames(n: int, seed: int) -> Iterator[Frame]:
    """`n` images of subjects with up to eight each, of four subjects or more where there are enough images."""
    subjects = max(-(-n // MOST_FRAMES), min(n, 4))
    for subject, of_one in enumerate(track(np.array_split(np.arange(n), subjects), "drawing", total=subjects)):
        for number in range(len(of_one)):
            yield draw(seed, subject, number)


def draw(seed: int, subject: int, number: int) -> Frame:
    """Image `number` of a subject, both from 0, of the series `seed`; the same bytes every time. Every third has no nerve."""
    person = np.random.Generator(np.random.PCG64([seed, subject]))
    random = np.random.Generator(np.random.PCG64([seed, subject, number]))
    home = person.uniform((0.32, 0.42), (0.68, 0.62)) * SIZE
    ys, xs = np.mgrid[:ROWS, :COLUMNS].astype(np.float32)
    echo = _layers(person, random, xs, ys)
    nerve = _oval(random, home + random.normal(0, 7, 2), random.uniform(15, 22), random.uniform(9, 13), 0.10)
    present = number % 3 != 1
    _add_distractors(random, echo, xs, ys, nerve, present)
    inside = nerve.radius(xs, ys) < 1
    if present:
        _add_nerve(random, echo, xs, ys, nerve)
    return Frame(subject + 1, number + 1, _scanned(random, echo, ys), np.uint8(255) * (inside & present))


def _oval(random: Random, place: Array, a: float, b: float, wave: float) -> Oval:
    waves = tuple((random.normal(0, wave / k), random.uniform(0, 2 * np.pi)) for k in range(1, 4))
    return Oval(float(place[0]), float(place[1]), float(a), float(b), float(random.uniform(-0.5, 0.5)), waves)


def _layers(person: Random, random: Random, xs: Floats, ys: Floats) -> Floats:
    """Echo strength, about 1: skin, fat and muscle in layers that a subject keeps, bent a little otherwise in each image."""
    bend = sum(person.normal(0, 7) / k * np.sin(k * xs / COLUMNS * 3 + person.uniform(0, 6) + random.normal(0, 0.2)) for k in (1, 2, 3))
    depth = (ys + bend + random.normal(0, 2)) / ROWS
    echo = np.exp(0.3 * np.sin(depth * 11 + person.uniform(0, 6)))
    stripes = np.sin(depth * person.uniform(110, 150) + 2 * np.sin(xs / 17 + person.uniform(0, 6)))
    echo *= 1 + 0.45 * stripes * (depth > 0.22)
    for line in person.uniform(0.08, 0.95, 6):  # fascia
        broken = np.sin(xs / person.uniform(9, 25) + random.uniform(0, 6)) > -0.5
        echo += random.uniform(2, 5) * np.exp(-(((depth - line) * ROWS / 1.3) ** 2)) * broken
    return np.asarray(echo + 2.5 * np.exp(-(((depth - 0.04) * 25) ** 2)), np.float32)


def _add_distractors(random: Random, echo: Floats, xs: Floats, ys: Floats, nerve: Oval, present: bool) -> None:
    """Vessels, dark and smooth with a bright shadow, and lobules as bright as the nerve, without its honeycomb."""
    for kind in ("vessel", "vessel", "lobule", "lobule", "lobule"):
        place = _beside(random, nerve) if present else random.uniform((0.1, 0.2), (0.9, 0.9)) * SIZE
        oval = _oval(random, place, random.uniform(8, 17), random.uniform(6, 11), 0.06)
        radius = oval.radius(xs, ys)
        if kind == "vessel":
            behind = (np.abs(xs - oval.x) < 0.7 * oval.a) & (ys > oval.y)
            echo *= 1 + 0.7 * behind * np.exp(-(ys - oval.y) / 25)
            echo[radius < 1] = 0.10
            echo += 3.0 * np.exp(-(((radius - 1) * oval.b / 1.2) ** 2))
        else:
            echo[radius < 1] = random.uniform(0.7, 1.6)
            echo += 1.5 * np.exp(-(((radius - 1) * oval.b / 1.2) ** 2))


def _beside(random: Random, nerve: Oval) -> Array:
    """A place near the nerve, but clear of it."""
    angle = random.uniform(0, 2 * np.pi)
    off = np.array([np.cos(angle) * (nerve.a + 20), np.sin(angle) * (nerve.a + 14)]) * random.uniform(1.0, 1.5)
    return np.array([nerve.x, nerve.y]) + off


def _add_nerve(random: Random, echo: Floats, xs: Floats, ys: Floats, nerve: Oval) -> None:
    """Fascicles lie as in a honeycomb, jittered."""
    radius = nerve.radius(xs, ys)
    step = random.uniform(5.5, 7.0)
    inside = np.full_like(echo, 2.4)
    for row in range(-6, 7):
        for column in range(-6, 7):
            x, y = step * (column + 0.5 * (row % 2)), 0.87 * step * row
            off = np.hypot(xs - nerve.x - x - random.normal(0, 0.5), ys - nerve.y - y - random.normal(0, 0.5))
            inside = np.where(off < 0.36 * step * random.uniform(0.8, 1.15), np.float32(0.22), inside)
    echo[radius < 1] = inside[radius < 1]
    echo += 1.5 * np.exp(-(((radius - 1) * nerve.b / 1.0) ** 2))


def _scanned(random: Random, echo: Floats, ys: Floats) -> Array:
    """Speckle, weaker with depth, log compression and gain; uint8."""
    grains = [cv2.GaussianBlur(random.normal(size=echo.shape).astype(np.float32), (0, 0), 0.9, sigmaY=0.6) for _ in range(2)]
    speckle = np.hypot(*grains)
    amplitude = cv2.GaussianBlur(echo, (0, 0), 0.6) * np.exp(-random.uniform(0.1, 0.7) * ys / ROWS) * (speckle / speckle.mean()) ** 0.8
    grey = random.uniform(85, 110) + random.uniform(30, 40) * np.log(np.maximum(amplitude, 1e-4))
    return np.asarray(np.clip(np.round(grey), 0, 255), np.uint8)
