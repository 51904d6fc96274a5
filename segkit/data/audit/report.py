"""`audit.html`: what the audit found, as one page that needs nothing else, in light and dark."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np

from segkit.data.labels import PALETTE, Array
from segkit.system.errors import Problem, Severity

HEADINGS: dict[Severity, str] = {"error": "Errors", "warning": "Warnings", "note": "Notes"}
BARS = 24
WIDTH, HEIGHT = 260, 84
"""Of a histogram, in pixels."""
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5d6672; --line: #d9dee4; --paper: #fff; --panel: #f5f7f9;
  --error: #b3261e; --warning: #9a5b00; --note: #4a6380; --bar: #3f7cac; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #98a2ae; --line: #343b44; --paper: #14171b;
  --panel: #1d2126; --error: #ff8a80; --warning: #ffc166; --note: #9fc0e4; --bar: #6aa9d8; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 68rem; margin: 2.5rem auto;
  padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; } p { margin: .3rem 0 1rem; color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; } .number { text-align: right; }
.scroll { overflow-x: auto; } td { overflow-wrap: anywhere; }
code { font: .86em/1.45 ui-monospace, monospace; background: var(--panel); padding: .12em .4em; border-radius: .25em; }
.error { color: var(--error); } .warning { color: var(--warning); } .note { color: var(--note); }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em; }
.charts { display: flex; flex-wrap: wrap; gap: 1.2rem 2rem; } figure { margin: 0; } figcaption { font-size: .85rem; color: var(--soft); }
svg rect { fill: var(--bar); } svg text { fill: var(--soft); font-size: 11px; } svg line { stroke: var(--line); }
img { max-width: 100%; border-radius: 6px; }
"""


def audit_page(
    summary: Mapping[str, Any], problems: Sequence[Problem], distributions: Mapping[str, Sequence[float]], sheet: Array | None
) -> str:
    """HTML of the summary (as in audit.json), what is to fix, histograms by title, and the contact sheet (H, W, 3)."""
    counts = {severity: sum(problem.severity == severity for problem in problems) for severity in HEADINGS}
    verdict = ", ".join(f'<span class="{kind if n else ""}">{n} {kind}{"s" * (n != 1)}</span>' for kind, n in counts.items())
    charts = "".join(histogram(title, values) for title, values in distributions.items() if len(set(values)) > 1)
    sections = [
        f"<h1>Audit of {escape(summary['data'])}{' (synthetic)' * summary['synthetic']}</h1><p>{escape(summary['root'])}<br>{verdict}</p>",
        table(summary_rows(summary)),
        *(findings(severity, [p for p in problems if p.severity == severity]) for severity in HEADINGS),
        f"<h2>Classes</h2>{classes(summary['classes'])}",
        f'<h2>Distributions</h2><div class="charts">{charts}</div>' if charts else "",
        f'<h2>Cases</h2><p>Those under suspicion first, the others evenly spread.</p><img alt="Contact sheet" src="{embedded(sheet)}">'
        if sheet is not None
        else "",
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Audit of {escape(summary["data"])}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n' + "\n".join(sections) + "\n</body></html>\n"
    )


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    sizes = [f"{size} ({n})" for size, n in summary["sizes"].items()]
    spacing = summary["spacing_mm"]
    rows = [
        ("Cases", f"{summary['cases']}, of these {summary['labelled']} labelled, in {summary['groups']} groups"),
        ("Sizes", ", ".join(sizes[:6]) + (f" and {len(sizes) - 6} others" if len(sizes) > 6 else "")),
        ("Pixels", f"{', '.join(summary['dtypes'])}; channels {', '.join(map(str, summary['channels']))}"),
        ("Spacing", f"{spacing['min']:.3g} to {spacing['max']:.3g} mm, known for {spacing['known']}" if spacing else "unknown"),
        ("Labels", ", ".join(f"{raw}: {name}" for raw, name in summary["labels"]["values"].items())),
    ]
    if summary["split"]:
        rows.append(("Split", ", ".join(f"{n} {side}" for side, n in summary["split"].items() if n)))
    return [*rows, ("Fingerprint", summary["fingerprint"][:16])]


def table(rows: Sequence[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in rows) + "</table>"


def findings(severity: Severity, problems: Sequence[Problem]) -> str:
    """Where, what, and below it the line to type."""
    if not problems:
        return ""
    rows = "".join(
        f"<tr><th>{escape(p.where)}</th><td>{escape(p.what)}{f'<br><code>{escape(p.fix)}</code>' if p.fix else ''}</td></tr>"
        for p in problems
    )
    return f'<h2 class="{severity}">{HEADINGS[severity]}</h2><div class="scroll"><table>{rows}</table></div>'


def classes(shares: Mapping[str, Mapping[str, float]]) -> str:
    rows = "".join(
        f'<tr><th><span class="swatch" style="background: rgb{PALETTE[i % len(PALETTE)]}"></span>{escape(name)}</th>'
        f'<td class="number">{share["pixel_share"]:.2%}</td><td class="number">{share["mask_share"]:.0%}</td></tr>'
        for i, (name, share) in enumerate(shares.items())
    )
    head = '<tr><th>class</th><th class="number">share of the pixels</th><th class="number">masks that hold it</th></tr>'
    return f"<table>{head}{rows}</table>"


def histogram(title: str, values: Sequence[float]) -> str:
    """Inline SVG; least and greatest value below, how many above."""
    counts = np.histogram(values, bins=BARS)[0]
    step, base = WIDTH / len(counts), HEIGHT - 16
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{base - h:.1f}" width="{max(1, step - 1):.1f}" height="{h:.1f}"><title>{count}</title></rect>'
        for i, count in enumerate(counts.tolist())
        for h in [(base - 4) * count / counts.max()]
    )
    low, high = (f"{value:.4g}" for value in (min(values), max(values)))
    axis = f'<line x1="0" x2="{WIDTH}" y1="{base}" y2="{base}"/><text x="0" y="{HEIGHT - 3}">{low}</text>'
    axis += f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{high}</text>'
    picture = f'<svg role="img" aria-label="{escape(title)}" width="{WIDTH}" height="{HEIGHT}">{bars}{axis}</svg>'
    return f"<figure>{picture}<figcaption>{escape(title)} (n = {len(values)})</figcaption></figure>"


def embedded(picture: Array) -> str:
    """A JPEG as a data address."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
