"""Gray and color: images of one channel and of three brought to one count, without loss unless the user asks for it.

Scanners, viewers and web sites store gray pictures as RGB, so that a data set often mixes the two, and a checkpoint meets the
other kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from segkit.data.case import Case, Pixels
from segkit.data.io.base import IMAGE_SUFFIXES, ReadError, suffix_of
from segkit.data.labels import Array
from segkit.data.slices import Channels, Volume, shape_of
from segkit.data.statistics import CaseStatistics
from segkit.system.errors import Problem

Wanted = Literal["auto", 1, 3]
GRAY, COLOR = 1, 3
LUMINANCE = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601), as OpenCV, Pillow and scikit-image weigh them."""
IS_COLOR = "is a color image, expected gray"


@dataclass(frozen=True)
class WithChannels:
    """An image with one channel or three: gray is repeated, one of three equal channels is read.

    Args:
        image: of one channel or three.
        channels: 1 or 3.
        luminance: whether color may become gray, which loses it; else it is a `ReadError`.
    """

    image: Pixels
    channels: int
    luminance: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.image.paths

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the volume."""
        return shape_of(self.image)

    def read(self) -> Array:
        pixels = self.image.read()
        have = pixels.shape[-1]
        if have == self.channels:
            return pixels
        if have == GRAY:
            return np.repeat(pixels, self.channels, axis=-1)
        if have != COLOR:
            raise ReadError(self.paths[0], f"has {have} channels, which is neither gray nor color")
        if are_equal(pixels):
            return np.ascontiguousarray(pixels[..., :1])
        if not self.luminance:
            raise ReadError(next(iter(self.paths), "the image"), IS_COLOR)
        gray = (pixels @ np.array(LUMINANCE, np.float32))[..., None]
        return np.asarray(gray.round() if pixels.dtype.kind == "u" else gray, pixels.dtype)


def are_equal(pixels: Array) -> bool:
    """Whether all channels of (*S, C) are the same: gray."""
    return all(np.array_equal(pixels[..., 0], pixels[..., c]) for c in range(1, pixels.shape[-1]))


def with_channels(case: Case, channels: int, luminance: bool = False) -> Case:
    """The case whose image, and the volume that it is a slice of, have this number of channels; see `WithChannels`."""
    whole = None if case.whole is None else _wrapped(case.whole, channels, luminance)
    return replace(case, image=_wrapped(case.image, channels, luminance), whole=whole)


def _wrapped(image: Pixels, channels: int, luminance: bool) -> Pixels:
    """Inside what is put together of several images, so that each slice of a 2.5-D stack is converted by itself."""
    if isinstance(image, Channels):
        return Channels(tuple(_wrapped(part, channels, luminance) for part in image.parts))
    if isinstance(image, Volume):
        return Volume(tuple(_wrapped(part, channels, luminance) for part in image.slices))
    return WithChannels(image, channels, luminance)


def is_picture(case: Case) -> bool:
    """Whether one channel means gray and three mean color: not in the formats of scans, where channels may be modalities."""
    return all(suffix_of(path.name).lower() in IMAGE_SUFFIXES for path in case.image.paths)


def settle(
    cases: Sequence[Case],
    statistics: Mapping[str, CaseStatistics],
    wanted: Wanted,
    scan: Callable[[Sequence[Case]], Mapping[str, CaseStatistics]],
) -> tuple[list[Case], dict[str, CaseStatistics], list[Problem]]:
    """Bring the images of a data set to one number of channels, as `data.channels` says.

    auto leaves a data set alone whose images have one number of channels. Where gray pictures lie among RGB ones, the gray are
    repeated, or all are read as gray if no picture shows a color. A few color pictures among gray ones are left to the audit, which
    refuses them: they are as likely drawings on an image.

    Args:
        cases: without 2.5-D neighbors.
        statistics: by case id, of the cases as they are stored.
        wanted: `data.channels`.
        scan: reads cases; called with those that are converted.

    Returns:
        The cases, their statistics, and a note on each kind of conversion.
    """
    of = {case.id: statistics[case.id] for case in cases if not statistics[case.id].errors}
    target = _target(of.values(), [case for case in cases if case.id in of], wanted)
    convertible = {id_ for id_, stats in of.items() if stats.channels in (GRAY, COLOR) and stats.channels != target}
    if target is None or not convertible:
        return list(cases), dict(statistics), _gray_in_three(of, wanted)
    changed = {case.id: with_channels(case, target, wanted == GRAY) for case in cases if case.id in convertible}
    notes = _notes([case for case in cases if case.id in convertible], of, target)
    return [changed.get(case.id, case) for case in cases], {**statistics, **scan(list(changed.values()))}, notes


def settle_stacks(
    cases: Sequence[Case],
    statistics: Mapping[str, CaseStatistics],
    wanted: Wanted,
    stacked: int,
    scan: Callable[[Sequence[Case]], Mapping[str, CaseStatistics]],
) -> tuple[list[Case], dict[str, CaseStatistics]]:
    """`settle` for 2.5-D cases of so many slices each, whose channels do not show whether a slice is gray: auto leaves them alone."""
    odd = {case.id for case in cases if wanted != "auto" and statistics[case.id].channels not in (0, wanted * stacked)}
    changed = {case.id: with_channels(case, int(wanted), wanted == GRAY) for case in cases if case.id in odd}
    return [changed.get(case.id, case) for case in cases], {**statistics, **scan(list(changed.values()))}


def _target(statistics: Iterable[CaseStatistics], cases: Sequence[Case], wanted: Wanted) -> int | None:
    """The number of channels that all shall have; None: as they are."""
    if wanted != "auto":
        return wanted
    seen = list(statistics)
    if {stats.channels for stats in seen} != {GRAY, COLOR} or not all(map(is_picture, cases)):
        return None
    colored = sum(not stats.is_gray for stats in seen)
    return GRAY if not colored else COLOR if 2 * colored >= len(seen) else None


def _notes(converted: Sequence[Case], of: Mapping[str, CaseStatistics], target: int) -> list[Problem]:
    """One a kind: which image, what is done to it, and to how many."""
    if target == COLOR:
        done = {"is gray among color images: its channel is repeated": converted}
    else:
        gray = [case for case in converted if of[case.id].is_gray]
        color = [case for case in converted if not of[case.id].is_gray]
        done = {"holds gray in three equal channels: one is read": gray, "is in color: its luminance is read (data.channels=1)": color}
    return [
        Problem(cases[0].image.paths[0].name, f"{what} (in {len(cases)} of {len(of)} images)", "", "note")
        for what, cases in done.items()
        if cases
    ]


def _gray_in_three(of: Mapping[str, CaseStatistics], wanted: Wanted) -> list[Problem]:
    if wanted != "auto" or not of or not all(stats.channels == COLOR and stats.is_gray for stats in of.values()):
        return []
    what = f"all {len(of)} hold gray in three equal channels"
    return [Problem("images", what, "read one, in a third of the memory:  data.channels=1", "note")]
