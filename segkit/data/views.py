"""The same manifest as images, as stacks of neighbouring slices (2.5-D), or as volumes (3-D).

A source yields what its files are. Volumes become slices, and slices volumes, as `data.dims` wants.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace

from segkit.data.case import Case, Pixels
from segkit.data.io.base import ReadError
from segkit.data.slices import Blank, Channels, Slice, Volume, shape_of
from segkit.system.errors import Problem
from segkit.system.files import natural


def view(cases: Sequence[Case], dims: int, neighbours: Sequence[int], problems: list[Problem]) -> list[Case]:
    """`cases` as 2-D or 3-D ones; what cannot be seen so is told in `problems`."""
    if dims == 3:
        if list(neighbours) != [0]:
            problems.append(Problem("data.neighbours", "is for slices; a volume has its neighbours in it", "add  data.neighbours=[0]"))
        return volumes(cases, problems)
    return with_neighbours(slices(cases, problems), neighbours, problems)


def slices(cases: Sequence[Case], problems: list[Problem]) -> list[Case]:
    """Volumes cut into their slices; each slice knows its whole volume."""
    flat: list[Case] = []
    for case in cases:
        if case.dims == 2:
            flat.append(case)
            continue
        try:
            n = shape_of(case.image)[0]
        except ReadError as error:
            problems.append(Problem(str(error.path), error.reason, f"fix the file, or  data.exclude='[\"{case.id}\"]'"))
            continue
        flat += [slice_of(case, z) for z in range(n)]
    return wholes(flat)


def slice_of(case: Case, z: int) -> Case:
    mask = {plane: Slice(pixels, z) for plane, pixels in case.masks.items()}
    return replace(
        case,
        id=f"{case.id}_{z:03d}",
        image=Slice(case.image, z),
        mask=mask.get("", mask or None),
        group=case.group_or_id,
        volume=case.id,
        position=z,
        dims=2,
        whole=case.image,
    )


def wholes(cases: Sequence[Case]) -> list[Case]:
    """Slices that came as files of their own learn of their volume, too."""
    members = by_volume([case for case in cases if case.whole is None])
    whole = {name: Volume(tuple(case.image for case in of_one)) for name, of_one in members.items()}
    return [replace(case, whole=whole[case.volume]) if case.whole is None and case.volume else case for case in cases]


def by_volume(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """The slices of each volume, in order of their positions."""
    members: dict[str, list[Case]] = {}
    for case in cases:
        if case.volume:
            members.setdefault(case.volume, []).append(case)
    return {name: sorted(of_one, key=lambda case: case.position) for name, of_one in sorted(members.items(), key=lambda v: natural(v[0]))}


def with_neighbours(cases: Sequence[Case], offsets: Sequence[int], problems: list[Problem]) -> list[Case]:
    """Each image between its neighbours, as channels: the slice at position + offset, or the nearest one there is."""
    if list(offsets) == [0]:
        return list(cases)
    alone = [case for case in cases if not case.volume]
    if alone:
        what = f"wants neighbouring slices, but {len(alone)} images belong to no volume, e.g. {alone[0].id}"
        problems.append(Problem("data.neighbours", what, "add  data.neighbours=[0]"))
        return list(cases)
    stacked: dict[str, Case] = {}
    for members in by_volume(cases).values():
        positions = [case.position for case in members]
        for case in members:
            parts = tuple(members[nearest(positions, case.position + offset)].image for offset in offsets)
            stacked[case.id] = replace(case, image=Channels(parts))
    return [stacked[case.id] for case in cases]


def nearest(positions: Sequence[int], wanted: int) -> int:
    """Index of the nearest of ascending `positions`; of two as near, or the same twice, the first."""
    after = bisect_left(positions, wanted)
    if after == len(positions) or (after > 0 and wanted - positions[after - 1] <= positions[after] - wanted):
        return bisect_left(positions, positions[after - 1])
    return after


def volumes(cases: Sequence[Case], problems: list[Problem]) -> list[Case]:
    """Slices put together to their volumes."""
    alone = [case for case in cases if case.dims == 2 and not case.volume]
    if alone:
        what = f"is 3, but {len(alone)} images belong to no volume, e.g. {alone[0].id}"
        problems.append(Problem("data.dims", what, "add  data.dims=2"))
    whole = [replace(case, whole=case.image) for case in cases if case.dims == 3]
    members = by_volume([case for case in cases if case.dims == 2])
    return [*whole, *(volume_of(name, of_one, problems) for name, of_one in members.items())]


def volume_of(name: str, members: Sequence[Case], problems: list[Problem]) -> Case:
    """One case of all slices of a volume. Where some have a mask and others none, the volume counts as unlabelled."""
    first = members[0]
    image = Volume(tuple(case.image for case in members))
    without = [case for case in members if case.mask is None]
    if without and len(without) < len(members):
        what = f"{len(without)} of {len(members)} slices have no mask, so the volume is left out"
        problems.append(Problem(f"volume {name}", what, "add their masks, or use  data.dims=2", "warning"))
    if len({case.split for case in members}) > 1:
        problems.append(Problem(f"volume {name}", "its slices are on different sides of the data set's own split", "fix the split"))
    return replace(
        first,
        id=name,
        image=image,
        mask=None if without else stacked_masks([(case.image, case.masks) for case in members]),
        group=first.group or name,
        spacing_mm=first.spacing_mm if len(first.spacing_mm) == 3 else (),
        volume="",
        position=0,
        dims=3,
        whole=image,
    )


def stacked_masks(slices: Sequence[tuple[Pixels, Mapping[str, Pixels]]]) -> Pixels | dict[str, Pixels]:
    """Plane by plane; a slice without a plane has none of that structure."""
    planes = dict.fromkeys(plane for _, masks in slices for plane in masks)
    stacked: dict[str, Pixels] = {plane: Volume(tuple(masks.get(plane) or Blank(image) for image, masks in slices)) for plane in planes}
    return stacked.get("", stacked)
