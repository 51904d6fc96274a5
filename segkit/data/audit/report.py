"""The report of an audit: its numbers, `contact_sheet.png`, and `audit.html`, one self-contained page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from itertools import zip_longest
from typing import Any

import numpy as np

from segkit.data.audit.audit import SEVERITIES, AuditResult
from segkit.data.case import Case, Manifest, encoded_mask, grouped
from segkit.data.io.base import ReadError
from segkit.data.labels import IGNORE, Array, LabelMap, color_of
from segkit.data.overlays import Panel, class_keys, draw_grid, panel
from segkit.data.quantiles import MEDIAN
from segkit.data.statistics import Statistics, data_fingerprint
from segkit.system.errors import Problem, Severity
from segkit.system.page import document, image, jpeg, swatch

MAX_SHOWN = 24
"""Cases on the contact sheet."""
CELL = 300
"""Longer side of one, in pixels."""
MAX_HISTOGRAMS = 8
"""Classes whose sizes are drawn, the first ones."""
BARS = 24
WIDTH, HEIGHT = 260, 84
"""Size of a histogram, in pixels."""


# numbers


def summarize(result: AuditResult) -> dict[str, Any]:
    """The data set in numbers, JSON-able. Class frequencies: share of all pixels, and of the masks that hold the class."""
    manifest, statistics, split = result.manifest, result.statistics, result.split
    readable = [statistics[case.id] for case in manifest if not statistics[case.id].errors]
    spacing = [case.pixel_mm for case in manifest if case.pixel_mm]
    return {
        "data": manifest.name,
        "root": str(manifest.root),
        "synthetic": manifest.is_phantom,
        "dims": manifest.dims,
        "cases": len(manifest),
        "labelled": len(result.labelled),
        "groups": len({case.group_or_id for case in manifest}),
        "sizes": {" x ".join(map(str, shape)): n for shape, n in Counter(stats.shape for stats in readable).most_common()},
        "channels": sorted({stats.channels for stats in readable}),
        "dtypes": sorted({stats.dtype for stats in readable}),
        "spacing_mm": {"known": len(spacing), "min": min(map(min, spacing)), "max": max(map(max, spacing))} if spacing else None,
        "labels": manifest.labels.as_dict(),
        "classes": _class_shares(manifest, statistics),
        "split": {subset: len(split.ids(subset)) for subset in ("train", "val", "test")} if split else None,
        "excluded": list(split.excluded) if split else [],
        "fingerprint": data_fingerprint(statistics),
    }


def _class_shares(manifest: Manifest, statistics: Statistics) -> dict[str, dict[str, float]]:
    masked = [statistics[case.id] for case in manifest if statistics[case.id].masks]
    pixels = sum(next(iter(stats.masks.values())).pixels for stats in masked)
    counts = [stats.class_pixels(manifest.labels) for stats in masked]
    return {
        name: {
            "pixel_share": sum(count[name] for count in counts) / max(1, pixels),
            "mask_share": sum(count[name] > 0 for count in counts) / max(1, len(counts)),
        }
        for name in (manifest.labels.classes if masked else ())
    }


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Titles and texts, for the page and the terminal; of a data set without cases, or without readable ones, what is known."""
    if not summary["cases"]:
        return [("Cases", "none")]
    sizes = [f"{size} ({n})" for size, n in summary["sizes"].items()]
    spacing = summary["spacing_mm"]
    cases = f"{summary['cases']}, of these {summary['labelled']} labelled, in {summary['groups']} groups"
    if not sizes:
        return [("Cases", f"{cases}; none can be read")]
    rows = [
        ("Cases", cases),
        ("Sizes", ", ".join(sizes[:6]) + (f" and {len(sizes) - 6} others" if len(sizes) > 6 else "")),
        ("Pixels", f"{', '.join(summary['dtypes'])}; channels {', '.join(map(str, summary['channels']))}"),
        ("Spacing", f"{spacing['min']:.3g} to {spacing['max']:.3g} mm, known for {spacing['known']}" if spacing else "unknown"),
        ("Labels", ", ".join(f"{raw}: {name}" for raw, name in summary["labels"]["values"].items())),
    ]
    if summary["split"]:
        rows.append(("Split", ", ".join(f"{n} {subset}" for subset, n in summary["split"].items() if n)))
    return [*rows, ("Fingerprint", summary["fingerprint"][:16])]


def distributions(result: AuditResult) -> dict[str, list[float]]:
    """The histograms of the page, by title; one number a case."""
    labels = result.manifest.labels
    cases = [(case, result.statistics[case.id]) for case in result.manifest if not result.statistics[case.id].errors]
    axes = ("slices", "rows", "columns")[-result.manifest.dims :]
    shown: dict[str, list[float]] = {name: [stats.shape[i] for _, stats in cases] for i, name in enumerate(axes)}
    sizes = [case.pixel_mm for case, _ in cases if case.pixel_mm]
    shown |= {f"size of a pixel, {name}, in mm": [mm[i] for mm in sizes] for i, name in enumerate(axes)}
    channels = max((stats.channels for _, stats in cases), default=0)
    for c in range(min(channels, 4)):
        title = f"median intensity{f', channel {c + 1}' if channels > 1 else ''}"
        shown[title] = [stats.quantiles[c][MEDIAN] for _, stats in cases if stats.channels > c]
    pixels = [(stats.class_pixels(labels), math.prod(stats.shape)) for case, stats in cases if case.masks]
    for name in labels.classes[:MAX_HISTOGRAMS]:
        shown[f"share of {name} in its image, in %"] = [100 * counts[name] / max(1, n) for counts, n in pixels if counts[name]]
    return shown


