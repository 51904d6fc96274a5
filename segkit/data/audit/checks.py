"""What is wrong with the files of a data set. Each check looks at the facts, so nothing is read twice.

What only looks wrong is told by `suspicions.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from segkit.data.case import Case, Manifest, relative
from segkit.data.labels import LabelMap
from segkit.data.manifest import PROPOSED, labels_line
from segkit.data.splits import exclude_line
from segkit.data.statistics import CaseFacts, value_order, values_seen
from segkit.system.errors import Problem

Facts = Mapping[str, CaseFacts]
RARE = 0.9
"""A class that is empty in a larger share of the masks is worth a warning."""


def audit(manifest: Manifest, facts: Facts, tolerant: bool = False) -> list[Problem]:
    """What is wrong with the files themselves; the split is checked by `check_split`.

    `tolerant`: a trained network is judged on the data, so structures that it does not know, and those that the data lacks,
    are only worth a note.
    """
    sound = [case for case in manifest if not facts[case.id].errors]
    planes = _planes(manifest)
    return [
        *_unreadable(manifest, facts),
        *_sizes(manifest, sound, facts),
        *(planes or _labels(manifest, sound, facts, tolerant)),
        *_kinds(manifest, sound, facts),
        *_single_valued(manifest, sound, facts),
        *_twins(sound, facts),
        *_unlabelled(manifest),
    ]


def _labels(manifest: Manifest, cases: Sequence[Case], facts: Facts, tolerant: bool) -> list[Problem]:
    """Where the masks hold what is not named, that comes first: the classes that seem empty are often these."""
    unknown, empty = _unknown_values(manifest, cases, facts), _empty_classes(manifest, cases, facts)
    if tolerant:
        planes = [replace(p, severity="note") for p in unknown] if manifest.labels.overlap else unknown
        return [*planes, *(replace(p, severity="note") for p in empty)]
    return unknown or empty


def _unreadable(manifest: Manifest, facts: Facts) -> list[Problem]:
    """One problem a file, though all slices of a volume meet it."""
    by_file: dict[tuple[str, str], list[Case]] = {}
    for case in manifest:
        for error in facts[case.id].errors:
            by_file.setdefault(error, []).append(case)
    return [
        Problem(relative(Path(file), manifest.root), reason, f"fix the file, or  {exclude_line(_names(cases))}")
        for (file, reason), cases in by_file.items()
    ]


def _names(cases: Sequence[Case]) -> list[str]:
    """Of the cases, or of the one volume that all of them are slices of."""
    volumes = {case.volume for case in cases}
    return [case.id for case in cases] if len(cases) == 1 or len(volumes) > 1 or "" in volumes else list(volumes)


def _planes(manifest: Manifest) -> list[Problem]:
    """Overlapping labels want a plane a structure, exclusive ones a single mask."""
    overlap = manifest.labels.overlap
    wrong = [case for case in manifest if case.masks and ("" in case.masks) == overlap]
    if not wrong:
        return []
    if overlap:
        what = f"{len(wrong)} cases have a single mask, but data.overlap=true wants one for each structure"
        return [Problem("data.overlap", what, "data.overlap=false")]
    what = f"{len(wrong)} cases have one mask for each structure ({', '.join(wrong[0].masks)})"
    return [Problem("data.overlap", what, "data.overlap=true")]


def _sizes(manifest: Manifest, cases: Iterable[Case], facts: Facts) -> list[Problem]:
    problems = []
    for case in cases:
        shape = facts[case.id].shape
        for plane, mask in facts[case.id].masks.items():
            if mask.shape != shape:
                what = f"is {' x '.join(map(str, mask.shape))} but its image is {' x '.join(map(str, shape))}"
                if mask.shape == (*shape[:-2], *shape[:-3:-1]):
                    what += " (turned by 90 degrees?)"
                problems.append(Problem(_file(manifest, case, plane), what, f"fix the mask, or  {exclude_line([case.id])}"))
    return problems


def _unknown_values(manifest: Manifest, cases: Sequence[Case], facts: Facts) -> list[Problem]:
    """One problem for each set of values: a thousand masks with the same fault are one problem to fix."""
    labels = manifest.labels
    if labels.overlap:
        return _unknown_planes(labels, cases)
    named = {labels.as_key(raw) for raw, _ in labels.values}
    by_unknown: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        unknown = {value for mask in facts[case.id].masks.values() for value in mask.values if labels.as_key(value) not in named}
        if unknown:
            grey = len(unknown) > PROPOSED  # every such mask has values of its own
            by_unknown.setdefault(() if grey else tuple(sorted(unknown, key=value_order)), []).append(case)
    grey_ids = {case.id for case in by_unknown.get((), [])}
    seen = values_seen(facts[case.id] for case in cases if case.id not in grey_ids)
    return [
        _other_values(manifest, held_by, facts, _accepting(labels, seen)) if unknown else _grey_levels(manifest, held_by, facts)
        for unknown, held_by in by_unknown.items()
    ]


def _other_values(manifest: Manifest, held_by: Sequence[Case], facts: Facts, fix: str) -> Problem:
    values = ", ".join(values_seen(facts[case.id] for case in held_by))
    masks = f" (in {len(held_by)} masks)" if len(held_by) > 1 else ""
    return Problem(_file(manifest, held_by[0], ""), f"values {values} but labels name {_named(manifest)}{masks}", f"add  {fix}")


def _grey_levels(manifest: Manifest, held_by: Sequence[Case], facts: Facts) -> Problem:
    n = max(mask.n_values for mask in facts[held_by[0].id].masks.values())
    masks = f" (in {len(held_by)} masks)" if len(held_by) > 1 else ""
    what = f"{n} different values but labels name {_named(manifest)}: grey levels or blurred edges, not labels{masks}"
    return Problem(_file(manifest, held_by[0], ""), what, "save masks as PNG with one value a class (no JPEG, no smoothing)")


def _named(manifest: Manifest) -> str:
    return ", ".join(raw for raw, _ in manifest.labels.values)


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
    return [Problem("data.labels", f"does not name the masks {', '.join(unknown)}", f"{fix}   (what is not wanted:  NAME: background)")]


def _empty_classes(manifest: Manifest, cases: Iterable[Case], facts: Facts) -> list[Problem]:
    counted = [facts[case.id].class_pixels(manifest.labels) for case in cases if case.masks]
    problems = []
    for name in manifest.labels.classes if counted else ():
        empty = sum(count[name] == 0 for count in counted)
        if empty == len(counted):
            what = f"not one pixel of it in {_n(len(counted), 'mask')}"
            problems.append(Problem(f"class {name}", what, "check the masks, or take it out of data.labels"))
        elif empty:
            rare = empty > RARE * len(counted)
            fix = "if that is right, draw the others more often:  sampling.weights=foreground" if rare else ""
            problems.append(Problem(f"class {name}", f"empty in {empty} of {len(counted)} masks", fix, "warning" if rare else "note"))
    return problems


def _kinds(manifest: Manifest, cases: Sequence[Case], facts: Facts) -> list[Problem]:
    """Images of one data set have the same channels; mixed bit depths are only worth a warning, since all are scaled."""
    problems: list[Problem] = []
    channels = Counter(facts[case.id].channels for case in cases)
    if len(channels) > 1:
        usual = channels.most_common(1)[0][0]
        odd = [case for case in cases if facts[case.id].channels != usual]
        what = f"{_n(facts[odd[0].id].channels, 'channel')}, but {channels[usual]} of {len(cases)} images have {usual}"
        what += f" ({len(odd)} such images)" if len(odd) > 1 else ""
        fix = f"convert to one kind, or  {exclude_line([c.id for c in odd])}" if len(odd) <= 5 else "convert all to one kind"
        problems.append(Problem(relative(odd[0].image.paths[0], manifest.root), what, fix))
    depths = Counter(facts[case.id].dtype for case in cases)
    if len(depths) > 1:
        what = f"bit depths are mixed ({', '.join(f'{n} {kind}' for kind, n in depths.most_common())})"
        problems.append(Problem("images", what, "each is scaled to 0..1 by its own range", "warning"))
    return problems


def _single_valued(manifest: Manifest, cases: Iterable[Case], facts: Facts) -> list[Problem]:
    """One problem for all: volumes often begin and end with empty slices."""
    blank = [case for case in cases if facts[case.id].is_blank]
    if not blank:
        return []
    more = f" (so in {len(blank)} images, e.g. {', '.join(case.id for case in blank[:3])})" if len(blank) > 1 else ""
    fix = exclude_line([case.id for case in blank]) if len(blank) <= 20 else "leave them out with data.exclude, or fix the files"
    where = blank[0].image.paths[0]
    return [Problem(relative(where, manifest.root), f"every pixel has the same value{more}", fix, "warning")]


def _twins(cases: Iterable[Case], facts: Facts) -> list[Problem]:
    """Identical images; on both sides of a split they are an error, which `check_split` tells."""
    by_content: dict[str, list[str]] = {}
    for case in cases:
        if not facts[case.id].is_blank:
            by_content.setdefault(facts[case.id].sha1, []).append(case.id)
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
