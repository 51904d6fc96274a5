"""Pages that need no other file and no network: text, tables, charts and pictures, dark on white, for screen, phone and paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
JPEG_QUALITY = 85
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""Of an SVG: what would make each one different, and name addresses."""


# --- what a page consists of ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A paragraph. `kind`: error, warning, or lead for the first one of a page."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Facts:
    """Names and texts, one pair a line."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Headings and rows. `numbers`: headings of right-aligned columns; `notes` stand above it."""

    headings: Sequence[str]
    numbers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """What `draw` draws into one pair of axes. All in inches: `size`, and the room for labels left of the axes and below."""

    caption: str
    draw: Callable[[Axes], None]
    size: tuple[float, float] = (4.7, 2.9)
    left: float = 0.62
    below: float = 0.5

    def place(self, width: float, height: float) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of the axes in a cell, in inches. Fixed, as a layout engine takes as long as the drawing."""
        return self.left, self.below, width - self.left - 0.12, height - self.below - 0.14


@dataclass(frozen=True)
class Picture:
    """The bytes of a JPEG or PNG file."""

    caption: str
    data: bytes


@dataclass(frozen=True)
class Legend:
    """What colors (RGB, 0 to 255) stand for."""

    title: str
    colors: Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Code:
    """Lines to type."""

    lines: Sequence[str]


Block = Text | Facts | Table | Chart | Picture | Legend | Code


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; a section without blocks is left out."""

    title: str
    blocks: Sequence[Block]


# --- HTML -------------------------------------------------------------------------------------------------------------


def document(title: str, parts: Iterable[str], style: str = "", script: str = "") -> str:
    """The whole page of `parts`, which are HTML already; empty ones are left out. `title` is text."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
    body = "\n".join(filter(None, parts)) + (f"\n<script>{script}</script>" if script else "")
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}{style}</style></head>\n<body>\n{body}\n</body></html>\n'


def html(title: str, sections: Iterable[Section]) -> str:
    """The page of some sections; the blocks of the first one, which needs no title, stand below the page's own."""
    parts = [f"<h1>{escape(title)}</h1>"]
    for section in sections:
        if section.blocks:
            parts += [f"<h2>{escape(section.title)}</h2>" if section.title else "", *_blocks(section.blocks)]
    return document(title, parts)


def _blocks(blocks: Sequence[Block]) -> Iterable[str]:
    """Charts and pictures that follow each other flow side by side."""
    for is_figure, group in groupby(blocks, lambda block: isinstance(block, Chart | Picture)):
        inner = "\n".join(_HTML[type(block)](block) for block in group)
        yield f'<div class="charts">\n{inner}\n</div>' if is_figure else inner


def text_html(block: Text) -> str:
    return f"<p{f' class={chr(34)}{block.kind}{chr(34)}' if block.kind else ''}>{escape(block.text)}</p>"


def facts_html(block: Facts) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in block.rows)
    return f'<table class="facts">{rows}</table>'


def table_html(block: Table) -> str:
    rows = "".join(f"<tr>{''.join(cells(block, row))}</tr>\n" for row in block.rows)
    notes = f"<p>{'<br>'.join(map(escape, block.notes))}</p>" if block.notes else ""
    head = "".join(cells(block, block.headings, "th"))
    return f'{notes}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>'


def cells(block: Table, row: Sequence[str], tag: str = "td") -> list[str]:
    """The cells of a row, those of numbers aligned to the right."""
    classes = [' class="number"' if heading in block.numbers else "" for heading in block.headings]
    return [f"<{tag}{of}>{escape(text)}</{tag}>" for of, text in zip(classes, row, strict=True)]


def chart_html(block: Chart) -> str:
    return f"<figure>{svg(block)}<figcaption>{escape(block.caption)}</figcaption></figure>"


def picture_html(block: Picture) -> str:
    return f"<figure>{image(block.data, block.caption)}<figcaption>{escape(block.caption)}</figcaption></figure>"


def legend_html(block: Legend) -> str:
    keys = [f'<span class="key">{swatch(color)}{escape(name)}</span>' for name, color in block.colors.items()]
    return f"<p>{escape(block.title)} {' '.join(keys)}</p>"


def swatch(color: tuple[int, int, int]) -> str:
    return f'<span class="swatch" style="background: rgb{tuple(color)}"></span>'


def code_html(block: Code) -> str:
    return f"<pre>{escape(chr(10).join(block.lines))}</pre>"


_HTML: dict[type, Callable[[Any], str]] = {
    Text: text_html,
    Facts: facts_html,
    Table: table_html,
    Chart: chart_html,
    Picture: picture_html,
    Legend: legend_html,
    Code: code_html,
}


def svg(chart: Chart) -> str:
    """The chart as inline SVG, with text as text, which any size keeps legible."""
    from matplotlib import rc_context  # here: a page without charts needs no matplotlib
    from matplotlib.figure import Figure

    figure, (width, height) = Figure(figsize=chart.size), chart.size
    left, bottom, wide, high = chart.place(width, height)
    chart.draw(figure.add_axes((left / width, bottom / height, wide / width, high / height)))
    out = io.StringIO()
    # the salt makes names that no other chart of the page has, and that are the same each time
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.caption, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata=NO_METADATA)
    _, _, body = out.getvalue().partition("<svg")
    return f'<svg role="img" aria-label="{escape(chart.caption)}"{body}'


def image(data: bytes, alt: str) -> str:
    """A JPEG or PNG inside the page."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def jpeg(rgb: Any) -> bytes:
    """The bytes of an RGB image (H, W, 3) uint8."""
    return bytes(cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
