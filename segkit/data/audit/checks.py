"""Checks for what is wrong with the files of a data set or its split, from the statistics, so that nothing is read twice.

`warnings.py` finds what only looks wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from segkit.data.case import Case, Manifest, relative
from segkit.data.labels import LabelMap
from segkit.data.manifest import MAX_PROPOSED, labels_line
from segkit.data.splits import SUBSETS, Split
from segkit.data.statistics import Statistics, value_order, values_seen
from segkit.system.errors import Problem

RARE = 0.9
"""A class that is empty in a larger share of the masks is worth a warning."""
_IN_WORDS = {"train": "train", "val": "validation", "test": "test"}


def check_files(manifest: Manifest, statistics: Statistics, tolerant: bool = False) -> list[Problem]:
    """What is wrong with the files themselves.

    `tolerant`: a trained network is evaluated on the data, so structures that it does not know, and those that the data lacks,
    are only worth a note.
    """
    readable = [case for case in manifest if not statistics[case.id].errors]
    return [
        *_unreadable(manifest, statistics),
        *_sizes(manifest, readable, statistics),
        *(_planes(manifest) or _labels(manifest, readable, statistics, tolerant)),
        *_kinds(manifest, readable, statistics),
        *_blank(manifest, readable, statistics),
        *_twins(readable, statistics),
        *_unlabelled(manifest),
    ]


def check_split(manifest: Manifest, split: Split, statistics: Statistics) -> list[Problem]:
    """What would make the numbers wrong: leaks between the subsets, subsets or classes that are empty."""
    return [
        *(Problem("split", f"no case is in {_IN_WORDS[s]}", "use  split=holdout") for s in ("train", "val") if not split.ids(s)),
        *_groups_apart(manifest, split),
        *_same_pixels(split, statistics),
        *_classes_absent(manifest, split, statistics),
    ]


def exclude_line(ids: Sequence[str]) -> str:
    """The override that leaves cases out; quoted, since 012 would lose its zero."""
    quoted = ",".join(f'"{id_}"' for id_ in ids)
    return f"data.exclude='[{quoted}]'"


# files


def _unreadable(manifest: Manifest, statistics: Statistics) -> list[Problem]:
    """One problem a file, though all slices of a volume meet it."""
    by_file: dict[tuple[str, str], list[Case]] = {}
    for case in manifest:
        for error in statistics[case.id].errors:
            by_file.setdefault(error, []).append(case)
    return [
        Problem(relative(Path(file), manifest.root), reason, f"fix the file, or  {exclude_line(_names(cases))}")
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
    if overlap:
        what = f"{len(wrong)} cases have a single mask, but data.overlap=true needs one for each structure"
        return [Problem("data.overlap", what, "data.overlap=false")]
    what = f"{len(wrong)} cases have one mask for each structure ({', '.join(wrong[0].masks)})"
    return [Problem("data.overlap", what, "data.overlap=true")]


def _sizes(manifest: Manifest, cases: Iterable[Case], statistics: Statistics) -> list[Problem]:
    problems = []
    for case in cases:
        shape = statistics[case.id].shape
        for plane, mask in statistics[case.id].masks.items():
            if mask.shape != shape:
                what = f"is {' x '.join(map(str, mask.shape))} but its image is {' x '.join(map(str, shape))}"
                if mask.shape == (*shape[:-2], *shape[:-3:-1]):
                    what += " (turned by 90 degrees?)"
                problems.append(Problem(_file(manifest, case, plane), what, f"fix the mask, or  {exclude_line([case.id])}"))
    return problems


def _labels(manifest: Manifest, cases: Sequence[Case], statistics: Statistics, tolerant: bool) -> list[Problem]:
    """Unnamed values come first: the classes that seem empty are often these."""
    is_overlapping = manifest.labels.overlap
    unknown = _unknown_planes(manifest.labels, cases) if is_overlapping else _unknown_values(manifest, cases, statistics)
    empty = _empty_classes(manifest, cases, statistics)
    if not tolerant:
        return unknown or empty
    return [*(replace(p, severity="note") if is_overlapping else p for p in unknown), *(replace(p, severity="note") for p in empty)]


def _unknown_values(manifest: Manifest, cases: Sequence[Case], statistics: Statistics) -> list[Problem]:
    """One problem for each set of values: a thousand masks with the same fault are one thing to fix."""
    labels = manifest.labels
    named = {labels.as_key(raw) for raw, _ in labels.values}
    by_unknown: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        unknown = {value for mask in statistics[case.id].masks.values() for value in mask.values if labels.as_key(value) not in named}
        if unknown:
            is_gray = len(unknown) > MAX_PROPOSED  # every such mask has values of its own
            by_unknown.setdefault(() if is_gray else tuple(sorted(unknown, key=value_order)), []).append(case)
    gray = {case.id for case in by_unknown.get((), [])}
    line = _accepting(labels, values_seen(statistics[case.id] for case in cases if case.id not in gray))
    names = ", ".join(raw for raw, _ in labels.values)
    problems = []
    for unknown_values, found_in in by_unknown.items():
        masks = f" (in {len(found_in)} masks)" if len(found_in) > 1 else ""
        if unknown_values:
            values = ", ".join(values_seen(statistics[case.id] for case in found_in))
            what, fix = f"values {values} but labels name {names}{masks}", f"add  {line}"
        else:
            n = max(mask.n_values for mask in statistics[found_in[0].id].masks.values())
            what = f"{n} different values but labels name {names}: gray levels or blurred edges, not labels{masks}"
            fix = "save masks as PNG with one value a class (no JPEG, no smoothing)"
        problems.append(Problem(_file(manifest, found_in[0], ""), what, fix))
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


def _unknown_planes(labels: LabelMap, cases: Iterable[Case]) -> list[Problem]:
    planes = dict.fromkeys(plane for case in cases for plane in case.masks)
    unknown = [plane for plane in planes if plane and plane not in dict(labels.values)]
    if not unknown:
        return []
    kept = {raw: name for raw, name in labels.values if raw in planes}
    fix = f"add  {labels_line(kept | {plane: plane for plane in unknown})}"
    return [Problem("data.labels", f"does not name the masks {', '.join(unknown)}", f"{fix}   (to leave one out:  NAME: background)")]


def _empty_classes(manifest: Manifest, cases: Iterable[Case], statistics: Statistics) -> list[Problem]:
    counts = [statistics[case.id].class_pixels(manifest.labels) for case in cases if case.masks]
    problems = []
    for name in manifest.labels.classes if counts else ():
        empty = sum(count[name] == 0 for count in counts)
        if empty == len(counts):
            what = f"not one pixel of it in {_n(len(counts), 'mask')}"
            problems.append(Problem(f"class {name}", what, "check the masks, or take it out of data.labels"))
        elif empty:
            rare = empty > RARE * len(counts)
            fix = "if that is right, draw the others more often:  sampling.weights=foreground" if rare else ""
            problems.append(Problem(f"class {name}", f"empty in {empty} of {len(counts)} masks", fix, "warning" if rare else "note"))
    return problems


def _kinds(manifest: Manifest, cases: Sequence[Case], statistics: Statistics) -> list[Problem]:
    """Images of one data set have the same channels; mixed bit depths are only worth a warning, since all are scaled."""
    problems: list[Problem] = []
    channels = Counter(statistics[case.id].channels for case in cases)
    if len(channels) > 1:
        usual = channels.most_common(1)[0][0]
        odd = [case for case in cases if statistics[case.id].channels != usual]
        what = f"{_n(statistics[odd[0].id].channels, 'channel')}, but {channels[usual]} of {len(cases)} images have {usual}"
        what += f" ({len(odd)} such images)" if len(odd) > 1 else ""
        fix = f"convert to one kind, or  {exclude_line([c.id for c in odd])}" if len(odd) <= 5 else "convert all to one kind"
        problems.append(Problem(relative(odd[0].image.paths[0], manifest.root), what, fix))
    depths = Counter(statistics[case.id].dtype for case in cases)
    if len(depths) > 1:
        what = f"bit depths are mixed ({', '.join(f'{n} {kind}' for kind, n in depths.most_common())})"
        problems.append(Problem("images", what, "each is scaled to 0..1 by its own range", "warning"))
    return problems


def _blank(manifest: Manifest, cases: Iterable[Case], statistics: Statistics) -> list[Problem]:
    """One problem for all: volumes often begin and end with empty slices."""
    blank = [case for case in cases if statistics[case.id].is_blank]
    if not blank:
        return []
    more = f" (so in {len(blank)} images, e.g. {', '.join(case.id for case in blank[:3])})" if len(blank) > 1 else ""
    fix = exclude_line([case.id for case in blank]) if len(blank) <= 20 else "leave them out with data.exclude, or fix the files"
    where = blank[0].image.paths[0]
    return [Problem(relative(where, manifest.root), f"every pixel has the same value{more}", fix, "warning")]


def _twins(cases: Iterable[Case], statistics: Statistics) -> list[Problem]:
    """Identical images; in two subsets of a split they are an error of `check_split`."""
    by_content: dict[str, list[str]] = {}
    for case in cases:
        if not statistics[case.id].is_blank:
            by_content.setdefault(statistics[case.id].sha1, []).append(case.id)
    return [
        Problem(f"image {ids[0]}", f"the same pixels as {', '.join(ids[1:])}", exclude_line(ids[1:]), "warning")
        for ids in by_content.values()
        if len(ids) > 1
    ]


def _unlabelled(manifest: Manifest) -> list[Problem]:
    without = [case.id for case in manifest if not case.masks]
    if not without:
        return []
    if len(without) == len(manifest):
        return [Problem(str(manifest.root), "no image has a mask: there is nothing to learn from", "add masks")]
    return [Problem("masks", f"{len(without)} of {len(manifest)} images have none and are left out", "", "note")]


def _file(manifest: Manifest, case: Case, plane: str) -> str:
    masks = case.masks
    mask = masks[plane] if plane in masks else next(iter(masks.values()))
    return relative(mask.paths[0], manifest.root)


def _n(n: int, unit: str) -> str:
    return f"{n} {unit}" if n == 1 else f"{n} {unit}s"


# the split


def _groups_apart(manifest: Manifest, split: Split) -> list[Problem]:
    problems, subset_of = [], split.subset_of
    by_group: dict[str, dict[str, Case]] = {}
    for case in manifest:
        if case.group and case.id in subset_of:
            by_group.setdefault(case.group, {}).setdefault(subset_of[case.id], case)
    for group, subsets in by_group.items():
        if len(subsets) > 1:
            where = " and ".join(f"{_IN_WORDS[subset]} ({subsets[subset].id})" for subset in SUBSETS if subset in subsets)
            problems.append(Problem(f"group {group}", f"in {where}", "use  split=holdout  (it keeps groups whole)"))
    if problems and not split.grouped:
        what = f"{len(problems)} groups are in several subsets, because of split.grouped=false: scores will be too good"
        return [Problem("split.grouped", what, "split.grouped=true", "warning")]
    return problems


def _same_pixels(split: Split, statistics: Statistics) -> list[Problem]:
    """Identical images in two subsets; an empty slice is like any other, so these do not count."""
    by_content: dict[str, list[str]] = {}
    subset_of, problems = split.subset_of, []
    for id_ in subset_of:
        if id_ in statistics and statistics[id_].sha1 and not statistics[id_].is_blank:
            by_content.setdefault(statistics[id_].sha1, []).append(id_)
    for ids in by_content.values():
        if len({subset_of[id_] for id_ in ids}) > 1:
            where = " and ".join(f"{_IN_WORDS[subset_of[id_]]} ({id_})" for id_ in ids)
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
        Problem(f"class {name}", f"no {_IN_WORDS[subset]} case has it", "try another split.seed", "warning")
        for subset, names in present.items()
        for name in labels.classes
        if name not in names and any(name in others for others in present.values())
    ]
