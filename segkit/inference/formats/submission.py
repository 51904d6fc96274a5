"""A submission: one CSV of all images, a few rows each, in natural order of their names."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from segkit.data.manifest import Pixels
from segkit.data.pairing import natural
from segkit.errors import Problem, SegkitError
from segkit.files import write_text_atomic
from segkit.inference.formats.writer import Array, Target
from segkit.inference.jobs import Job

Row = tuple[str, ...]
"""Begins with the key of its image."""


class Submission(ABC):
    """Rows of an older file stay for images that are not predicted again. Written when it is closed."""

    file: ClassVar[str]
    header: ClassVar[Row]

    def __init__(self, target: Target) -> None:
        self.target = target
        self.problems: list[Problem] = []
        self._owners: dict[str, tuple[str, int]] = {}
        self._changed = False

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
        return all(self.key(image) in self.rows for image in self.target.images(job))

    def write(self, job: Job, mask: Array) -> None:
        for image, of_image in self.target.slices(job, mask):
            self.rows[self.key(image)] = list(self.of_image(job, image, of_image))
            self._changed = True

    def close(self) -> None:
        if not self._changed:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        for key in sorted(self.rows, key=natural):
            writer.writerows(self.rows[key])
        write_text_atomic(self.path, text.getvalue())

    @property
    def path(self) -> Path:
        return self.target.output / self.file

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        rows: dict[str, list[Row]] = {}
        if not self.path.is_file():
            return rows
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())) != self.header:
                raise SegkitError(f"{self.path}: its first line is not  {','.join(self.header)};   move it away, or choose another output")
            for row in reader:
                rows.setdefault(row[0], []).append(tuple(row))
        return rows