# the contact sheet


def contact_sheet(manifest: Manifest, marks: Mapping[str, str], title: str = "") -> Array | None:
    """Draw cases with their classes outlined.

    The files of the up to MAX_SHOWN cases are read again: the audit keeps no pixels.

    Args:
        manifest: All cases.
        marks: By case id why a case is shown first.
        title: Above the figure.

    Returns:
        RGB uint8 (H, W, 3), or None where no case can be read.
    """
    read = (_panel_of(case, manifest.labels, marks.get(case.id, "")) for case in chosen(manifest.cases, marks))
    panels = [one for one in read if one is not None]
    return draw_grid(panels, manifest.labels, class_keys(manifest.labels), title, CELL) if panels else None


def chosen(cases: Sequence[Case], marks: Mapping[str, str], most: int = MAX_SHOWN) -> list[Case]:
    """Up to half of them marked, with each mark in turn; the rest evenly spread over the data set."""
    by_mark = grouped((marks[case.id], case) for case in cases if marks.get(case.id))
    marked = [case for turn in zip_longest(*by_mark.values()) for case in turn if case is not None][: most // 2]
    ids = {case.id for case in marked}
    others = [case for case in cases if case.id not in ids]
    n = min(most - len(marked), len(others))
    return marked + [others[i * len(others) // n] for i in range(n)]


def _panel_of(case: Case, labels: LabelMap, mark: str) -> Panel | None:
    """None where a file cannot be read; no outlines where masks do not fit the image or the label map."""
    try:
        image = case.image.read()
        planes = np.zeros((len(labels.classes), *image.shape[:-1]), bool)
        if case.masks and ("" in case.masks) != labels.overlap:
            known = encoded_mask(case, labels)
            known = np.where(known == IGNORE, 0, known)
            if known.shape[-planes.ndim + 1 :] == planes.shape[1:]:
                planes = known > 0 if labels.overlap else np.stack([known == k for k in range(1, len(labels.classes) + 1)])
        return panel(image, planes, caption=case.id, mark=mark)
    except (ReadError, MemoryError):
        return None


# the page


def audit_page(
    summary: Mapping[str, Any],
    problems: Sequence[Problem],
    distributions: Mapping[str, Sequence[float]],
    sheet: Array | None,
    alike: str = "",
) -> str:
    """HTML of the summary (as in audit.json), the problems, histograms by title, the contact sheet (H, W, 3), and what is `alike`."""
    counts = {severity: sum(problem.severity == severity for problem in problems) for severity in SEVERITIES}
    verdict = ", ".join(f'<span class="{kind if n else ""}">{n} {kind}{"s" * (n != 1)}</span>' for kind, n in counts.items())
    charts = "".join(histogram(title, values) for title, values in distributions.items() if len(set(values)) > 1)
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in summary_rows(summary))
    title = f"Audit of {summary['data']}"
    sections = [
        f"<h1>{escape(title)}{' (synthetic)' * summary['synthetic']}</h1>",
        f"<p>{escape(summary['root'])}<br>{verdict}</p><table>{rows}</table>",
        *(_problems(severity, [p for p in problems if p.severity == severity]) for severity in SEVERITIES),
    ]
    if summary["classes"]:
        sections.append(f"<h2>Classes</h2>{_classes(summary['classes'])}")
    if charts:
        classes = summary["classes"]
        first = f"<p>Of {len(classes)} classes the first {MAX_HISTOGRAMS} are drawn.</p>" if len(classes) > MAX_HISTOGRAMS else ""
        sections.append(f'<h2>Distributions</h2>{first}<div class="charts">{charts}</div>')
    if sheet is not None:
        what = "Those with errors or warnings first, the others evenly spread."
        sections.append(f"<h2>Cases</h2><p>{what}</p>{image(jpeg(sheet), 'Contact sheet')}")
    return document(title, [*sections, alike])


def _problems(severity: Severity, problems: Sequence[Problem]) -> str:
    """File or key, what is wrong, and below it the fix."""
    if not problems:
        return ""
    rows = "".join(
        f"<tr><th>{escape(p.where)}</th><td>{escape(p.what)}{f'<br><code>{escape(p.fix)}</code>' if p.fix else ''}</td></tr>"
        for p in problems
    )
    return f'<h2 class="{severity}">{severity.capitalize()}s</h2><div class="scroll"><table>{rows}</table></div>'


def _classes(shares: Mapping[str, Mapping[str, float]]) -> str:
    rows = "".join(
        f"<tr><th>{swatch(color_of(i))}{escape(name)}</th>"
        f'<td class="number">{share["pixel_share"]:.2%}</td><td class="number">{share["mask_share"]:.0%}</td></tr>'
        for i, (name, share) in enumerate(shares.items())
    )
    head = '<tr><th>class</th><th class="number">share of the pixels</th><th class="number">masks that hold it</th></tr>'
    return f"<table>{head}{rows}</table>"


def histogram(title: str, values: Sequence[float]) -> str:
    """Inline SVG with the least and greatest value below; each bar's count is its tooltip."""
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
    figure = f'<svg class="bars" role="img" aria-label="{escape(title)}" width="{WIDTH}" height="{HEIGHT}">{bars}{axis}</svg>'
    return f"<figure>{figure}<figcaption>{escape(title)} (n = {len(values)})</figcaption></figure>"
