"""Shapes of LabelMe (github.com/wkentaro/labelme, 5.4 to 7.1) as pixels, drawn as LabelMe itself draws them, by Pillow.

Points are (x, y) in pixels from the upper left corner, fractions as they are. Outlines belong to their shape.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from segkit.data.io.base import Array, File, ReadError, as_read_error, read_json, refuse_bomb
from segkit.system.errors import nearest

Point = tuple[float, float]

BACKGROUND, IGNORE = "_background_", "__ignore__"
"""Labels with a meaning of their own: background, and pixels to ignore."""
IGNORE_VALUE = 255
SLIGHT = 2.0
"""Pixels by which an annotator's hand may slip over the edge of an image."""
STROKE, DOT = 10, 5
"""Width of a line and radius of a point, in pixels."""
PROMPTS = "points"
"""Clicks that prompt a model: no shape."""
_COUNTS = {
    "polygon": (3, math.inf),
    "rectangle": (2, 2),
    "oriented_rectangle": (4, 4),
    "circle": (2, 2),
    "line": (2, 2),
    "linestrip": (2, math.inf),
    "point": (1, 1),
    "mask": (2, 2),
    PROMPTS: (0, math.inf),
}


class ShapeError(ValueError):
    """An invalid shape, and why."""


@dataclass(frozen=True)
class Shape:
    """One entry of `shapes`. Shapes of one label and `group` (not empty) are one instance."""

    label: str
    kind: str
    points: tuple[Point, ...]
    group: str = ""
    stencil: bytes = b""
    """The PNG of a mask, pasted on the image at the first point."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x and y of the upper left and the lower right corner, without line widths."""
        radius = math.dist(*self.points) if self.kind == "circle" else 0.0
        xs, ys = zip(*(self.points[:1] if self.kind == "circle" else self.points), strict=True)
        return min(xs) - radius, min(ys) - radius, max(xs) + radius, max(ys) + radius

    def slip(self, rows: int, columns: int) -> float:
        """Return the largest distance of its points from the image, in pixels; 0 where all lie on it.

        Raises `ShapeError` where no part of it lies on the image, or a point is farther away than `SLIGHT`.
        """
        beyond = max((max(0.0, -x, -y, x - columns, y - rows) for x, y in self.points), default=0.0)
        left, top, right, bottom = self.box if beyond else (0.0, 0.0, 0.0, 0.0)
        if right < 0 or bottom < 0 or left > columns or top > rows:
            raise ShapeError(f"lies outside the image of {rows} x {columns}")
        if beyond > SLIGHT:
            raise ShapeError(f"reaches {beyond:.1f} pixels beyond the image of {rows} x {columns}")
        return beyond


def shapes_of(document: Any) -> tuple[dict[int, Shape], list[str]]:
    """Return the shapes of a LabelMe file by their number, and what is wrong with invalid ones: 'shape 3 (rib): …'."""
    shapes: dict[int, Shape] = {}
    faults = []
    for number, raw in enumerate(document["shapes"], 1):
        try:
            shapes[number] = parse(raw)
        except ShapeError as error:
            label = raw.get("label") if isinstance(raw, dict) else None
            faults.append(f"shape {number}{f' ({label})' if label else ''}: {error}")
    return shapes, faults


def parse(raw: Any) -> Shape:
    """Parse an entry of `shapes`; raises `ShapeError`."""
    if not isinstance(raw, dict):
        raise ShapeError("is not a shape with a label and points")
    label, kind = raw.get("label"), raw.get("shape_type") or "polygon"  # old files do not say
    if not isinstance(label, str) or not label:
        raise ShapeError("has no label")
    if not isinstance(kind, str) or kind not in _COUNTS:
        hint = nearest(str(kind), _COUNTS) or f"available: {', '.join(_COUNTS)}"
        raise ShapeError(f"shape_type {kind!r} is not a valid option; {hint}")
    try:
        array = np.asarray(raw.get("points"), float)
        array = array.reshape(-1, 2) if array.size == 0 else array
    except (TypeError, ValueError, OverflowError):
        array = np.full((1, 1), np.nan)
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise ShapeError("its points are not a list of [x, y]")
    points = tuple((float(x), float(y)) for x, y in array)
    least, most = _COUNTS[kind]
    if not least <= len(points) <= most:
        wanted = f"{least}" if least == most else f"{least} or more"
        raise ShapeError(f"a {kind} of {len(points)} points; expected {wanted}")
    group = raw.get("group_id")
    return Shape(label, kind, points, "" if group is None else str(group), _stencil(raw, points) if kind == "mask" else b"")


