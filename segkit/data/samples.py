"""`samples.png`: images with truth and prediction outlined, the worst cases first."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segkit.data.labels import Array, LabelMap
from segkit.data.overlays import PREDICTION, TRUTH, outline
from segkit.system.files import write_bytes_atomic

DPI = 128
"""A power of two, so that pixels / DPI * DPI is exact."""
MOST_BYTES = 2_000_000
CELL, SMALLEST_CELL = 360, 96
"""Longer side of a panel, in pixels."""
MARGIN, GAP, CAPTION, TITLE, LEGEND_LINE = 12, 10, 26, 30, 22
LETTER = 7.5
"""Mean width of a letter of the caption, in pixels."""
DARK, LIGHT, MARK_COLOUR = (28, 28, 28), "#f2f2f2", "#d55e00"


@dataclass(frozen=True)
class Panel:
    """One case: `image` (H, W[, C]) of any type, bool planes (K, H, W) of prediction and truth, a line of text.

    `mark` says why it is shown, such as 'worst'; marked panels come first.
    """

    image: Array
    pred: Array
    truth: Array | None = None
    caption: str = ""
    mark: str = ""


def panel(image: Array, pred: Array, truth: Array | None = None, caption: str = "", mark: str = "") -> Panel:
    """Of an image, or of the slice of a volume (D, H, W, C) in which the truth is largest (without one, the prediction)."""
    if image.ndim < 4:
        return Panel(image, pred, truth, caption, mark)
    masks = pred if truth is None or not truth.any() else truth
    z = int(masks.sum(axis=(0, 2, 3)).argmax()) if masks.any() else len(image) // 2
    return Panel(image[z], pred[:, z], None if truth is None else truth[:, z], f"{caption}   slice {z}", mark)


@dataclass(frozen=True)
class Grid:
    """Where the panels lie, in pixels from the upper left."""

    columns: int
    rows: int
    cell: tuple[int, int]
    top: int
    legend: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.cell
        return (
            self.top + self.rows * (height + CAPTION + GAP) + self.legend + MARGIN,
            2 * MARGIN + self.columns * (width + GAP) - GAP,
        )

    def place(self, i: int) -> tuple[int, int]:
        """Top and left of panel `i`."""
        row, column = divmod(i, self.columns)
        return self.top + row * (self.cell[0] + CAPTION + GAP), MARGIN + column * (self.cell[1] + GAP)


def samples(panels: Sequence[Panel], labels: LabelMap, out: Path, title: str = "") -> None:
    """Write the grid as a PNG below 2 MB: where it would be larger, the panels are drawn smaller."""
    cell = CELL
    while True:
        ok, data = cv2.imencode(".png", sample_grid(panels, labels, title, cell)[..., ::-1])
        if not ok:
            raise ValueError(f"{out}: OpenCV could not encode the picture")
        if len(data) <= MOST_BYTES or cell == SMALLEST_CELL:
            break
        cell = max(SMALLEST_CELL, int(cell * min(0.9, 0.95 * math.sqrt(MOST_BYTES / len(data)))))
    write_bytes_atomic(out, data.tobytes())


def sample_grid(panels: Sequence[Panel], labels: LabelMap, title: str = "", cell: int = CELL) -> Array:
    """The same picture as RGB uint8 (H, W, 3), for TensorBoard."""
    panels = sorted(panels, key=lambda panel: not panel.mark)
    entries = legend_entries(labels, any(panel.truth is not None for panel in panels))
    grid = layout(panels, [entry.get_label() for entry in entries], bool(title), cell)
    pictures = np.full((*grid.size, 3), DARK, np.uint8)
    for i, panel in enumerate(panels):
        paste(pictures, panel, labels, grid, grid.place(i))
    return write_text(pictures, panels, entries, grid, title)


def layout(panels: Sequence[Panel], names: Sequence[object], has_title: bool, cell: int) -> Grid:
    """About three panels wide to two high; cells as wide and high as the images, in the middle, are to one another."""
    aspect = float(np.median([panel.image.shape[1] / panel.image.shape[0] for panel in panels])) if panels else 1.0
    aspect = min(max(aspect, 0.4), 2.5)
    height, width = round(cell / max(aspect, 1)), round(cell * min(aspect, 1))
    n = max(1, len(panels))
    columns = min(n, max(1, round(math.sqrt(n * 1.5 * height / width))))
    in_a_line = legend_columns(names, 2 * MARGIN + columns * (width + GAP) - GAP)
    legend = LEGEND_LINE * math.ceil(len(names) / in_a_line)
    return Grid(columns, math.ceil(n / columns), (height, width), MARGIN + (TITLE if has_title else 0), legend)


def paste(pictures: Array, panel: Panel, labels: LabelMap, grid: Grid, corner: tuple[int, int]) -> None:
    """Draw one panel in place, in the middle of its cell."""
    height, width = panel.image.shape[:2]
    scale = min(grid.cell[0] / height, grid.cell[1] / width)
    masks = [(panel.pred, PREDICTION)] + ([(panel.truth, TRUTH)] if panel.truth is not None else [])
    picture = outline(panel.image, masks, labels.colours, scale)[: grid.cell[0], : grid.cell[1]]
    top, left = (c + (room - n) // 2 for c, room, n in zip(corner, grid.cell, picture.shape, strict=False))
    pictures[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def write_text(pictures: Array, panels: Sequence[Panel], entries: list[Line2D], grid: Grid, title: str) -> Array:
    """The pictures with title, captions, marks and legend."""
    height, width = grid.size
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.figimage(pictures, resize=False)
    if title:
        figure.text(MARGIN / width, 1 - MARGIN / height, title, color="white", fontsize=9.5, va="top", parse_math=False)
    for i, panel in enumerate(panels):
        top, left = grid.place(i)
        x, below = left / width, 1 - (top + grid.cell[0] + 5) / height
        text = shorten(panel.caption, int(grid.cell[1] / LETTER))
        figure.text(x, below, text, color="white", fontsize=7, va="top", parse_math=False)
        if panel.mark:
            badge = {"facecolor": MARK_COLOUR, "edgecolor": "none", "boxstyle": "square,pad=0.3"}
            at = ((left + 5) / width, 1 - (top + 6) / height)
            figure.text(*at, panel.mark, color="white", fontsize=6.5, weight="bold", va="top", bbox=badge)
    names = [entry.get_label() for entry in entries]
    legend = figure.legend(
        handles=entries,
        loc="lower left",
        bbox_to_anchor=(MARGIN / width, MARGIN / 2 / height),
        ncols=legend_columns(names, width),
        frameon=False,
        fontsize=7,
        borderpad=0,
        borderaxespad=0,
        handlelength=2.6,
    )
    for line in legend.get_texts():
        line.set_color("white")
        line.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=DPI)
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)[..., :3].copy()


def legend_entries(labels: LabelMap, with_truth: bool) -> list[Line2D]:
    """The colours of the classes, and which line is the prediction and which the truth."""
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in labels.colours]
    single = len(colours) == 1
    entries = [] if single else [key(*pair) for pair in zip(labels.classes, colours, strict=True)]
    entries.append(key(f"prediction ({labels.classes[0]})" if single else "prediction", colours[0] if single else LIGHT))
    return [*entries, key("truth", LIGHT, dashed=True)] if with_truth else entries


def key(name: str, colour: str, dashed: bool = False) -> Line2D:
    return Line2D([], [], color=colour, linewidth=1.8, linestyle=(0, (3, 2)) if dashed else "-", label=name)


def legend_columns(names: Sequence[object], width: int) -> int:
    """As many as fit, and no more than the number of lines asks for."""
    longest = max((len(str(name)) for name in names), default=1)
    most = max(1, int((width - 2 * MARGIN) / (longest * LETTER + 60)))
    return math.ceil(len(names) / math.ceil(len(names) / most))


def shorten(text: str, most: int) -> str:
    """Cut at the front: what tells ids apart is mostly at their end, and the score ends the caption."""
    return text if len(text) <= most else f"…{text[-max(1, most - 1) :]}"
