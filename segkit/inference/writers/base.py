"""`Writer` and `Submission`, the bases of all formats, and `Target`: where they write, and of which images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from segkit.data.case import Pixels
from segkit.data.io.base import Array
from segkit.data.labels import LabelMap
from segkit.data.slices import Channels
from segkit.inference.inputs import InputItem
from segkit.inference.writers.tables import Row, Table
from segkit.system.environment import Shard
from segkit.system.errors import Problem


@dataclass(frozen=True)
class Target:
    """The output folder, and the facts of the checkpoint about its masks."""

    output: Path
    labels: LabelMap
    neighbours: Sequence[int] = (0,)
    """`data.neighbours`: which channels of an image are its own slice."""
    outline_px: float = 0.0
    """How far the border of the masks lies outside the true one (see `segkit.metrics.head_circumference.HeadCircumference`)."""
    shard: Shard | None = None
    """The images that this process predicts, where several share them."""

    def images(self, item: InputItem) -> list[Pixels]:
        """Return the images of an item, without neighbors: one, or all slices of its volume; none of a volume file."""
        if item.like is not None:
            return []
        return list(item.slice_images) or [self._own(case.image) for case in item.cases]

    def _own(self, image: Pixels) -> Pixels:
        offsets = list(self.neighbours)
        return image.parts[offsets.index(0)] if isinstance(image, Channels) and len(offsets) > 1 and 0 in offsets else image

    def slices(self, item: InputItem, mask: Array) -> Iterator[tuple[Pixels, Array]]:
        """Yield each image of an item with its mask: class indices (H, W), or planes (K, H, W)."""
        is_volume = mask.ndim - self.labels.overlap == 3
        return zip(self.images(item), np.moveaxis(mask, -3, 0) if is_volume else [mask], strict=True)

    def source_names(self) -> tuple[str, ...]:
        """Return the name of each class in the training masks, so that a written file can serve as annotation again."""
        first = {name: raw for raw, name in reversed(self.labels.values)}
        return tuple(first[name] if self.labels.overlap else name for name in self.labels.classes)


class Writer(ABC):
    """Base of the formats in which a prediction is written beside its masks.

    `problems` collects what a reader of the files should know.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.problems: list[Problem] = []

    @abstractmethod
    def refuses(self, item: InputItem) -> str:
        """Return why this format cannot hold an item, to follow 'as'; empty where it can. Every item is asked before prediction."""

    @abstractmethod
    def is_done(self, item: InputItem) -> bool:
        """Whether an earlier prediction wrote it."""

    @abstractmethod
    def write(self, item: InputItem, mask: Array) -> None:
        """Write one item. `mask`: class indices (*S), or planes (K, *S) where classes overlap."""

    def close(self) -> None:  # noqa: B027 (most formats have nothing to close)
        """Finish after the last item, or when the prediction is interrupted."""


class Submission(Writer):
    """A submission to a challenge: one CSV of all images, a few rows each, in natural order of their names.

    Rows of an older file stay for images that are not predicted again.
    """

    file: ClassVar[str]
    header: ClassVar[Row]

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._owners: dict[str, tuple[str, int]] = {}
        self.table = Table(target.output, self.file, self.header, target.shard)

    @abstractmethod
    def key(self, image: Pixels) -> str:
        """Return the name of an image in the table; empty where it has no valid one."""

    @abstractmethod
    def rows(self, item: InputItem, image: Pixels, mask: Array) -> Sequence[Row]:
        """Return the rows of one image."""

    def refuses(self, item: InputItem) -> str:
        """Also refuse images that would share a row."""
        images = self.target.images(item)
        if not images:
            return f"{item.source} is a volume file"
        for z, image in enumerate(images):
            key = self.key(image)
            if not key:
                return f"{image.paths[0]} is not named as the images of that data set"
            if self._owners.setdefault(key, (item.name, z)) != (item.name, z):
                return f"{item.name} and {self._owners[key][0]} would share the row {key}"
        return ""

    def is_done(self, item: InputItem) -> bool:
        return all(self.key(image) in self.table.known for image in self.target.images(item))

    def write(self, item: InputItem, mask: Array) -> None:
        self.table.add({self.key(image): self.rows(item, image, one) for image, one in self.target.slices(item, mask)})

    def close(self) -> None:
        self.table.write()
