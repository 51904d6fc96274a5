"""Outlines on images: for overlays, sample pictures and TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from segkit.data.labels import Array

Colour = tuple[int, int, int]
PIXELS_PER_LINE = 400
"""A line is one pixel wide for each of these along the longer side of the image."""
DASH = 4
"""Length of a dash and of a gap, in line widths."""
SHIFT = 4
DARK = (0, 0, 0)


@dataclass(frozen=True)
class Style:
    """How a mask is outlined: the class colour mixed with `white` (0 to 1), whole or dashed."""

    white: float = 0.0
    dashed: bool = False

    def of(self, colour: Colour) -> Colour:
        r, g, b = (round(channel + (255 - channel) * self.white) for channel in colour)
        return r, g, b


PREDICTION = Style()
TRUTH = Style(white=0.8, dashed=True)


def outline(image: Array, masks: Sequence[tuple[Array, Style]], colours: Sequence[Colour], scale: float = 1.0) -> Array:
    """RGB uint8 (H, W, 3): `image` (H, W[, C]) of any type with the outline of every plane (K, H, W) of every mask.

    Later masks are drawn over earlier ones: put the dashed one last, and where both agree both are seen. With `scale`
    the picture is resized first and the outlines keep their width, so that they stay legible on a thumbnail.
    """
    canvas = displayable(image)
    if scale != 1.0:
        height, width = (max(1, round(n * scale)) for n in canvas.shape[:2])
        canvas = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    line = max(1, round(max(canvas.shape[:2]) / PIXELS_PER_LINE))
    for planes, style in masks:
        for plane, colour in zip(planes, colours, strict=True):
            draw(canvas, plane, style.of(colour), line, style.dashed, scale)
    return canvas


def draw(canvas: Array, plane: Array, colour: Colour, width: int, dashed: bool = False, scale: float = 1.0) -> None:
    """Draw in place through the border pixels of `plane` (H, W), which is `scale` times smaller; holes included.

    Every other dash is dark: one of the two is seen on any image, and the line below shows in the gaps.
    """
    contours, _ = cv2.findContours(plane.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    # The centre of pixel x lies at (x + 0.5) scale - 0.5 of the scaled picture.
    lines = [(contour[:, 0] + 0.5) * scale - 0.5 for contour in contours]
    if dashed:
        lines = [dash for line in lines for dash in dashes(line, DASH * width)]
    # cv2 takes fixed point, here with SHIFT binary digits.
    points = [np.round(line * 2**SHIFT).astype(np.int32) for line in lines]
    smooth = cv2.LINE_8 if scale == 1 else cv2.LINE_AA
    for part, ink in ((points[::2], colour), (points[1::2], DARK)) if dashed else ((points, colour),):
        cv2.polylines(canvas, part, not dashed, ink, width, smooth, SHIFT)


def dashes(line: Array, length: int) -> list[Array]:
    """Every other piece of a closed line (N, 2) that is cut into equal pieces of about `length` pixels."""
    corners = np.concatenate([line, line[:1]])
    run = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    n = 4 * max(1, round(run[-1] / (4 * length)))
    starts = np.linspace(0, run[-1], n, endpoint=False)[::2]
    at = starts[:, None] + np.linspace(0, run[-1] / n, max(2, round(run[-1] / n)))
    return list(np.stack([np.interp(at, run, corners[:, axis]) for axis in (0, 1)], axis=-1))


def displayable(image: Array) -> Array:
    """RGB uint8 (H, W, 3), a new array. What is not 8 bit, or uses less than a quarter of its range, is stretched.

    Three or four channels of 8 bit are colour (alpha is dropped); of any other stack the first channel is shown.
    """
    image = image[..., None] if image.ndim == 2 else image
    image = image[..., :3] if image.shape[-1] in (3, 4) else image[..., :1]
    if image.dtype != np.uint8 or 0 < np.ptp(np.percentile(sampled(image), [1, 99])) < 64:
        image = stretched(image.astype(np.float32))
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))).copy()


def stretched(image: Array) -> Array:
    """Float -> uint8, the 1st percentile black and the 99th white. NaN and infinity become black."""
    known = image[np.isfinite(image)]
    if not known.size:
        return np.zeros(image.shape, np.uint8)
    low, high = np.percentile(sampled(known), [1, 99])
    if high <= low:
        low, high = float(known.min()), float(known.max())
    scaled = (np.nan_to_num(image, nan=low, posinf=low, neginf=low) - low) / max(high - low, 1e-12)
    return np.asarray((scaled.clip(0, 1) * 255).round(), np.uint8)


def sampled(image: Array, most: int = 1_000_000) -> Array:
    """About `most` of its values, enough for a percentile."""
    return image.reshape(-1)[:: max(1, image.size // most)]
