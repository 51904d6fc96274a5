"""The data set under audit, as all checks see it, and how they name cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from segkit.data.case import Case, Manifest, Pixels, exclude_line, relative
from segkit.data.statistics import CaseStatistics, MaskStatistics, Statistics
from segkit.data.structures import Structure
from segkit.system.errors import Problem

MAX_NAMED = 20
"""Cases up to which a fix names all of them."""
INSPECT = "inspect them with  output=DIR"


Pair = tuple[str, str, float]
"""Ids of two images that look alike, and the correlation of their thumbnails."""


@dataclass(frozen=True)
class DataWarning:
    """A problem, the ids of the cases that it is about, and a word that marks them on the contact sheet."""

    problem: Problem
    cases: tuple[str, ...] = ()
    mark: str = ""
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Audited:
    """A data set under audit: its cases, and the statistics of those whose files can be read."""

    manifest: Manifest
    statistics: Statistics

    @cached_property
    def cases(self) -> list[Case]:
        return [case for case in self.manifest if not self.statistics[case.id].errors]

    @cached_property
    def masked(self) -> list[CaseStatistics]:
        """Of the readable cases that have masks."""
        return [self.statistics[case.id] for case in self.cases if self.statistics[case.id].masks]

    @cached_property
    def class_pixels(self) -> list[dict[str, int]]:
        """Pixels by class, of each of `masked`."""
        return [stats.class_pixels(self.manifest.labels) for stats in self.masked]

    def masks(self) -> Iterator[tuple[Case, str, MaskStatistics]]:
        return ((case, plane, mask) for case in self.cases for plane, mask in self.statistics[case.id].masks.items())

    def structures(self) -> Iterator[tuple[Case, str, Structure]]:
        """Case, class name, structure."""
        labels = self.manifest.labels
        for case, plane, mask in self.masks():
            for raw, structure in mask.structures.items():
                if (name := labels.name_of(plane, raw)) in labels.classes:
                    yield case, name, structure

    def file(self, case: Case, pixels: Pixels) -> str:
        """The first file of an image or mask; the id of the case where it has none."""
        return relative(pixels.paths[0], self.manifest.root) if pixels.paths else case.id

    def mask_file(self, case: Case) -> str:
        """The file of the first mask."""
        return self.file(case, next(iter(case.masks.values())))

    def about(self, cases: Sequence[Case], what: str, mark: str = "", fix: str = "", of_masks: bool = True) -> DataWarning:
        """One warning about all `cases`: the file of the first, how many more, two of these, and the line that leaves them out."""
        cases = list({case.id: case for case in cases}.values())
        where = self.mask_file(cases[0]) if of_masks and cases[0].masks else self.file(cases[0], cases[0].image)
        problem = Problem(where, what + others(cases), fix or leave_out(cases), "warning")
        return DataWarning(problem, tuple(case.id for case in cases), mark)


def others(cases: Sequence[Case]) -> str:
    """' (and 3 more: b, c, …)' of the cases a, b, c, d; empty for one."""
    ids = [case.id for case in cases[1:]]
    return f" (and {len(ids)} more: {', '.join(ids[:2])}{', …' if len(ids) > 2 else ''})" if ids else ""


def leave_out(cases: Sequence[Case]) -> str:
    return exclude_line([case.id for case in cases]) if len(cases) <= MAX_NAMED else INSPECT
