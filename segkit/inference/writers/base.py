"""What all formats share: where they write, and which slices a job is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from segkit.data.case import Pixels
from segkit.data.labels import LabelMap
from segkit.data.slices import Channels, Volume
from segkit.inference.inputs import Job
from segkit.system.errors import Problem
from segkit.system.parts import Part

Array = npt.NDArray[Any]


class Writer(Protocol):
    """One format. `problems` are what a reader of its files should know, and grow with them."""

    problems: list[Problem]

    def refuses(self, job: Job) -> str:
        """Why this format cannot hold the job, to follow 'as'; empty where it can. Asked of every job before any is predicted."""

    def is_done(self, job: Job) -> bool:
        """Whether an earlier prediction wrote it."""

    def write(self, job: Job, mask: Array) -> None:
        """`mask`: class indices (*S), or planes (K, *S) where classes overlap."""

    def close(self) -> None:
        """After the last job, or when the prediction is stopped."""


@dataclass(frozen=True)
class Target:
    """Where to write, and what the checkpoint says of its masks."""

    output: Path
    labels: LabelMap
    neighbours: Sequence[int] = (0,)
    """`data.neighbours`: which channels of an image are its own slice."""
    outline_px: float = 0.0
    """How far the border of the masks lies outside the true one (see `segkit.metrics.head_circumference.HeadCircumference`)."""
    part: Part | None = None
    """Of the images, which other jobs share."""

    def images(self, job: Job) -> list[Pixels]:
        """The images of a job, without neighbours: one, or all slices of its volume. Of a volume file none."""
        if job.like is not None:
            return []
        if len(job.cases) == 1 and isinstance(job.cases[0].image, Volume):
            return list(job.cases[0].image.slices)
        return [self._own(case.image) for case in job.cases]

    def _own(self, image: Pixels) -> Pixels:
        offsets = list(self.neighbours)
        return image.parts[offsets.index(0)] if isinstance(image, Channels) and len(offsets) > 1 and 0 in offsets else image

    def slices(self, job: Job, mask: Array) -> Iterator[tuple[Pixels, Array]]:
        """Each image of a job with its mask: class indices (H, W), or planes (K, H, W)."""
        is_volume = mask.ndim - self.labels.overlap == 3
        return zip(self.images(job), np.moveaxis(mask, -3, 0) if is_volume else [mask], strict=True)

    def source_names(self) -> tuple[str, ...]:
        """What each class is called where its masks came from, so that a written file can serve as annotation again."""
        first = {name: raw for raw, name in reversed(self.labels.values)}
        return tuple(first[name] if self.labels.overlap else name for name in self.labels.classes)
