"""Submissions to challenges: ultrasound nerves (Kaggle, 2016), GI tract of UW-Madison (Kaggle, 2022), HC18 (grand-challenge.org).

The two of Kaggle are run-length codes, where an empty code is an empty mask. Nerves are counted along columns, as Kaggle's
texts say; the GI tract along rows, as its train.csv is. HC18 wants the ellipse of each fetal head in millimeters: center and
angle are those of `segkit.metrics.head_circumference.Ellipse`, where the middle of the first pixel is (0, 0), y goes down, and
the angle leads from the x axis to the longer semi-axis a. The challenge does not say what it wants where no head is found:
such a row has no numbers, and is reported as a problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from segkit.data.case import Pixels
from segkit.data.io import rle
from segkit.data.io.base import Array, ReadError, read_table
from segkit.data.sources.uw_madison import CLASSES, DAY, SLICE
from segkit.inference.inputs import InputItem
from segkit.inference.writers.base import Submission
from segkit.inference.writers.tables import Row
from segkit.metrics.head_circumference import fit_ellipse
from segkit.system.errors import Problem

PIXEL_SIZES = "test_set_pixel_size.csv"
COLUMNS = ("filename", "pixel size(mm)")


class NerveCodes(Submission):
    """Codes of nerves. `img` is the name of the file without suffix: in the test set a number."""

    file: ClassVar[str] = "nerve_submission.csv"
    header: ClassVar[Row] = ("img", "pixels")

    def refuses(self, item: InputItem) -> str:
        n = len(self.target.labels.classes)
        return f"it has one class, the checkpoint {n}" if n > 1 else super().refuses(item)

    def key(self, image: Pixels) -> str:
        return image.paths[0].stem

    def rows(self, item: InputItem, image: Pixels, mask: Array) -> Sequence[Row]:
        (nerve,) = self.target.labels.planes(mask)
        return [(self.key(image), rle.encode(nerve, "columns"))]


class GITractCodes(Submission):
    """Three rows a slice; `id` is caseC_dayD_slice_ZZZZ, from caseC_dayD/scans/slice_ZZZZ_W_H_sx_sy.png."""

    file: ClassVar[str] = "uw_madison_submission.csv"
    header: ClassVar[Row] = ("id", "class", "predicted")

    def refuses(self, item: InputItem) -> str:
        classes = self.target.labels.classes
        if set(classes) != set(CLASSES):
            return f"its classes are {', '.join(CLASSES)}, those of the checkpoint {', '.join(classes)}"
        return super().refuses(item)

    def key(self, image: Pixels) -> str:
        path = image.paths[0].absolute()
        day, slice_ = path.parent.parent.name, SLICE.fullmatch(path.name)
        return f"{day}_slice_{slice_['z']}" if DAY.fullmatch(day) and slice_ else ""

    def rows(self, item: InputItem, image: Pixels, mask: Array) -> Sequence[Row]:
        of_class = dict(zip(self.target.labels.classes, self.target.labels.planes(mask), strict=True))
        return [(self.key(image), name, rle.encode(of_class[name], "rows")) for name in CLASSES]


class HC18Ellipses(Submission):
    """Ellipses of masks with one class. Pixel sizes are those of the data set, or of the challenge's table of its test set."""

    file: ClassVar[str] = "hc18_submission.csv"
    header: ClassVar[Row] = ("filename", "center_x_mm", "center_y_mm", "semi_axes_a_mm", "semi_axes_b_mm", "angle_rad")

    def refuses(self, item: InputItem) -> str:
        if (n := len(self.target.labels.classes)) > 1:
            return f"it has one class, the head, and the checkpoint {n}"
        unknown = [image.paths[0] for image in self.target.images(item) if not pixel_mm(item, image)]
        if unknown:
            return f"the pixel size of {unknown[0]} is not known ({PIXEL_SIZES} beside its folder would give it)"
        return super().refuses(item)

    def key(self, image: Pixels) -> str:
        return image.paths[0].name

    def rows(self, item: InputItem, image: Pixels, mask: Array) -> Sequence[Row]:
        (head,) = self.target.labels.planes(mask)
        numbers = ellipse_mm(head, pixel_mm(item, image), self.target.outline_px)
        if not numbers:
            what = f"no head found: its row in {self.file} is empty"
            self.problems.append(Problem(str(image.paths[0]), what, severity="warning"))
        return [(self.key(image), *([f"{number:.6f}" for number in numbers] or [""] * 5))]


def ellipse_mm(head: Array, spacing_mm: tuple[float, ...], outline_px: float) -> tuple[float, ...]:
    """Return center x and y, semi-axes less `outline_px`, and angle; empty where there is no ellipse. `head` is (H, W)."""
    ellipse = fit_ellipse(head, spacing_mm)
    if ellipse is None:
        return ()
    a, b = (axis - outline_px * sum(spacing_mm) / 2 for axis in ellipse.semi_axes)
    return (*ellipse.center, a, b, ellipse.angle_rad) if b > 0 else ()


def pixel_mm(item: InputItem, image: Pixels) -> tuple[float, ...]:
    """Return (row, column) in mm, or nothing where it is unknown.

    The challenge's table lies in the folder of the image or beside it; mirrors of the data set nest folders once more.
    """
    path, known = image.paths[0], item.cases[0].pixel_mm
    tables = (_pixel_sizes(folder / PIXEL_SIZES) for folder in list(path.absolute().parents)[:3])
    return known[-2:] or next((sizes[path.name] for sizes in tables if path.name in sizes), ())


@cache
def _pixel_sizes(path: Path) -> dict[str, tuple[float, float]]:
    if not path.is_file():
        return {}
    rows = [[row[name] for name in COLUMNS] for _, row in read_table(path, COLUMNS)[1]]
    try:
        return {name: (float(mm), float(mm)) for name, mm in rows}
    except ValueError as error:
        raise ReadError(path, f"holds a pixel size that is not a number ({error})") from error
