"""The names of mask values: the label map of a data set, or the line to type that proposes one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segkit.config import schema
from segkit.data.case import Case
from segkit.data.io.label_files import names_beside
from segkit.data.labels import BACKGROUND, IGNORE_NAME, LabelMap
from segkit.data.manifest import Listing
from segkit.data.mask_values import cut_between_clusters, gray_counts
from segkit.data.statistics import Statistics, values_seen
from segkit.system.errors import Problem, SegkitError, few
from segkit.system.shell import argument

MAX_PROPOSED = 20
"""With more distinct values than this, a mask holds gray levels instead of labels, and no label map is proposed."""
MAX_FOLDERS = 20
"""Folders in which label files are looked for."""


def name_labels(data: schema.Data, found: Listing, statistics: Statistics) -> tuple[LabelMap, list[Problem]]:
    """The label map: `data.labels`, else the source's own, else names of planes or unambiguous mask values.

    Where labels are ambiguous or wrong, the map is a guess that comes with the problem to fix, so that the audit can go on.
    """
    if not found.cases:  # the reason has been reported
        return LabelMap.of({"0": BACKGROUND, "1": "foreground"}), []
    given = data.labels if data.labels is not None else found.default_labels
    overlap = any("" not in case.masks for case in found.cases if case.masks) if data.overlap is None else data.overlap
    if given is not None:
        return _given_labels(given, overlap, statistics)
    if overlap:
        return _plane_names(found.cases, statistics)
    return _inferred(statistics, _names_in_files(found))


def _names_in_files(found: Listing) -> dict[str, str]:
    """What label files of ITK-SNAP or BIDS, at the root or beside masks, call the values."""
    beside = {path.parent for case in found.cases for mask in case.masks.values() for path in mask.paths}
    return {str(value): name for value, name in names_beside([found.root, *sorted(beside)[:MAX_FOLDERS]]).items()}


def labels_line(names: Mapping[str, str]) -> str:
    """The override to type on the command line, whose grammar has no #: colors are written 0xrrggbb there."""
    inner = ", ".join(f"{_typed(value.replace('#', '0x'))}: {_typed(name)}" for value, name in names.items())
    return argument("data.labels", f"{{{inner}}}")


def _typed(word: str) -> str:
    """Quoted where the command line would misread it, or drop a trailing space."""
    return word if re.fullmatch(r"[\w.\-+/@?|]+( [\w.\-+/@?|]+)*", word) else f'"{word}"'


def proposed(values: Iterable[str]) -> dict[str, str]:
    """Names to replace by the right ones: 0 is the background, and what is negative was mostly left undecided."""
    found = list(values)
    background = background_of(found)
    return {
        value: BACKGROUND if value == background else IGNORE_NAME if value.startswith("-") else "NAME"
        for value in dict.fromkeys([background, *found])
    }


def background_of(values: Iterable[str]) -> str:
    return "#000000" if any(value.startswith("#") for value in values) else "0"


def _given_labels(given: Mapping[Any, str], overlap: bool, statistics: Statistics) -> tuple[LabelMap, list[Problem]]:
    try:
        return LabelMap.of(given, overlap), []
    except SegkitError as error:
        what, _, fix = str(error).partition(";   ")
        return _any_values(statistics), [Problem("data.labels", what, fix)]


def _any_values(statistics: Statistics) -> LabelMap:
    """A map that accepts every value seen, in place of a wrong one, so that the other checks can go on."""
    values = values_seen(statistics.values())
    return LabelMap.of(dict.fromkeys(("1", *values), "foreground") | {background_of(values): BACKGROUND})


def _plane_names(cases: Sequence[Case], statistics: Statistics) -> tuple[LabelMap, list[Problem]]:
    planes = dict.fromkeys(plane for case in cases for plane in case.masks if plane)
    if planes:
        return LabelMap.of({plane: plane for plane in planes}, overlap=True), []
    what = "is true, which needs one mask for each structure, but no case has them"
    return _any_values(statistics), [Problem("data.overlap", what, "data.overlap=false")]


def _inferred(statistics: Statistics, names: Mapping[str, str]) -> tuple[LabelMap, list[Problem]]:
    """0/1 and 0/255 need no map, even if masks hold only one of the two. Gray levels are left to the checks of files."""
    values = values_seen(statistics.values())
    found = list(values)
    if set(found) <= {"0", "1"} or set(found) <= {"0", "255"}:
        return LabelMap.of({"0": BACKGROUND, "255" if "255" in found else "1": "foreground"}), []
    named = {value: names[value] for value in found if value in names}
    if len(named) + 1 < len(found) > MAX_PROPOSED or cut_between_clusters(gray_counts(values)) is not None:
        return LabelMap.of({found[0]: BACKGROUND, found[-1]: "foreground"}), []
    what = f"the masks hold {few(found, MAX_PROPOSED)}, which {'a label file names' if named else 'have no names'}"
    return _any_values(statistics), [Problem("data.labels", what, f"add  {labels_line(proposed(found) | named)}")]
