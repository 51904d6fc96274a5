"""A submission: one CSV of all images, a few rows each, in natural order of their names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from segkit.data.case import Pixels
from segkit.inference.inputs import Job
from segkit.inference.writers.base import Array, Target
from segkit.inference.writers.tables import Row, Table
from segkit.system.errors import Problem


class Submission(ABC):
    """Rows of an older file stay for images that are not predicted again."""

    file: ClassVar[str]
    header: ClassVar[Row]

    def __init__(self, target: Target) -> None:
        self.target = target
        self.problems: list[Problem] = []
        self._owners: dict[str, tuple[str, int]] = {}
        self.table = Table(target.output, self.file, self.header, target.part)

    @abstractmethod
    def key(self, image: Pixels) -> str:
        """What the table calls an image; empty where it has no name that the table knows."""

    @abstractmethod
    def of_image(self, job: Job, image: Pixels, mask: Array) -> Sequence[Row]:
        """The rows of one image."""

    def refuses(self, job: Job) -> str:
        """Also what would share a row: all jobs are asked."""
        images = self.target.images(job)
        if not images:
            return f"{job.source} is a volume file"
        for z, image in enumerate(images):
            key = self.key(image)
            if not key:
                return f"{image.paths[0]} is not called as the images of that data set"
            if self._owners.setdefault(key, (job.name, z)) != (job.name, z):
                return f"{job.name} and {self._owners[key][0]} would share the row {key}"
        return ""

    def is_done(self, job: Job) -> bool:
        return all(self.key(image) in self.table.known for image in self.target.images(job))

    def write(self, job: Job, mask: Array) -> None:
        self.table.add({self.key(image): self.of_image(job, image, of_image) for image, of_image in self.target.slices(job, mask)})

    def close(self) -> None:
        self.table.write()
