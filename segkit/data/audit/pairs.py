"""Pairs of images that look alike, side by side in the audit's page: a person decides whether they show one patient."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from segkit.data.audit.audited import Pair
from segkit.data.case import Case, Manifest
from segkit.data.io.base import ReadError
from segkit.data.overlays import displayable, panel
from segkit.data.splits import Split
from segkit.system.page import image, jpeg

MAX_DRAWN = 40
"""Pairs that are drawn; the others are listed."""
CELL = 320
"""Longer side of an image, in pixels."""


def rows_of(pairs: Sequence[Pair], split: Split | None) -> list[dict[str, str | float]]:
    """All pairs for audit.json, most alike first."""
    subset_of = split.subset_of if split else {}
    return [
        {"case": a, "subset": subset_of.get(a, ""), "like": b, "like_subset": subset_of.get(b, ""), "correlation": round(r, 4)}
        for a, b, r in pairs
    ]


def section(manifest: Manifest, pairs: Sequence[Pair], split: Split | None) -> str:
    """HTML: every pair, the first `MAX_DRAWN` with their images; empty without any."""
    if not pairs:
        return ""
    rows = []
    for number, row in enumerate(rows_of(pairs, split)):
        cells = [
            f"<td>{escape(str(row[case]))}, {escape(str(row[subset]))}<br>"
            f"{picture(manifest.by_id[str(row[case])]) if number < MAX_DRAWN else ''}</td>"
            for case, subset in (("case", "subset"), ("like", "like_subset"))
        ]
        rows.append(f'<tr>{"".join(cells)}<td class="number">{row["correlation"]:.3f}</td></tr>')
    what = "Images of different groups in different subsets. Scans of different patients may look alike, too: look before you group them."
    head = '<tr><th colspan="2">images</th><th class="number">correlation</th></tr>'
    return f'<h2>Look alike</h2><p>{what}</p><div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def picture(case: Case) -> str:
    """An inline JPEG of an image, or of the middle slice of a volume; empty where it cannot be read."""
    try:
        read = case.image.read()
    except ReadError:
        return ""
    shown = displayable(panel(read, np.zeros((1, *read.shape[:-1]), bool)).image)
    scale = CELL / max(shown.shape[:2])
    small = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return image(jpeg(small), case.id)
