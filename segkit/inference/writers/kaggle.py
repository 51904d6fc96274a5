"""Submissions of run-length codes: ultrasound nerves (Kaggle, 2016) and the GI tract of UW-Madison (Kaggle, 2022).

Nerves are counted along columns, as Kaggle's texts say; the GI tract along rows, as its train.csv is. An empty code is an
empty mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from segkit.data.case import Pixels
from segkit.data.io import rle
from segkit.data.sources.uw_madison import CLASSES, DAY, SLICE
from segkit.inference.decide import planes
from segkit.inference.inputs import Job
from segkit.inference.writers.base import Array
from segkit.inference.writers.submission import Submission
from segkit.inference.writers.tables import Row


class NerveCodes(Submission):
    """`img` is the name of the file without suffix: in the test set a number."""

    file: ClassVar[str] = "nerve_submission.csv"
    header: ClassVar[Row] = ("img", "pixels")

    def refuses(self, job: Job) -> str:
        n = len(self.target.labels.classes)
        return f"it has one class, the checkpoint {n}" if n > 1 else super().refuses(job)

    def key(self, image: Pixels) -> str:
        return image.paths[0].stem

    def of_image(self, job: Job, image: Pixels, mask: Array) -> Sequence[Row]:
        (nerve,) = planes(mask, self.target.labels)
        return [(self.key(image), rle.encode(nerve, "columns"))]


class GITractCodes(Submission):
    """Three rows a slice; `id` is caseC_dayD_slice_ZZZZ, from caseC_dayD/scans/slice_ZZZZ_W_H_sx_sy.png."""

    file: ClassVar[str] = "uw_madison_submission.csv"
    header: ClassVar[Row] = ("id", "class", "predicted")

    def refuses(self, job: Job) -> str:
        classes = self.target.labels.classes
        if set(classes) != set(CLASSES):
            return f"its classes are {', '.join(CLASSES)}, those of the checkpoint {', '.join(classes)}"
        return super().refuses(job)

    def key(self, image: Pixels) -> str:
        path = image.paths[0].absolute()
        day, slice_ = path.parent.parent.name, SLICE.fullmatch(path.name)
        return f"{day}_slice_{slice_['z']}" if DAY.fullmatch(day) and slice_ else ""

    def of_image(self, job: Job, image: Pixels, mask: Array) -> Sequence[Row]:
        of_class = dict(zip(self.target.labels.classes, planes(mask, self.target.labels), strict=True))
        return [(self.key(image), name, rle.encode(of_class[name], "rows")) for name in CLASSES]
