"""Checks of mask values: every value has a name, every name has pixels, and values are labels rather than gray levels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from segkit.data.audit.audited import Audited, leave_out
from segkit.data.case import Case, Manifest, grouped
from segkit.data.labels import BACKGROUND, LabelMap
from segkit.data.mask_values import MAX_VALUES, cut_between_clusters, gray_counts
from segkit.data.naming import MAX_PROPOSED, labels_line
from segkit.data.statistics import MaskStatistics, value_order, values_seen
from segkit.system.errors import Problem, few

RARE = 0.9
"""A class that is empty in a larger share of the masks is worth a warning."""
MAX_LINES = 8
"""Sets of values, or classes, up to which each has a line of its own."""


def check_labels(data: Audited, tolerant: bool) -> list[Problem]:
    """Unnamed values come first: the classes that seem empty are often these."""
    is_overlapping = data.manifest.labels.overlap
    unknown = _unknown_planes(data) if is_overlapping else _unknown_values(data)
    empty = _empty_classes(data)
    if not tolerant:
        return unknown or [*empty, *_unmeasured(data)]
    return [*(replace(p, severity="note") if is_overlapping else p for p in unknown), *(replace(p, severity="note") for p in empty)]


def _unknown_values(data: Audited) -> list[Problem]:
    """One problem for each set of values: a thousand masks with the same fault are one thing to fix."""
    labels = data.manifest.labels
    unnamed = _unnamed(data)
    cut = _cut(data) if _are_most(data, unnamed) else None
    is_many = len({value for values, _ in unnamed for value in values if len(values) <= MAX_PROPOSED}) > MAX_PROPOSED
    gray = [case for values, case in unnamed if cut is not None or is_many or not 0 < len(values) <= MAX_PROPOSED]
    ids = {case.id for case in gray}
    by_values = grouped((values, case) for values, case in unnamed if case.id not in ids)
    if len(by_values) > MAX_LINES:
        by_values = {(): [case for cases in by_values.values() for case in cases]}
    line = f"add  {_accepting(labels, values_seen(data.statistics[case.id] for case in data.cases if case.id not in ids))}"
    problems = [_gray_levels(data, gray, cut)] if gray else []
    for cases in by_values.values():
        values = ", ".join(values_seen(data.statistics[case.id] for case in cases))
        what = f"values {values} but labels name {_named_values(labels)}{_in_masks(cases)}"
        problems.append(Problem(data.mask_file(cases[0]), what, line))
    return problems


def _unnamed(data: Audited) -> list[tuple[tuple[str, ...], Case]]:
    """Cases with the values that have no name; none of them where a mask holds more than are counted."""
    found: list[tuple[tuple[str, ...], Case]] = []
    for case in data.cases:
        masks = data.statistics[case.id].masks.values()
        values = {value for mask in masks for value in mask.values if not data.manifest.labels.name_of("", value)}
        if any(mask.n_values > len(mask.values) for mask in masks):
            found.append(((), case))
        elif values:
            found.append((tuple(sorted(values, key=value_order)), case))
    return found


def _are_most(data: Audited, unnamed: Sequence[object]) -> bool:
    """Whether so many masks hold values without a name that a key for all masks would not spoil the sound ones."""
    with_structures = [stats for stats in data.masked if any(mask.n_values > 1 for mask in stats.masks.values())]
    return 2 * len(unnamed) >= len(with_structures)


def _cut(data: Audited) -> int | None:
    """Where a threshold would make one class of the masks; None where they hold several, or no two clusters."""
    return cut_between_clusters(gray_counts(values_seen(data.masked))) if len(data.manifest.labels.classes) == 1 else None


def _gray_levels(data: Audited, cases: Sequence[Case], cut: int | None) -> Problem:
    seen = [data.statistics[case.id] for case in cases]
    levels = gray_counts(values_seen(seen))
    n = max(len(levels), *(mask.n_values for stats in seen for mask in stats.masks.values()))
    where = data.mask_file(cases[0])
    if cut is not None:
        what = f"{n} gray levels from {min(levels)} to {max(levels)}, most near one of the two: blurred edges or JPEG, not labels"
        return Problem(where, what + _in_masks(cases), threshold_fix(data.manifest, cut))
    what = f"{n} different values but labels name {_named_values(data.manifest.labels)}: gray levels or blurred edges, not labels"
    what += f" (at most {MAX_VALUES} are counted)" if n > MAX_VALUES else ""
    fix = "save masks as PNG with one value a class (no JPEG, no smoothing)"
    if not _are_most(data, cases):
        fix += f", or  {leave_out(cases)}"
    elif "threshold" in data.manifest.source_keys:
        fix += "; if they number instances of one class, add  data.source.threshold=1"
    return Problem(where, what + _in_masks(cases), fix)


def threshold_fix(manifest: Manifest, cut: int) -> str:
    """The line that makes one class of gray levels from `cut` on; where the source has no such key, how to save the masks."""
    if "threshold" not in manifest.source_keys:
        save = f"threshold the masks and save them as PNG: cv2.imwrite(FILE, (mask > {cut - 1}).astype('uint8') * 255)"
        return f"{save}; resize masks with cv2.INTER_NEAREST only"
    labels = manifest.labels
    are_named = labels.overlap or {raw for raw, _ in labels.values} == {"0", "255"}
    names = "" if are_named else f" {labels_line({'0': BACKGROUND, '255': labels.classes[0]})}"
    return f"add  data.source.threshold={cut}{names}"


def _named_values(labels: LabelMap) -> str:
    return few([raw for raw, _ in labels.values], MAX_PROPOSED)


def _in_masks(cases: Sequence[Case]) -> str:
    return f" (in {len(cases)} masks)" if len(cases) > 1 else ""


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
    """Classes that no mask shows, and those that some lack."""
    n = len(data.class_pixels)
    empty = {name: sum(count[name] == 0 for count in data.class_pixels) for name in data.manifest.labels.classes} if n else {}
    absent = [name for name, times in empty.items() if times == n]
    rare = {name: times for name, times in empty.items() if RARE * n < times < n}
    others = {name: times for name, times in empty.items() if 0 < times <= RARE * n}
    more_often = "if that is right, draw the others more often:  sampling.weights=foreground"
    return [
        *([_absent(data.manifest.labels, absent, n)] if absent else []),
        *(replace(problem, severity="warning", fix=more_often) for problem in _empty_somewhere(rare, n)),
        *_empty_somewhere(others, n),
    ]


def _absent(labels: LabelMap, names: Sequence[str], n: int) -> Problem:
    """Planes that are not named would be an error again; so they are named background."""
    masks = f"{n} mask{'s' * (n > 1)}"
    rest = {raw: BACKGROUND if name in names else name for raw, name in labels.values if labels.overlap or name not in names}
    they = "it" if len(names) == 1 else "them"
    fix = f"check the masks, or leave {they} out:  {labels_line(rest)}" if len(names) < len(labels.classes) else "check the masks"
    if len(names) == 1:
        return Problem(f"class {names[0]}", f"not one pixel of it in {masks}", fix)
    return Problem(f"{len(names)} classes", f"not one pixel of {few(names)} in {masks}", fix)


def _empty_somewhere(times: dict[str, int], n: int) -> list[Problem]:
    """A line a class; one line for many."""
    if len(times) <= MAX_LINES:
        return [Problem(f"class {name}", f"empty in {k} of {n} masks", "", "note") for name, k in times.items()]
    most = max(times, key=lambda name: times[name])
    return [Problem(f"{len(times)} classes", f"empty in some of {n} masks, {most} most often (in {times[most]})", "", "note")]


def _unmeasured(data: Audited) -> list[Problem]:
    """Masks whose structures were too many or too scattered to be measured, so that no check of shapes saw them."""
    left = [case.id for case, plane, mask in data.masks() if not mask.structures and _shows_a_class(data.manifest.labels, plane, mask)]
    what = f"the structures of {len(left)} masks are too many or too scattered to be measured: outlines and specks are not checked there"
    return [Problem("masks", what, "", "note")] if left else []


def _shows_a_class(labels: LabelMap, plane: str, mask: MaskStatistics) -> bool:
    return any(labels.name_of(plane, value) in labels.classes for value in mask.values if value not in ("0", "#000000"))
