"""The cases of an evaluation to look at: `samples.png`, and in `examples/` the worst and best ones with a map of their errors."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segkit.data.case import Case
from segkit.data.labels import IGNORE, Array, LabelMap
from segkit.data.overlays import PREDICTION, REFERENCE, Color, Panel, displayable, outline, panel
from segkit.inference.predictor import Prediction
from segkit.metrics.base import NAN
from segkit.metrics.table import Row, mean_of_known
from segkit.system.files import write_bytes_atomic, write_csv_atomic
from segkit.system.page import jpeg
from segkit.system.plain import reading

N_WORST, N_OTHERS, N_BEST = 4, 8, 4
FOLDER, INDEX = "examples", "examples.csv"
COLUMNS = ("kind", "case", "metric", "score", "file")
CELL, GAP = 300, 6
"""Longer side of a picture, and the white between two, in pixels."""
MISSED, EXTRA, CONFUSED = (0, 114, 178), (213, 94, 0), (204, 121, 167)
"""Pixels of a structure that were not found, that were found and show none, and that were taken for another one."""
ERROR_COLORS = {"missed": MISSED, "found where nothing is": EXTRA, "taken for another class": CONFUSED}


@dataclass(frozen=True)
class Example:
    """One case of an evaluation. `scored`: the predicted planes (K, H, W) without the pixels that do not count."""

    case: str
    metric: str
    score: float
    view: Panel
    scored: Array
    kind: str = ""
    """worst or best."""

    def picture(self, colors: Sequence[Color]) -> Array:
        """RGB (H, W, 3): the image with both outlines, and beside it the image with its wrong pixels."""
        view, reference = self.view, self.view.reference
        assert reference is not None
        scale = CELL / max(view.image.shape[:2])
        outlines = outline(view.image, [(view.pred, PREDICTION), (reference, REFERENCE)], colors, scale)
        errors = error_map(view.image, self.scored, reference, outlines.shape[:2])
        return np.concatenate([outlines, np.full((len(outlines), GAP, 3), 255, np.uint8), errors], axis=1)


def error_map(image: Array, pred: Array, reference: Array, size: tuple[int, ...]) -> Array:
    """RGB (*size, 3): the image (H, W[, C]) in light gray, with wrong pixels of the planes (K, H, W) in color."""
    height, width = size
    gray = np.asarray(cv2.cvtColor(displayable(image), cv2.COLOR_RGB2GRAY))
    light = (96 + cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA) * 0.6).astype(np.uint8)
    canvas = np.repeat(light[..., None], 3, axis=2)
    missed, extra = (reference & ~pred).any(0), (pred & ~reference).any(0)
    for wrong, color in ((missed, MISSED), (extra, EXTRA), (missed & extra, CONFUSED)):
        canvas[cv2.resize(np.asarray(wrong, np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0] = color
    return canvas


class Examples:
    """The cases that are shown, kept while they are evaluated, so that none is predicted twice.

    The worst and best are known at the end only, so those of them so far are kept. Candidates for the others are set beforehand,
    evenly over all cases. So no more than `2 * N_WORST + N_OTHERS + N_BEST` panels are in memory.
    """

    def __init__(self, n_cases: int, labels: LabelMap) -> None:
        self.labels, self.n = labels, 0
        self.candidates = set(evenly(range(n_cases), N_WORST + N_OTHERS))
        self.scores: dict[int, float] = {}  # by position, of the cases that are kept
        self.kept: dict[int, Example] = {}

    def add(self, case: Case, prediction: Prediction, target: Array, rows: Sequence[Row]) -> None:
        """`rows`: the case's lines of the table; their first column is its score."""
        position, self.n = self.n, self.n + 1
        column = next(iter(rows[0].values))
        score = mean_of_known([row.values.get(column, NAN) for row in rows])
        if math.isnan(score):
            return
        self.scores[position] = score
        for dropped in self.scores.keys() - self.candidates - set(self._worst()) - set(self._best()):
            del self.scores[dropped]
            self.kept.pop(dropped, None)
        if position in self.scores:
            self.kept[position] = self._example(case, prediction, target, column, score)

    def _example(self, case: Case, prediction: Prediction, target: Array, column: str, score: float) -> Example:
        planes, reference = self.labels.planes(prediction.mask), self.labels.planes(target)
        view = own_memory(panel(prediction.image, planes, reference, f"{case.id}   {column} {score:.3f}"))
        ignored = target == IGNORE
        scored = panel(prediction.image, planes & ~ignored, reference).pred.copy() if ignored.any() else view.pred
        return Example(case.id, column, score, view, scored)

    def _by_score(self) -> list[int]:
        return sorted(self.scores, key=lambda position: (self.scores[position], position))

    def _worst(self) -> list[int]:
        return self._by_score()[:N_WORST]

    def _best(self) -> list[int]:
        return sorted(self.scores, key=lambda position: (-self.scores[position], position))[:N_BEST]

    def panels(self) -> list[Panel]:
        """The worst first, then the others; both by their score. No more than a third is marked, and none that is as good as the best."""
        ranked = [position for position in self._by_score() if position in self.candidates or position in self._worst()]
        most = min(N_WORST, max(1, len(ranked) // 3))
        marked = [position for position in ranked[:most] if self.scores[position] < self.scores[ranked[-1]]]
        worst, others = ranked[:N_WORST], evenly(ranked[N_WORST:], N_OTHERS)
        panels = {position: self.kept[position].view for position in (*worst, *others)}
        return [replace(shown, mark="worst") if position in marked else shown for position, shown in panels.items()]

    def extremes(self) -> list[Example]:
        """The worst cases, worst first, and the best ones, best first; no case is both."""
        n = min(N_WORST, (len(self.scores) + 1) // 2)
        worst = self._worst()[:n]
        best = [position for position in self._best() if position not in worst]
        kinds = [*((position, "worst") for position in worst), *((position, "best") for position in best)]
        return [replace(self.kept[position], kind=kind) for position, kind in kinds]


def evenly(items: Sequence[Any], n: int) -> list[Any]:
    """At most `n` of the items, evenly from all over the list."""
    return [items[i * len(items) // n] for i in range(n)] if len(items) > n else list(items)


def own_memory(view: Panel) -> Panel:
    """A copy, so that one slice does not keep its volume in memory."""
    reference = None if view.reference is None else view.reference.copy()
    return replace(view, image=view.image.copy(), pred=view.pred.copy(), reference=reference)


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A picture of an example, as it is kept in the folder of an evaluation."""

    kind: str
    case: str
    metric: str
    score: float
    path: Path


def write_examples(folder: Path, examples: Sequence[Example], labels: LabelMap) -> None:
    """Write `examples/` with one JPEG an example and their list; an older one is replaced."""
    home = folder / FOLDER
    shutil.rmtree(home, ignore_errors=True)
    rows: list[list[object]] = [list(COLUMNS)]
    for i, example in enumerate(examples):
        name = f"{example.kind}_{1 + sum(other.kind == example.kind for other in examples[:i])}.jpg"
        write_bytes_atomic(home / name, jpeg(example.picture(labels.colors)))
        rows.append([example.kind, example.case, example.metric, example.score, name])
    if examples:
        write_csv_atomic(home / INDEX, rows)


def read_examples(folder: Path) -> list[Shown]:
    """What `write_examples` wrote; empty where it did not. SegkitError where the list is damaged."""
    path = folder / FOLDER / INDEX
    return list(_read(path)) if path.is_file() else []


def _read(path: Path) -> Iterator[Shown]:
    with reading(path), path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, restval=""):
            yield Shown(row["kind"], row["case"], row["metric"], float(row["score"]), path.with_name(Path(row["file"]).name))
