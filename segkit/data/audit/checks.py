"""Checks for what is wrong with the files of a data set or its split, from the statistics, so that nothing is read twice.

`warnings.py` finds what only looks wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from segkit.data.case import Case, Manifest, Pixels, grouped, relative
from segkit.data.labels import LabelMap
from segkit.data.manifest import MAX_PROPOSED, labels_line
from segkit.data.splits import IN_WORDS, SUBSETS, Split
from segkit.data.statistics import CaseStatistics, MaskStatistics, Statistics, value_order, values_seen
from segkit.data.structures import Structure
from segkit.system.errors import Problem

RARE = 0.9
"""A class that is empty in a larger share of the masks is worth a warning."""
MAX_NAMED = 20
"""Cases up to which a fix names all of them."""
INSPECT = "inspect them with  output=DIR"


@dataclass(frozen=True)
class DataWarning:
    """A problem, the ids of the cases that it is about, and a word that marks them on the contact sheet."""

    problem: Problem
    cases: tuple[str, ...] = ()
    mark: str = ""


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

    def about(self, cases: Sequence[Case], what: str, mark: str = "", fix: str = "", of_masks: bool = True) -> DataWarning:
        """One warning about all `cases`: the file of the first, how many more, two of these, and the line that leaves them out."""
        cases = list({case.id: case for case in cases}.values())
        first = next(iter(cases[0].masks.values())) if of_masks and cases[0].masks else cases[0].image
        others = [case.id for case in cases[1:]]
        if others:
            what += f" (and {len(others)} more: {', '.join(others[:2])}{', …' if len(others) > 2 else ''})"
        problem = Problem(self.file(cases[0], first), what, fix or leave_out(cases), "warning")
        return DataWarning(problem, tuple(case.id for case in cases), mark)


def leave_out(cases: Sequence[Case]) -> str:
    return exclude_line([case.id for case in cases]) if len(cases) <= MAX_NAMED else INSPECT


def exclude_line(ids: Sequence[str]) -> str:
    """The override that leaves cases out; quoted, since 012 would lose its zero."""
    quoted = ",".join(f'"{id_}"' for id_ in ids)
    return f"data.exclude='[{quoted}]'"


def check_files(manifest: Manifest, statistics: Statistics, tolerant: bool = False) -> list[Problem]:
    """What is wrong with the files themselves.

    `tolerant`: a trained network is evaluated on the data, so structures that it does not know, and those that the data lacks,
    are only worth a note.
    """
    data = Audited(manifest, statistics)
    return [
        *_unreadable(data),
        *_sizes(data),
        *(_planes(manifest) or _labels(data, tolerant)),
        *_kinds(data),
        *_blank(data),
        *_twins(data),
        *_unlabelled(manifest),
    ]


def check_split(manifest: Manifest, split: Split, statistics: Statistics) -> list[Problem]:
    """What would make the numbers wrong: leaks between the subsets, subsets or classes that are empty."""
    return [
        *(Problem("split", f"no case is in {IN_WORDS[s]}", "use  split=holdout") for s in ("train", "val") if not split.ids(s)),
        *_groups_apart(manifest, split),
        *_same_pixels(split, statistics),
        *_classes_absent(manifest, split, statistics),
    ]


# files


def _unreadable(data: Audited) -> list[Problem]:
    """One problem a file, though all slices of a volume meet it."""
    by_file = grouped((error, case) for case in data.manifest for error in data.statistics[case.id].errors)
    return [
        Problem(relative(Path(file), data.manifest.root), reason, f"fix the file, or  {exclude_line(_names(cases))}")
        for (file, reason), cases in by_file.items()
    ]


def _names(cases: Sequence[Case]) -> list[str]:
    """Ids of the cases, or the name of the one volume that all of them are slices of."""
    volumes = {case.volume for case in cases}
    return [case.id for case in cases] if len(cases) == 1 or len(volumes) > 1 or "" in volumes else list(volumes)


def _planes(manifest: Manifest) -> list[Problem]:
    """Overlapping labels need a plane a structure, exclusive ones a single mask."""
    overlap = manifest.labels.overlap
    wrong = [case for case in manifest if case.masks and ("" in case.masks) == overlap]
    if not wrong:
        return []
    single, planes = "a single mask, but data.overlap=true needs one for each structure", ", ".join(wrong[0].masks)
    what = f"{len(wrong)} cases have {single if overlap else f'one mask for each structure ({planes})'}"
    return [Problem("data.overlap", what, f"data.overlap={'false' if overlap else 'true'}")]


def _sizes(data: Audited) -> list[Problem]:
    problems = []
    for case, plane, mask in data.masks():
        shape = data.statistics[case.id].shape
        if mask.shape != shape:
            what = f"is {' x '.join(map(str, mask.shape))} but its image is {' x '.join(map(str, shape))}"
            if mask.shape == (*shape[:-2], *shape[:-3:-1]):
                what += " (turned by 90 degrees?)"
            problems.append(Problem(data.file(case, case.masks[plane]), what, f"fix the mask, or  {exclude_line([case.id])}"))
    return problems


def _labels(data: Audited, tolerant: bool) -> list[Problem]:
    """Unnamed values come first: the classes that seem empty are often these."""
    is_overlapping = data.manifest.labels.overlap
    unknown = _unknown_planes(data) if is_overlapping else _unknown_values(data)
    empty = _empty_classes(data)
    if not tolerant:
        return unknown or empty
    return [*(replace(p, severity="note") if is_overlapping else p for p in unknown), *(replace(p, severity="note") for p in empty)]


def _unknown_values(data: Audited) -> list[Problem]:
    """One problem for each set of values: a thousand masks with the same fault are one thing to fix."""
    labels = data.manifest.labels
    found = []
    for case in data.cases:
        values = {value for mask in data.statistics[case.id].masks.values() for value in mask.values}
        if unknown := sorted((value for value in values if not labels.name_of("", value)), key=value_order):
            found.append((() if len(unknown) > MAX_PROPOSED else tuple(unknown), case))  # every gray mask has values of its own
    by_unknown = grouped(found)
    gray = {case.id for case in by_unknown.get((), [])}
    line = _accepting(labels, values_seen(data.statistics[case.id] for case in data.cases if case.id not in gray))
    names = ", ".join(raw for raw, _ in labels.values)
    problems = []
    for unknown_values, cases in by_unknown.items():
        seen = [data.statistics[case.id] for case in cases]
        masks = f" (in {len(cases)} masks)" if len(cases) > 1 else ""
        if unknown_values:
            what, fix = f"values {', '.join(values_seen(seen))} but labels name {names}{masks}", f"add  {line}"
        else:
            n = max(mask.n_values for mask in seen[0].masks.values())
            what = f"{n} different values but labels name {names}: gray levels or blurred edges, not labels{masks}"
            fix = "save masks as PNG with one value a class (no JPEG, no smoothing)"
        problems.append(Problem(data.file(cases[0], next(iter(cases[0].masks.values()))), what, fix))
    return problems


def _accepting(labels: LabelMap, found: Iterable[str]) -> str:
    """The label map that takes all values; names that fit nothing go to the values that have none (0/1 named, 0/255 found)."""
    names, found = dict(labels.values), list(found)
    unused = [name for raw, name in labels.values if raw not in found]
    unknown = [value for value in found if value not in names]
    if len(unused) == len(unknown):
        kept = {raw: name for raw, name in names.items() if raw in found}
        return labels_line(kept | dict(zip(unknown, unused, strict=True)))
    return labels_line(names | dict.fromkeys(unknown, "NAME"))


def _unknown_planes(data: Audited) -> list[Problem]:
    named = dict(data.manifest.labels.values)
    planes = dict.fromkeys(plane for case in data.cases for plane in case.masks)
    unknown = [plane for plane in planes if plane and plane not in named]
    if not unknown:
        return []
    kept = {raw: name for raw, name in named.items() if raw in planes}
    fix = f"add  {labels_line(kept | {plane: plane for plane in unknown})}"
    return [Problem("data.labels", f"does not name the masks {', '.join(unknown)}", f"{fix}   (to leave one out:  NAME: background)")]


def _empty_classes(data: Audited) -> list[Problem]:
    counts, problems = data.class_pixels, []
    for name in data.manifest.labels.classes if counts else ():
        empty = sum(count[name] == 0 for count in counts)
        if empty == len(counts):
            what = f"not one pixel of it in {len(counts)} mask{'s' * (len(counts) > 1)}"
            problems.append(Problem(f"class {name}", what, "check the masks, or take it out of data.labels"))
        elif empty:
            rare = empty > RARE * len(counts)
            fix = "if that is right, draw the others more often:  sampling.weights=foreground" if rare else ""
            problems.append(Problem(f"class {name}", f"empty in {empty} of {len(counts)} masks", fix, "warning" if rare else "note"))
    return problems


def _kinds(data: Audited) -> list[Problem]:
    """Images of one data set have the same channels; mixed bit depths are only worth a warning, since all are scaled."""
    problems: list[Problem] = []
    by_channels = grouped((data.statistics[case.id].channels, case) for case in data.cases)
    if len(by_channels) > 1:
        usual = max(by_channels, key=lambda n: len(by_channels[n]))
        odd = [case for case in data.cases if data.statistics[case.id].channels != usual]
        n = data.statistics[odd[0].id].channels
        what = f"{n} channel{'s' * (n > 1)}, but {len(by_channels[usual])} of {len(data.cases)} images have {usual}"
        found = data.about(odd, what, fix=f"convert to one kind, or  {leave_out(odd)}", of_masks=False)
        problems.append(replace(found.problem, severity="error"))
    depths = Counter(data.statistics[case.id].dtype for case in data.cases)
    if len(depths) > 1:
        what = f"bit depths are mixed ({', '.join(f'{n} {kind}' for kind, n in depths.most_common())})"
        problems.append(Problem("images", what, "each is scaled to 0..1 by its own range", "warning"))
    return problems


def _blank(data: Audited) -> list[Problem]:
    """One problem for all: volumes often begin and end with empty slices."""
    blank = [case for case in data.cases if data.statistics[case.id].is_blank]
    return [data.about(blank, "every pixel has the same value", of_masks=False).problem] if blank else []


def _twins(data: Audited) -> list[Problem]:
    """Identical images; in two subsets of a split they are an error of `check_split`."""
    return [
        Problem(f"image {ids[0]}", f"the same pixels as {', '.join(ids[1:])}", exclude_line(ids[1:]), "warning")
        for ids in _identical([case.id for case in data.cases], data.statistics)
    ]


def _identical(ids: Iterable[str], statistics: Statistics) -> list[list[str]]:
    """Ids of images with the same pixels; an empty slice is like any other, so these do not count."""
    readable = (id_ for id_ in ids if id_ in statistics and statistics[id_].sha1 and not statistics[id_].is_blank)
    return [alike for alike in grouped((statistics[id_].sha1, id_) for id_ in readable).values() if len(alike) > 1]


def _unlabelled(manifest: Manifest) -> list[Problem]:
    n = sum(not case.masks for case in manifest)
    if n and n == len(manifest):
        return [Problem(str(manifest.root), "no image has a mask: there is nothing to learn from", "add masks")]
    return [Problem("masks", f"{n} of {len(manifest)} images have none and are left out", "", "note")] if n else []


# the split


def _groups_apart(manifest: Manifest, split: Split) -> list[Problem]:
    problems, subset_of = [], split.subset_of
    for group, cases in grouped((case.group, case) for case in manifest if case.group and case.id in subset_of).items():
        first = {subset_of[case.id]: case.id for case in reversed(cases)}
        if len(first) > 1:
            where = " and ".join(f"{IN_WORDS[subset]} ({first[subset]})" for subset in SUBSETS if subset in first)
            problems.append(Problem(f"group {group}", f"in {where}", "use  split=holdout  (it keeps groups whole)"))
    if problems and not split.grouped:
        what = f"{len(problems)} groups are in several subsets, because of split.grouped=false: scores will be too good"
        return [Problem("split.grouped", what, "split.grouped=true", "warning")]
    return problems


def _same_pixels(split: Split, statistics: Statistics) -> list[Problem]:
    """Identical images in two subsets."""
    subset_of, problems = split.subset_of, []
    for ids in _identical(subset_of, statistics):
        if len({subset_of[id_] for id_ in ids}) > 1:
            where = " and ".join(f"{IN_WORDS[subset_of[id_]]} ({id_})" for id_ in ids)
            problems.append(Problem(f"image {ids[0]}", f"the same pixels are in {where}", exclude_line(ids[1:])))
    return problems


def _classes_absent(manifest: Manifest, split: Split, statistics: Statistics) -> list[Problem]:
    """Classes that one subset lacks; `check_files` reports those that no case has."""
    labels = manifest.labels
    present = {
        subset: {name for id_ in ids if id_ in statistics for name, n in statistics[id_].class_pixels(labels).items() if n}
        for subset in SUBSETS
        if (ids := split.ids(subset))
    }
    return [
        Problem(f"class {name}", f"no {IN_WORDS[subset]} case has it", "try another split.seed", "warning")
        for subset, names in present.items()
        for name in labels.classes
        if name not in names and any(name in others for others in present.values())
    ]
