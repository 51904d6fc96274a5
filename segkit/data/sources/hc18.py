"""HC18: fetal heads on ultrasound (van den Heuvel et al., PLoS ONE 2018; hc18.grand-challenge.org).

    ROOT/training_set/NNN_HC.png, NNN_2HC.png, …          images, 800 x 540 grey mostly
    ROOT/training_set/NNN_HC_Annotation.png               the head as a thin ellipse outline, 0 and 255
    ROOT/training_set_pixel_size_and_HC.csv               filename, pixel size(mm), head circumference (mm)

NNN is one exam: its images form a group. Mirrors nest the folder once more (training_set/training_set). The unlabelled
test_set is not part of the cases.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from segkit.data.case import Case, relative
from segkit.data.io.base import ReadError
from segkit.data.io.images import ImageFile, read_mask
from segkit.data.phantoms import base
from segkit.data.phantoms import ultrasound as fetal_head
from segkit.data.sources.base import Keyed, image_files
from segkit.system.errors import Problem

Array = npt.NDArray[Any]

FOLDER = "training_set"
TABLE = "training_set_pixel_size_and_HC.csv"
SUFFIX = "_Annotation"
CANVAS = 812
"""The smallest square that source 001's network takes and that holds an image of 800 x 540."""
LEAST_FILL = 5.0
"""Filled over outline area. An open outline has about 1; closed ones of the data set have 18 (a head early in pregnancy) to 60."""


@dataclass(frozen=True)
class FilledOutline:
    """The `Pixels` of an annotation: the inside of its outline, 0 and 255 uint8.

    An outline that is not closed, or that the border of the image cuts, is replaced by the ellipse fitted to its pixels.
    `cells`: see `coarse`; None leaves the mask as it is.
    """

    path: Path
    cells: int | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> Array:
        outline = read_mask(self.path)
        if outline.ndim != 2:
            raise ReadError(self.path, "an outline has one channel, this file has colours")
        drawn = (outline > 0).astype(np.uint8)
        area = int(drawn.sum())
        if area < 5:
            raise ReadError(self.path, "holds no outline")
        filled = _inside(drawn)
        if _touches_border(drawn) or filled.sum() < LEAST_FILL * area:
            filled = _inside_ellipse(drawn)
        if filled.sum() < LEAST_FILL * area:
            raise ReadError(self.path, "holds no outline of a head: its inside is hardly larger than the line itself")
        return (filled if self.cells is None else coarse(filled, self.cells)) * np.uint8(255)


