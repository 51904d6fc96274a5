"""`contact_sheet.png`: cases of a data set with their classes outlined, those under suspicion first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from segkit.data.case import Case, Manifest, encoded_mask
from segkit.data.io.base import ReadError
from segkit.data.labels import IGNORE, Array, LabelMap
from segkit.data.samples import DARK, Panel, key, layout, panel, paste, write_text

MOST = 24
CELL = 300
"""Longer side of a panel, in pixels."""


def contact_sheet(manifest: Manifest, marks: Mapping[str, str], title: str = "") -> Array | None:
    """RGB uint8 (H, W, 3), or None where no case can be read. `marks` says by case id why a case is shown first."""
    read = (panel_of(case, manifest.labels, marks.get(case.id, "")) for case in chosen(manifest.cases, marks))
    panels = sorted((one for one in read if one is not None), key=lambda one: not one.mark)
    if not panels:
        return None
    labels = manifest.labels
    entries = [key(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in zip(labels.classes, labels.colours, strict=True)]
    grid = layout(panels, labels.classes, bool(title), CELL)
    pictures = np.full((*grid.size, 3), DARK, np.uint8)
    for i, one in enumerate(panels):
        paste(pictures, one, labels, grid, grid.place(i))
    return write_text(pictures, panels, entries, grid, title)


def chosen(cases: Sequence[Case], marks: Mapping[str, str], most: int = MOST) -> list[Case]:
    """Up to half of them marked, with each mark in turn; the rest evenly spread over the data set."""
    turn: dict[str, int] = {}
    queue = []
    for case in cases:
        if mark := marks.get(case.id):
            turn[mark] = turn.get(mark, 0) + 1
            queue.append((turn[mark], case))
    marked = [case for _, case in sorted(queue, key=lambda item: item[0])][: most // 2]
    ids = {case.id for case in marked}
    others = [case for case in cases if case.id not in ids]
    n = min(most - len(marked), len(others))
    return marked + [others[i * len(others) // n] for i in range(n)]


def panel_of(case: Case, labels: LabelMap, mark: str) -> Panel | None:
    """The image, of a volume the slice with most foreground, with its classes; None where a file cannot be read."""
    try:
        image = case.image.read()
        planes = class_planes(case, labels, image.shape[:-1])
    except ReadError:
        return None
    return panel(image, planes, caption=case.id, mark=mark)


def class_planes(case: Case, labels: LabelMap, shape: tuple[int, ...]) -> Array:
    """Bool (K, *S) by class; all empty where masks do not fit the image or the label map."""
    if case.masks and ("" in case.masks) != labels.overlap:
        truth = encoded_mask(case, labels)
        if truth.shape[-len(shape) :] == shape:
            known = np.where(truth == IGNORE, 0, truth)
            return known > 0 if labels.overlap else np.stack([known == k for k in range(1, len(labels.classes) + 1)])
    return np.zeros((len(labels.classes), *shape), bool)
