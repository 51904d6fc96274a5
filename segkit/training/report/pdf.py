"""The sections of a page as a PDF on A4, by matplotlib: no other package is needed, and charts are the page's own, as vectors.

A browser prints `report.html` as well; what makes PDF of HTML in Python needs system libraries (WeasyPrint: Pango) or a second layout.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from segkit.system.files import atomic_path
from segkit.system.page import Block, Chart, Code, Facts, Legend, Picture, Section, Table, Text

PAGE = (8.27, 11.69)
MARGIN = 0.7
WIDTH = PAGE[0] - 2 * MARGIN
POINT = 1 / 72
LETTER, LINE = 0.58, 1.45
"""Mean width of a letter, and height of a line, in font sizes."""
SIZE, SMALLEST = 8.0, 5.0
GAP = 0.14
COLORS = {"": "#333333", "lead": "#000000", "warning": "#9a5b00", "error": "#b3261e"}


def write_pdf(path: Path, title: str, sections: Iterable[Section]) -> None:
    about = {"Title": title, "CreationDate": None}
    with rc_context({"font.size": SIZE, "pdf.fonttype": 42}), atomic_path(path) as temporary, PdfPages(temporary, metadata=about) as pdf:
        pages = Pages(pdf)
        pages.text(title, 15, "#000000", weight="bold")
        for section in sections:
            pages.section(section)
        pages.end()


def fitting(width: float, size: float) -> int:
    """How many letters of that size fit into so many inches."""
    return max(8, int(width / (LETTER * size * POINT)))


@dataclass
class Pages:
    """A pen that goes down the page, and to the next one. `y`: inches below the upper edge."""

    pdf: PdfPages
    figure: Figure | None = None
    y: float = MARGIN

    def room(self, height: float) -> Figure:
        """The page with `height` inches below the pen: a new one where this one ends before."""
        if self.figure is None or self.y + height > PAGE[1] - MARGIN:
            self.end()
            self.figure, self.y = Figure(figsize=PAGE), MARGIN
        return self.figure

    def end(self) -> None:
        if self.figure is not None:
            self.pdf.savefig(self.figure)  # type: ignore[no-untyped-call]
        self.figure = None

    def write(self, x: float, text: str, size: float, **style: Any) -> None:
        """One line, `x` inches from the left margin."""
        figure = self.room(LINE * size * POINT)
        figure.text((MARGIN + x) / PAGE[0], 1 - self.y / PAGE[1], text, fontsize=size, va="top", parse_math=False, **style)

    def text(self, text: str, size: float = SIZE, color: str = COLORS[""], **style: Any) -> None:
        for line in textwrap.wrap(text, fitting(WIDTH, size)):
            self.write(0, line, size, color=color, **style)
            self.y += LINE * size * POINT
        self.y += GAP / 2

    def section(self, section: Section) -> None:
        if not section.blocks:
            return
        if section.title:
            self.y += GAP
            self.room(3.2 if isinstance(section.blocks[0], Chart | Picture) else 1.3)  # a heading does not end a page
            self.text(section.title, 11, "#000000", weight="bold")
        for is_figure, group in groupby(section.blocks, lambda block: isinstance(block, Chart | Picture)):
            blocks = list(group)
            if is_figure:
                self.pairs(blocks)
            else:
                for block in blocks:
                    self.block(block)

    def block(self, block: Block) -> None:
        if isinstance(block, Text):
            self.text(block.text, SIZE + 2 * (block.kind == "lead"), COLORS[block.kind])
        elif isinstance(block, Code):
            for line in block.lines:
                self.text(line, SIZE - 1, family="monospace")
        elif isinstance(block, Legend):
            self.legend(block)
        elif isinstance(block, Facts):
            self.rows([list(row) for row in block.rows], set(), {0}, smallest=SIZE)
        elif isinstance(block, Table):
            self.table(block)

    def legend(self, block: Legend) -> None:
        """A line each, in its color."""
        self.text(block.title, SIZE - 1)
        for name, color in block.colors.items():
            self.text(f"\N{BLACK SQUARE} {name}", SIZE - 1, "#{:02x}{:02x}{:02x}".format(*color))

    # --- tables -------------------------------------------------------------------------------------------------------

    def table(self, table: Table) -> None:
        for note in table.notes:
            self.text(note, SIZE - 1)
        right = {i for i, heading in enumerate(table.headings) if heading in table.numbers}
        self.rows([list(table.headings), *map(list, table.rows)], right, set(range(len(table.headings))), only_first=True)

    def rows(
        self, rows: Sequence[Sequence[str]], right: set[int], bold: set[int], only_first: bool = False, smallest: float = SMALLEST
    ) -> None:
        """Columns as wide as their longest text, in smaller letters where the page is too narrow; what is still too long is wrapped."""
        letters = [max(len(row[i]) for row in rows) + 2 for i in range(len(rows[0]))]
        size = max(smallest, min(SIZE, WIDTH / (sum(letters) * LETTER * POINT)))
        most = fitting(WIDTH, size)
        while sum(letters) > most and max(letters) > 12:
            letters[letters.index(max(letters))] -= 1
        starts = np.cumsum([0, *letters]) * LETTER * size * POINT
        for number, row in enumerate(rows):
            cells = [textwrap.wrap(text, max(4, wide - 2)) or [""] for text, wide in zip(row, letters, strict=True)]
            height = max(map(len, cells)) * LINE * size * POINT
            self.room(height)
            for i, lines in enumerate(cells):
                place = {"x": starts[i + 1] - LETTER * size * POINT, "ha": "right"} if i in right else {"x": starts[i], "ha": "left"}
                weight = "bold" if i in bold and (number == 0 or not only_first) else "normal"
                self.write(text="\n".join(lines), size=size, color=COLORS["lead"], weight=weight, linespacing=LINE / 1.2, **place)
            self.y += height
        self.y += GAP

    # --- charts and pictures ------------------------------------------------------------------------------------------

    def pairs(self, blocks: Sequence[Any]) -> None:
        """Two side by side; one alone that has no caption takes the whole width."""
        for i in range(0, len(blocks), 2):
            pair = blocks[i : i + 2]
            width = WIDTH if len(blocks) == 1 and not pair[0].caption else WIDTH / 2 - GAP / 2
            draws = [self.drawing(block, width) for block in pair]
            captions = [textwrap.wrap(block.caption, fitting(width, SIZE - 1)) for block in pair]
            text = max(map(len, captions)) * LINE * (SIZE - 1) * POINT
            height = max(height for height, _ in draws)
            self.room(height + text)
            for column, (own, draw) in enumerate(draws):
                x = column * (width + GAP)
                draw(MARGIN + x, self.y, width, own)
                self.y += height
                self.write(x, "\n".join(captions[column]), SIZE - 1, color=COLORS[""])
                self.y -= height
            self.y += height + text + GAP

    def drawing(self, block: Chart | Picture, width: float) -> tuple[float, Callable[[float, float, float, float], None]]:
        """Its height in inches at that width, and what draws it into (x, y, width, height)."""
        if isinstance(block, Chart):
            height = max(1.5, width * block.size[1] / block.size[0])
            return height, lambda x, y, *size: block.draw(self.axes(x, y, height, block.place(*size)))
        image = cv2.imdecode(np.frombuffer(block.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]  # type: ignore[index]
        return width * image.shape[0] / image.shape[1], lambda x, y, *size: self.show(image, x, y, size)

    def show(self, image: Any, x: float, y: float, size: tuple[float, ...]) -> None:
        axes = self.axes(x, y, size[1], (0, 0, *size))
        axes.imshow(image, aspect="auto")
        axes.axis("off")

    def axes(self, x: float, y: float, height: float, place: tuple[float, ...]) -> Axes:
        """Axes at `place` (left, bottom, width, height) in a cell whose upper left corner is (x, y); all in inches."""
        assert self.figure is not None
        (left, bottom, wide, high), (page_width, page_height) = place, PAGE
        floor = page_height - y - height + bottom
        return self.figure.add_axes(((x + left) / page_width, floor / page_height, wide / page_width, high / page_height))