def coarse(mask: Array, cells: int) -> Array:
    """The mask of source 001, on its own grid: padded to 812 x 812, shrunk smoothly to `cells` x `cells`, and every cell that the
    head touches is head, since the source compares 0..255 with 0.5. With 68 cells the head has 1.2 times its area."""
    rows, columns = mask.shape
    side = max(CANVAS, rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    canvas = np.zeros((side, side), np.uint8)
    canvas[top : top + rows, left : left + columns] = mask * np.uint8(255)
    small = Image.fromarray(canvas).resize((cells, cells), Image.Resampling.BILINEAR)  # antialiased, as the source's torchvision
    touched = (np.asarray(small) > 0.5).astype(np.uint8)
    whole = cv2.resize(touched, (side, side), interpolation=cv2.INTER_NEAREST)
    return np.asarray(whole[top : top + rows, left : left + columns])


def _inside(drawn: Array) -> Array:
    """The largest external contour, filled."""
    contours, _ = cv2.findContours(drawn, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea)
    return cv2.drawContours(np.zeros_like(drawn), [largest], -1, 1, cv2.FILLED)


def _inside_ellipse(drawn: Array) -> Array:
    """Direct least squares (Fitzgibbon et al., 1999), which always yields an ellipse."""
    rows, columns = np.nonzero(drawn)
    ellipse = cv2.fitEllipseDirect(np.stack([columns, rows], axis=1).astype(np.float32))
    return cv2.ellipse(np.zeros_like(drawn), ellipse, 1, cv2.FILLED)


def _touches_border(drawn: Array) -> bool:
    return bool(drawn[0].any() or drawn[-1].any() or drawn[:, 0].any() or drawn[:, -1].any())


class HC18:
    """`root` holds training_set/ and the table, or is training_set itself. `cells`: see `coarse`."""

    default_labels: ClassVar[dict[int | str, str] | None] = {0: "background", 255: "head"}

    def __init__(self, root: Path, cells: int | None = None) -> None:
        self.root, self.cells = Path(root), cells
        self.problems: list[Problem] = []

    def cases(self) -> Iterator[Case]:
        folder = self._folder()
        if folder is None:
            fix = f"data.root = the folder that holds {FOLDER}/"
            self.problems.append(Problem(str(self.root), f"no {FOLDER}/ with *{SUFFIX}.png in it", fix))
            return
        table = self._table(folder)
        files = list(image_files(folder))
        images = Keyed.of((p for p in files if not p.stem.endswith(SUFFIX)), folder)
        outlines = Keyed.of((p for p in files if p.stem.endswith(SUFFIX)), folder, SUFFIX)
        for paths in (*images.several.values(), *outlines.several.values()):
            names = " and ".join(path.name for path in paths)
            self.problems.append(Problem(self._shown(paths[0]), f"ambiguous: {names}", "keep one of them"))
        for key, image in images.one.items():
            if key in outlines.one:
                yield self._case(key, image, outlines.one[key], table)
            elif key not in outlines:
                self.problems.append(Problem(self._shown(image), f"has no {key}{SUFFIX}.png", "add it, or move the image away"))
        for key in (k for k in outlines.one if k not in images):
            self.problems.append(Problem(self._shown(outlines.one[key]), f"has no image {key}.png", "add it, or move it away"))

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        rows = []
        for exam, k, drawing in fetal_head.exams(n, seed):
            stem = f"{exam:03d}_{k if k > 1 else ''}HC"
            base.write_png(root / FOLDER / f"{stem}.png", drawing.image)
            base.write_png(root / FOLDER / f"{stem}{SUFFIX}.png", drawing.outline)
            rows.append(f"{stem}.png,{drawing.pixel_mm:.12g},{drawing.circumference_mm:.2f}\r\n")
        header = "filename,pixel size(mm),head circumference (mm)\r\n"
        (root / TABLE).write_bytes((header + "".join(rows)).encode())

    def _folder(self) -> Path | None:
        """Where the images are; mirrors nest the folder, and some people name the inner one."""
        for folder in (self.root / FOLDER / FOLDER, self.root / FOLDER, self.root):
            if folder.is_dir() and any(folder.glob(f"*{SUFFIX}.png")):
                return folder
        return None

    def _case(self, key: str, image: Path, outline: Path, table: dict[str, tuple[float, float]]) -> Case:
        number = re.match(r"\d+", key)
        row = table.get(image.name)
        if row is None and table:
            what = "no row for it in the table: pixel size and circumference are unknown"
            self.problems.append(Problem(self._shown(image), what, f"add it to {TABLE}", "warning"))
        return Case(
            id=key,
            image=ImageFile(image),
            mask=FilledOutline(outline, self.cells),
            group=number.group() if number else "",
            spacing_mm=(row[0], row[0]) if row else (),
            facts={"hc_mm": row[1]} if row else {},
        )

    def _table(self, folder: Path) -> dict[str, tuple[float, float]]:
        """Pixel size and circumference, both mm, by file name; empty, with a warning, where the table is missing."""
        found = [place / TABLE for place in (folder, folder.parent, folder.parent.parent) if (place / TABLE).is_file()]
        if not found:
            what = f"{TABLE} is missing: no pixel size, so nothing is measured in mm"
            self.problems.append(Problem(self._shown(folder.parent), what, "put it there", "warning"))
            return {}
        with found[0].open(newline="", encoding="utf-8-sig") as file:
            rows = [{_plain(name): value for name, value in row.items() if name} for row in csv.DictReader(file)]
        try:
            if not rows:
                raise ValueError("no rows")
            return {row["filename"].strip(): (float(row["pixelsize(mm)"]), float(row["headcircumference(mm)"])) for row in rows}
        except (KeyError, ValueError, AttributeError) as error:
            what = f"cannot be understood ({type(error).__name__}: {error})"
            fix = "its header is  filename,pixel size(mm),head circumference (mm)"
            self.problems.append(Problem(self._shown(found[0]), what, fix))
            return {}

    def _shown(self, path: Path) -> str:
        shown = relative(path, self.root)
        return str(path) if shown == "." else shown


def _plain(header: str) -> str:
    """Copies of the table differ in the blanks of 'pixel size(mm)'."""
    return re.sub(r"\s+", "", header).lower()
