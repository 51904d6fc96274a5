"""Checks for what is wrong with the files of a data set or its split, from the statistics, so that nothing is read twice.

`warnings.py` finds what only looks wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segkit.data.audit.audited import Audited, leave_out, others
from segkit.data.audit.label_checks import MAX_LINES, check_labels
from segkit.data.case import Case, Manifest, exclude_line, grouped, relative
from segkit.data.io.exif import UPRIGHT
from segkit.data.io.masks import same_aspect
from segkit.data.splits import IN_WORDS, SUBSETS, Split
from segkit.data.statistics import Statistics
from segkit.system.errors import Problem, few


def check_files(manifest: Manifest, statistics: Statistics, tolerant: bool = False) -> list[Problem]:
    """What is wrong with the files themselves.

    `tolerant`: a trained network is evaluated on the data, so structures that it does not know, and those that the data lacks,
    are only worth a note.
    """
    data = Audited(manifest, statistics)
    return [
        *_unreadable(data),
        *_sizes(data),
        *(_planes(manifest) or check_labels(data, tolerant)),
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
    """One problem a file, though all slices of a volume meet it; one for all masks that hold fractions or NaN."""
    by_file = grouped((error, case) for case in data.manifest for error in data.statistics[case.id].errors)
    ranges = {file: span for stats in data.statistics.values() for file, span in stats.mask_ranges.items()}
    whole = [
        Problem(relative(Path(file), data.manifest.root), reason, f"fix the file, or  {exclude_line(_names(cases))}")
        for (file, reason), cases in by_file.items()
        if file not in ranges
    ]
    by_reason = grouped((reason, (file, cases[0])) for (file, reason), cases in by_file.items() if file in ranges)
    return [*whole, *(_fractions(data, reason, dict(found), ranges) for reason, found in by_reason.items())]


def _fractions(data: Audited, reason: str, cases: Mapping[str, Case], ranges: Mapping[str, tuple[float, float]]) -> Problem:
    """Masks by file that hold fractions or NaN. A threshold halfway between their extremes makes whole numbers of both."""
    low, high = min(ranges[file][0] for file in cases), max(ranges[file][1] for file in cases)
    fix = f"save them in whole numbers, or  {exclude_line(_names(list(cases.values())))}"
    if "threshold" in data.manifest.source_keys and high > low:
        fix = f"add  data.source.threshold={(low + high) / 2:g}   (one class; for several, save the masks in whole numbers)"
    return Problem(relative(Path(next(iter(cases))), data.manifest.root), reason + others(list(cases.values())), fix)


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
    """One problem for all masks of the same two sizes."""
    off = [(case, mask.shape) for case, _, mask in data.masks() if mask.shape != data.statistics[case.id].shape]
    by_sizes = grouped(((shape, data.statistics[case.id].shape), case) for case, shape in off)
    return [_off_size(data, shape, size, list({case.id: case for case in cases}.values())) for (shape, size), cases in by_sizes.items()]


def _off_size(data: Audited, shape: tuple[int, ...], size: tuple[int, ...], cases: Sequence[Case]) -> Problem:
    what = f"is {' x '.join(map(str, shape))} but its image is {' x '.join(map(str, size))}"
    is_turned = shape == (*size[:-2], *size[:-3:-1])
    is_exif = is_turned and data.statistics[cases[0].id].orientation > UPRIGHT
    if is_turned:
        what += " (turned by its EXIF orientation)" if is_exif else " (turned by 90 degrees?)"
    resizable = "resize_masks" in data.manifest.source_keys and len(size) == 2 and same_aspect(shape, size)
    fix = "add  data.source.resize_masks=true" if resizable else f"fix the mask{'s' * (len(cases) > 1)}, or  {leave_out(cases)}"
    fix = "drawn on the stored pixels:  data.exif=stored" if is_exif else fix
    first = data.statistics[cases[0].id]
    mask = next(pixels for plane, pixels in cases[0].masks.items() if first.masks[plane].shape == shape)
    return Problem(data.file(cases[0], mask), what + others(cases), fix)


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
    somewhere = set().union(*present.values())
    absent = {subset: [name for name in labels.classes if name in somewhere - names] for subset, names in present.items()}
    return [problem for subset, names in absent.items() for problem in _absent_in(subset, names)]


def _absent_in(subset: str, names: Sequence[str]) -> list[Problem]:
    """A line a class; one line for many."""
    fix = "try another split.seed"
    if len(names) <= MAX_LINES:
        return [Problem(f"class {name}", f"no {IN_WORDS[subset]} case has it", fix, "warning") for name in names]
    return [Problem(f"{len(names)} classes", f"no {IN_WORDS[subset]} case has {few(names)}", fix, "warning")]