def _stencil(raw: dict[str, Any], points: tuple[Point, ...]) -> bytes:
    """Decode the PNG of a mask. Between corners of whole numbers it must fill the box, both ends included."""
    try:
        data = decode_base64(raw.get("mask"))
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
    except (ValueError, OSError, Image.DecompressionBombError) as error:
        raise ShapeError("its mask is not a PNG in base64") from error
    (x1, y1), (x2, y2) = points
    box = (x2 - x1 + 1, y2 - y1 + 1)
    if all(float(number).is_integer() for number in (x1, y1, x2, y2)) and size != box:
        raise ShapeError(f"its mask is {size[1]} x {size[0]}, but its corners make {box[1]:g} x {box[0]:g}")
    return data


def decode_base64(text: Any) -> bytes:
    """Decode base64 text; raises ValueError."""
    if not isinstance(text, str) or not text:
        raise ValueError("no text")
    return base64.b64decode("".join(text.split()), validate=True)  # its Error is a ValueError


def draw(shapes: Iterable[tuple[Shape, int]], rows: int, columns: int) -> Array:
    """Draw shapes with their values on 0, later ones over earlier ones: (rows, columns) uint8."""
    canvas = Image.new("L", (columns, rows), 0)
    for shape, value in shapes:
        _paint(canvas, shape, value)
    return np.array(canvas)


def _paint(canvas: Image.Image, shape: Shape, value: int) -> None:
    pen, points = ImageDraw.Draw(canvas), list(shape.points)
    match shape.kind:
        case "polygon" | "oriented_rectangle":
            pen.polygon(points, fill=value, outline=value)
        case "rectangle":
            pen.rectangle(shape.box, fill=value, outline=value)
        case "circle":
            pen.ellipse(shape.box, fill=value, outline=value)
        case "point":
            ((x, y),) = points
            pen.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=value, outline=value)
        case "line":
            pen.line(points, fill=value, width=STROKE)
        case "linestrip":
            pen.line(points, fill=value, width=STROKE, joint="curve")
        case "mask":
            with Image.open(io.BytesIO(shape.stencil)) as png:
                stencil = Image.fromarray((np.asarray(png) > 0).astype(np.uint8) * np.uint8(255))
            canvas.paste(value, (round(points[0][0]), round(points[0][1])), stencil)


# pixels


@dataclass(frozen=True)
class Shapes(File):
    """The shapes of a LabelMe file that have these labels, in the order of the file: (rows, columns) of their values, uint8."""

    values: tuple[tuple[str, int], ...]
    """Pairs of label and value."""
    rows: int
    columns: int

    def decode(self) -> Array:
        values = dict(self.values)
        shapes = _shapes_at(self.path, self.path.stat().st_mtime_ns)
        return draw(((shape, values[shape.label]) for shape in shapes if shape.label in values), self.rows, self.columns)


@dataclass(frozen=True)
class EmbeddedImage(File):
    """The image inside a LabelMe file: (H, W, 1 or 3) uint8 or uint16."""

    def decode(self) -> Array:
        data = embedded_bytes(self.path, read_json(self.path))
        with Image.open(io.BytesIO(data)) as image:
            refuse_bomb(self.path, image.height, image.width)
            if image.mode.startswith("I"):  # a PNG of 16 bits
                return np.asarray(image).astype(np.uint16)[..., None]
            pixels = np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
        return pixels if pixels.ndim == 3 else pixels[..., None]


def embedded_bytes(path: Path, document: Any) -> bytes:
    """Return the encoded image in `imageData`. Raises `ReadError`."""
    try:
        return decode_base64(document.get("imageData"))
    except ValueError as error:
        raise ReadError(path, f"imageData is not base64 ({error})") from error


def embedded_size(path: Path, document: Any) -> tuple[int, int]:
    """Return (H, W) from the header of the image in `imageData`. Raises `ReadError`."""
    data = embedded_bytes(path, document)
    with as_read_error(path):
        try:
            with Image.open(io.BytesIO(data)) as image:
                return image.height, image.width
        except UnidentifiedImageError:
            raise ReadError(path, "imageData holds no image") from None


@lru_cache(maxsize=64)
def _shapes_at(path: Path, mtime_ns: int) -> tuple[Shape, ...]:
    """Cached: each plane of a case asks for the same file."""
    shapes, faults = shapes_of(labelme_document(path))
    if faults:
        raise ReadError(path, faults[0])
    return tuple(shapes.values())


def labelme_document(path: Path) -> dict[str, Any]:
    """Read the JSON of a LabelMe file; raises `ReadError` where it has no shapes."""
    document = read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise ReadError(path, "is not a LabelMe file: it has no list of shapes")
    return document
