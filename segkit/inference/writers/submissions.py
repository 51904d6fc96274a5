"""The submission of HC18: the ellipse of each fetal head in mm (hc18.grand-challenge.org).

Centre and angle are those of `segkit.metrics.head_circumference.Ellipse`: the middle of the first pixel is (0, 0), y goes down, the
angle leads from the x axis to the longer semi-axis a. The challenge does not say what it wants where no head is found: such
a row has no numbers, and is told as a problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from segkit.data.case import Pixels
from segkit.data.io import rle
from segkit.data.io.base import ReadError
from segkit.inference.decide import planes
from segkit.inference.inputs import Job
from segkit.inference.writers.base import Array
from segkit.inference.writers.submission import Submission
from segkit.inference.writers.tables import Row
from segkit.metrics.head_circumference import fit_ellipse
from segkit.system.errors import Problem

TABLE = "test_set_pixel_size.csv"
COLUMNS = ("filename", "pixel size(mm)")


class HC18Ellipses(Submission):
    """Of masks with one class. Pixel sizes are those of the data set, or stand in the challenge's table of its test set."""

    file: ClassVar[str] = "hc18_submission.csv"
    header: ClassVar[Row] = ("filename", "center_x_mm", "center_y_mm", "semi_axes_a_mm", "semi_axes_b_mm", "angle_rad")

    def refuses(self, job: Job) -> str:
        if (n := len(self.target.labels.classes)) > 1:
            return f"it has one class, the head, and the checkpoint {n}"
        unknown = [image.paths[0] for image in self.target.images(job) if not pixel_mm(job, image)]
        return f"the pixel size of {unknown[0]} is not known ({TABLE} beside its folder tells it)" if unknown else super().refuses(job)

    def key(self, image: Pixels) -> str:
        return image.paths[0].name

    def of_image(self, job: Job, image: Pixels, mask: Array) -> Sequence[Row]:
        (head,) = planes(mask, self.target.labels)
        numbers = ellipse_mm(head, pixel_mm(job, image), self.target.outline_px)
        if not numbers:
            what = f"no head found: its row in {self.file} is empty"
            self.problems.append(Problem(str(image.paths[0]), what, severity="warning"))
        return [(self.key(image), *([f"{number:.6f}" for number in numbers] or [""] * 5))]


def ellipse_mm(head: Array, spacing_mm: tuple[float, ...], outline_px: float) -> tuple[float, ...]:
    """Centre x and y, semi-axes less `outline_px`, angle; empty where there is no ellipse. `head` is (H, W)."""
    ellipse = fit_ellipse(head, spacing_mm)
    if ellipse is None:
        return ()
    a, b = (axis - outline_px * sum(spacing_mm) / 2 for axis in ellipse.semi_axes)
    return (*ellipse.centre, a, b, ellipse.angle_rad) if b > 0 else ()


def pixel_mm(job: Job, image: Pixels) -> tuple[float, ...]:
    """(row, column), or empty where it is unknown."""
    path, known = image.paths[0], job.cases[0].pixel_mm
    return known[-2:] or next((sizes[path.name] for sizes in map(_table, _places(path)) if path.name in sizes), ())


def _places(path: Path) -> list[Path]:
    """In the folder of the image or beside it; mirrors of the data set nest folders once more."""
    return [folder / TABLE for folder in list(path.absolute().parents)[:3]]


@cache
def _table(path: Path) -> dict[str, tuple[float, float]]:
    if not path.is_file():
        return {}
    rows = [cells for _, cells in rle.table(path, COLUMNS)]
    try:
        return {name: (float(mm), float(mm)) for name, mm in rows}
    except ValueError as error:
        raise ReadError(path, f"holds a pixel size that is no number ({error})") from error
