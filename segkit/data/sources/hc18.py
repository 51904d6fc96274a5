"""HC18: fetal heads on ultrasound."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segkit.data.case import Case
from segkit.data.io.base import Array, File, ReadError, read_table
from segkit.data.io.images import ImageFile, read_mask
from segkit.data.phantoms import ultrasound
from segkit.data.phantoms.base import write_png
from segkit.data.sources.base import Source
from segkit.data.sources.files import Keyed, image_files

FOLDER, SUFFIX = "training_set", "_Annotation"
TABLE = "training_set_pixel_size_and_HC.csv"
CANVAS = 812
"""The smallest square that the network of the HC18 U-Net notebook takes and that holds an image of 800 x 540."""
LEAST_FILL = 5.0
"""Filled over outline area. An open outline has about 1; closed ones of the data set have 18 (a head early in pregnancy) to 60."""


@dataclass(frozen=True)
class FilledOutline(File):
    """The inside of an outline, 0 and 255 uint8.

    An outline that is not closed, or that the border of the image cuts, is replaced by the ellipse fitted to its pixels.
    `cells`: see `coarse`; None leaves the mask as it is.
    """

    cells: int | None = None

    def decode(self) -> Array:
        outline = read_mask(self.path)
        if outline.ndim != 2:
            raise ReadError(self.path, "an outline has one channel, this file has colors")
        drawn = (outline > 0).astype(np.uint8)
        area = int(drawn.sum())
        if area < 5:
            raise ReadError(self.path, "holds no outline")
        filled = _inside(drawn)
        border = np.concatenate([drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]])
        if border.any() or filled.sum() < LEAST_FILL * area:
            rows, columns = np.nonzero(drawn)  # direct least squares (Fitzgibbon et al., 1999) always yield an ellipse
            ellipse = cv2.fitEllipseDirect(np.stack([columns, rows], axis=1).astype(np.float32))
            filled = cv2.ellipse(np.zeros_like(drawn), ellipse, 1, cv2.FILLED)
        if filled.sum() < LEAST_FILL * area:
            raise ReadError(self.path, "holds no outline of a head: its inside is hardly larger than the line itself")
        return (filled if self.cells is None else coarse(filled, self.cells)) * np.uint8(255)


def coarse(mask: Array, cells: int) -> Array:
    """The mask (H, W) of 0 and 1 as the HC18 U-Net notebook stores it, brought back to the grid of the image.

    It pads to 812 x 812, shrinks smoothly to `cells` x `cells`, and compares 0..255 with 0.5, so that every cell which the head
    touches is head. With 68 cells the head has 1.2 times its area.
    """
    rows, columns = mask.shape
    side = max(CANVAS, rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    canvas = np.zeros((side, side), np.uint8)
    canvas[top : top + rows, left : left + columns] = mask * np.uint8(255)
    small = Image.fromarray(canvas).resize((cells, cells), Image.Resampling.BILINEAR)  # antialiased, as in torchvision
    touched = (np.asarray(small) > 0.5).astype(np.uint8)
    whole = cv2.resize(touched, (side, side), interpolation=cv2.INTER_NEAREST)
    return np.asarray(whole[top : top + rows, left : left + columns])


def _inside(drawn: Array) -> Array:
    """The largest external contour, filled."""
    contours, _ = cv2.findContours(drawn, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea)
    return cv2.drawContours(np.zeros_like(drawn), [largest], -1, 1, cv2.FILLED)


class HC18(Source):
    """HC18: fetal heads on ultrasound, each outlined by a thin ellipse.

        ROOT/training_set/NNN_HC.png, NNN_2HC.png, …     images, mostly 800 x 540 gray
        ROOT/training_set/NNN_HC_Annotation.png          the outline, 0 and 255
        ROOT/training_set_pixel_size_and_HC.csv          filename, pixel size(mm), head circumference (mm)

    NNN is one exam, whose images form a group. ROOT may be training_set itself, and mirrors nest the folder once more. The
    unlabeled test_set is not part of the cases. Facts of a case: `hc_mm`.

    Reference: van den Heuvel et al., PLoS ONE 13(8), 2018; hc18.grand-challenge.org.

    Args:
        root: folder that holds training_set/ and the table.
        cells: grid on which the masks are coarsened (see `coarse`); None keeps them as they are.
    """

    def __init__(self, root: Path, cells: int | None = None) -> None:
        super().__init__(root, {0: "background", 255: "head"})
        self.cells = cells

    def cases(self) -> Iterator[Case]:
        places = (self.root / FOLDER / FOLDER, self.root / FOLDER, self.root)
        folder = next((place for place in places if any(place.glob(f"*{SUFFIX}.png"))), None)
        if folder is None:
            self.report(str(self.root), f"no {FOLDER}/ with *{SUFFIX}.png in it", f"data.root = the folder that holds {FOLDER}/")
            return
        table = self._table(folder)
        files = list(image_files(folder))
        images = Keyed.of((path for path in files if not path.stem.endswith(SUFFIX)), folder, ending=".png")
        outlines = Keyed.of((path for path in files if path.stem.endswith(SUFFIX)), folder, SUFFIX, ".png")
        for key, image, outline in self.pairs(images, outlines):
            yield self._case(key, image, outline, table)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        rows = ["filename,pixel size(mm),head circumference (mm)\r\n"]
        for exam, k, drawing in ultrasound.exams(n, seed):
            name = f"{exam:03d}_{k if k > 1 else ''}HC"
            write_png(root / FOLDER / f"{name}.png", drawing.image)
            write_png(root / FOLDER / f"{name}{SUFFIX}.png", drawing.outline)
            rows.append(f"{name}.png,{drawing.pixel_mm:.12g},{drawing.circumference_mm:.2f}\r\n")
        (root / TABLE).write_bytes("".join(rows).encode())

    def _case(self, key: str, image: Path, outline: Path, table: dict[str, tuple[float, float]]) -> Case:
        number, row = re.match(r"\d+", key), table.get(image.name)
        if row is None and table:
            self.report(image, "no row for it in the table: pixel size and circumference are unknown", f"add it to {TABLE}", "warning")
        mask, group = FilledOutline(outline, self.cells), number.group() if number else ""
        spacing, facts = (row[0], row[0]) if row else (), {"hc_mm": row[1]} if row else {}
        return Case(key, ImageFile(image), mask, group, spacing_mm=spacing, facts=facts)

    def _table(self, folder: Path) -> dict[str, tuple[float, float]]:
        """Pixel size and circumference, both mm, by file name; empty, with a warning, where the table is missing."""
        found = [place / TABLE for place in (folder, folder.parent, folder.parent.parent) if (place / TABLE).is_file()]
        if not found:
            self.report(folder.parent, f"{TABLE} is missing: no pixel size, so nothing is measured in mm", "put it there", "warning")
            return {}
        fix = "its header is  filename,pixel size(mm),head circumference (mm)"
        try:
            with self.reporting(fix):
                _, lines = read_table(found[0])  # copies differ in the blanks of 'pixel size(mm)'
                rows = [{name.replace(" ", ""): cell for name, cell in row.items()} for _, row in lines]
                if not rows:
                    raise ValueError("no rows")
                return {row["filename"]: (float(row["pixelsize(mm)"]), float(row["headcircumference(mm)"])) for row in rows}
        except (KeyError, ValueError) as error:
            self.report(found[0], f"cannot be understood ({type(error).__name__}: {error})", fix)
        return {}
