"""Outlines of masks on images, and `samples.png`: a grid of cases with prediction and ground truth outlined."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from segkit.data.labels import Array, LabelMap
from segkit.system.files import write_bytes_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Color = tuple[int, int, int]
PIXELS_PER_LINE = 400
"""A line is one pixel wide for each of these along the longer side of the image, and thinner around thin structures."""
DASH = 4
"""Length of a dash and of a gap, in line widths."""
SHIFT = 4
BLACK = (0, 0, 0)
DPI = 128
"""A power of two, so that pixels / DPI * DPI is exact."""
MAX_BYTES = 2_000_000
CELL, MIN_CELL = 360, 96
"""Longer side of a panel, in pixels."""
MARGIN, GAP, CAPTION, TITLE, LEGEND_LINE = 12, 10, 26, 30, 22
LETTER = 7.5
"""Mean width of a letter of the caption, in pixels."""
PAPER, LIGHT, MARK_COLOR = "#1c1c1c", "#f2f2f2", "#d55e00"


@dataclass(frozen=True)
class Style:
    """How a mask is outlined: the class color mixed with `white` (0 to 1), solid or dashed."""

    white: float = 0.0
    dashed: bool = False

    def of(self, color: Color) -> Color:
        r, g, b = (round(channel + (255 - channel) * self.white) for channel in color)
        return r, g, b


PREDICTION = Style()
REFERENCE = Style(white=0.8, dashed=True)


def outline(image: Array, masks: Sequence[tuple[Array, Style]], colors: Sequence[Color], scale: float = 1.0) -> Array:
    """RGB uint8 (H, W, 3): `image` (H, W[, C]) of any type with the outline of every plane (K, H, W) of every mask.

    Later masks are drawn over earlier ones: put the dashed one last, so that both are visible where they agree. With `scale`
    the image is resized first and the outlines keep their width, so that they stay legible on a thumbnail.
    """
    canvas = displayable(image)
    if scale != 1.0:
        height, width = (max(1, round(n * scale)) for n in canvas.shape[:2])
        canvas = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    line = max(1, round(max(canvas.shape[:2]) / PIXELS_PER_LINE))
    for planes, style in masks:
        for plane, color in zip(planes, colors, strict=True):
            draw(canvas, plane, style.of(color), line, style.dashed, scale)
    return canvas


def draw(canvas: Array, plane: Array, color: Color, width: int, dashed: bool = False, scale: float = 1.0) -> None:
    """Draw in place through the border pixels of `plane` (H, W), which is `scale` times smaller; holes included.

    Every other dash is black: one of the two is visible on any image.
    """
    contours, _ = cv2.findContours(plane.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = max(1, min(width, round(thickness(plane, contours) * scale / 4)))
    # The center of pixel x lies at (x + 0.5) scale - 0.5 of the scaled picture.
    lines = [(contour[:, 0] + 0.5) * scale - 0.5 for contour in contours]
    if dashed:
        lines = [dash for line in lines for dash in dashes(line, DASH * width)]
    # cv2 takes fixed point, here with SHIFT binary digits.
    points = [np.round(line * 2**SHIFT).astype(np.int32) for line in lines]
    smooth = cv2.LINE_8 if scale == 1 else cv2.LINE_AA
    for part, ink in ((points[::2], color), (points[1::2], BLACK)) if dashed else ((points, color),):
        cv2.polylines(canvas, part, not dashed, ink, width, smooth, SHIFT)


def thickness(plane: Array, contours: Sequence[Array]) -> float:
    """Mean thickness of the structures in `plane` (H, W), in pixels. Outlines no wider than a quarter of it leave vessels visible."""
    perimeter = sum(cv2.arcLength(contour, closed=True) for contour in contours)
    return 2 * float(np.count_nonzero(plane)) / max(perimeter, 1.0)


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

    Three or four channels of 8 bit are color (alpha is dropped); of any other stack the first channel is shown.
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


@dataclass(frozen=True)
class Panel:
    """One case: `image` (H, W[, C]) of any type, bool planes (K, H, W) of prediction and ground truth, a line of text.

    `mark` says why it is shown, such as 'worst'; marked panels come first.
    """

    image: Array
    pred: Array
    reference: Array | None = None
    caption: str = ""
    mark: str = ""


def panel(image: Array, pred: Array, reference: Array | None = None, caption: str = "", mark: str = "") -> Panel:
    """Panel of an image, or of the slice of a volume (D, H, W, C) with most ground truth (without one, most prediction)."""
    if image.ndim < 4:
        return Panel(image, pred, reference, caption, mark)
    masks = pred if reference is None or not reference.any() else reference
    z = int(masks.sum(axis=(0, 2, 3)).argmax()) if masks.any() else len(image) // 2
    return Panel(image[z], pred[:, z], None if reference is None else reference[:, z], f"{caption}   slice {z}", mark)


def samples(panels: Sequence[Panel], labels: LabelMap, out: Path, title: str = "") -> None:
    """Write the grid as a PNG below 2 MB: where it would be larger, the panels are drawn smaller."""
    cell = CELL
    while True:
        ok, data = cv2.imencode(".png", sample_grid(panels, labels, title, cell)[..., ::-1])
        if not ok:
            raise ValueError(f"{out}: OpenCV could not encode the image")
        if len(data) <= MAX_BYTES or cell == MIN_CELL:
            break
        cell = max(MIN_CELL, int(cell * min(0.9, 0.95 * math.sqrt(MAX_BYTES / len(data)))))
    write_bytes_atomic(out, data.tobytes())


def sample_grid(panels: Sequence[Panel], labels: LabelMap, title: str = "", cell: int = CELL) -> Array:
    """The grid as RGB uint8 (H, W, 3), with a legend of the classes and of the lines."""
    is_single = len(labels.classes) == 1
    keys = [] if is_single else class_keys(labels)
    color = labels.colors[0] if is_single else LIGHT
    keys.append(legend_key(f"prediction ({labels.classes[0]})" if is_single else "prediction", color))
    if any(panel.reference is not None for panel in panels):
        keys.append(legend_key("ground truth", LIGHT, dashed=True))
    return draw_grid(panels, labels, keys, title, cell)


def class_keys(labels: LabelMap) -> list[Line2D]:
    return [legend_key(name, color) for name, color in zip(labels.classes, labels.colors, strict=True)]


def legend_key(name: str, color: str | Color, dashed: bool = False) -> Line2D:
    from matplotlib.lines import Line2D

    rgb = color if isinstance(color, str) else "#{:02x}{:02x}{:02x}".format(*color)
    return Line2D([], [], color=rgb, linewidth=1.8, linestyle=(0, (3, 2)) if dashed else "-", label=name)


def draw_grid(panels: Sequence[Panel], labels: LabelMap, keys: Sequence[Line2D], title: str, cell: int) -> Array:
    """RGB uint8 (H, W, 3): panels, marked ones first, in a grid of about 3 x 2, above a legend of `keys`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: predictions draw outlines without loading matplotlib
    from matplotlib.figure import Figure

    aspect = float(np.median([one.image.shape[1] / one.image.shape[0] for one in panels])) if panels else 1.0
    aspect = min(max(aspect, 0.4), 2.5)
    height, width = round(cell / max(aspect, 1)), round(cell * min(aspect, 1))
    n = max(1, len(panels))
    columns = min(n, max(1, round(math.sqrt(n * 1.5 * height / width))))
    top = MARGIN + TITLE * bool(title)
    page_width = 2 * MARGIN + columns * (width + GAP) - GAP
    key_columns = _key_columns(keys, page_width)
    legend_height = LEGEND_LINE * math.ceil(len(keys) / key_columns)
    page_height = top + math.ceil(n / columns) * (height + CAPTION + GAP) + legend_height + MARGIN
    figure = Figure(figsize=(page_width / DPI, page_height / DPI), dpi=DPI, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    if title:
        figure.text(MARGIN / page_width, 1 - MARGIN / page_height, title, color="white", fontsize=9.5, va="top", parse_math=False)
    for i, one in enumerate(sorted(panels, key=lambda one: not one.mark)):
        row, column = divmod(i, columns)
        _draw_panel(figure, one, labels, (height, width), (top + row * (height + CAPTION + GAP), MARGIN + column * (width + GAP)))
    corner = (MARGIN / page_width, MARGIN / 2 / page_height)
    style = {"frameon": False, "fontsize": 7, "borderpad": 0, "borderaxespad": 0, "handlelength": 2.6, "labelcolor": "white"}
    legend = figure.legend(handles=keys, loc="lower left", bbox_to_anchor=corner, ncols=key_columns, **style)
    for line in legend.get_texts():
        line.set_parse_math(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # letters that the font lacks are drawn as boxes
        canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _key_columns(keys: Sequence[Line2D], width: int) -> int:
    """As many as fit, and no more than the number of lines needs."""
    longest = max((len(str(key.get_label())) for key in keys), default=1)
    most = max(1, int((width - 2 * MARGIN) / (longest * LETTER + 60)))
    return math.ceil(len(keys) / math.ceil(len(keys) / most))


def _draw_panel(figure: Figure, one: Panel, labels: LabelMap, cell: tuple[int, int], corner: tuple[int, int]) -> None:
    """Image in the middle of its cell (height, width) at `corner` (top, left), pixel by pixel; caption below, mark upon it."""
    page_width, page_height = (round(inches * DPI) for inches in figure.get_size_inches())
    (height, width), (top, left) = cell, corner
    text = partial(figure.text, color="white", va="top", parse_math=False)
    masks = [(one.pred, PREDICTION)] + ([(one.reference, REFERENCE)] if one.reference is not None else [])
    scale = min(height / one.image.shape[0], width / one.image.shape[1])
    drawn = outline(one.image, masks, labels.colors, scale)[:height, :width]
    rows, columns = drawn.shape[:2]
    figure.figimage(drawn, left + (width - columns) // 2, page_height - top - (height - rows) // 2 - rows, origin="upper")
    text(left / page_width, 1 - (top + height + 5) / page_height, shorten(one.caption, int(width / LETTER)), fontsize=7)
    if one.mark:
        badge = {"facecolor": MARK_COLOR, "edgecolor": "none", "boxstyle": "square,pad=0.3"}
        text((left + 5) / page_width, 1 - (top + 6) / page_height, one.mark, fontsize=6.5, weight="bold", bbox=badge)


def shorten(text: str, most: int) -> str:
    """Cut at the front: ids mostly differ at their end, and the score ends the caption."""
    return text if len(text) <= most else f"…{text[-max(1, most - 1) :]}"
