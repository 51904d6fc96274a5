"""Warnings about what looks wrong but may be right: masks off their images, odd intensities, forgotten slices.

Nothing here stops a training, and a false warning is worse than a missed one; so the thresholds are wide. Like `checks.py`
this uses the statistics alone, and many findings of one kind are one warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from segkit.data.audit.checks import exclude_line
from segkit.data.case import Case, Manifest, relative
from segkit.data.labels import Array
from segkit.data.slices import by_volume
from segkit.data.statistics import MEDIAN, NEARLY_ALL, CaseStatistics, MaskStatistics, Statistics
from segkit.data.structures import TINY, UNCHANGED, Alignment, Structure
from segkit.system.errors import Problem

ENOUGH = 8
"""Cases, masks or volumes from which on it is clear what is usual."""
INSPECT = "inspect them with  output=DIR"
ON_EDGES = 1.3
"""Median alignment from which on a mask that does not follow the edges stands out."""


@dataclass(frozen=True)
class DataWarning:
    """A problem, the ids of the cases that it is about, and a word that marks them on the contact sheet."""

    problem: Problem
    cases: tuple[str, ...] = ()
    mark: str = ""


@dataclass(frozen=True)
class _Data:
    """The cases whose files can be read, and what the warnings need to know of them."""

    manifest: Manifest
    cases: Sequence[Case]
    statistics: Statistics

    def masks(self) -> Iterator[tuple[Case, str, MaskStatistics]]:
        return ((case, plane, mask) for case in self.cases for plane, mask in self.statistics[case.id].masks.items())

    def structures(self) -> Iterator[tuple[Case, str, Structure]]:
        """Case, class name, structure."""
        labels = self.manifest.labels
        names = {raw if labels.overlap else labels.as_key(raw): name for raw, name in labels.values}
        for case, plane, mask in self.masks():
            for raw, structure in mask.structures.items():
                name = names.get(plane if labels.overlap else labels.as_key(raw), "")
                if name in labels.classes:
                    yield case, name, structure

    def masked(self) -> list[CaseStatistics]:
        return [self.statistics[case.id] for case in self.cases if self.statistics[case.id].masks]

    def about(self, cases: Sequence[Case], what: str, mark: str, fix: str = "", of_masks: bool = True) -> DataWarning:
        """One warning about all `cases`: the file of the first, how many more, two of these, and the line that leaves them out."""
        first = next(iter(cases[0].masks.values())) if of_masks and cases[0].masks else cases[0].image
        others = [case.id for case in cases[1:]]
        if others:
            what += f" (and {len(others)} more: {', '.join(others[:2])}{', …' if len(others) > 2 else ''})"
        leave_out = exclude_line([case.id for case in cases]) if len(cases) <= 3 else INSPECT
        where = relative(first.paths[0], self.manifest.root) if first.paths else cases[0].id
        return DataWarning(Problem(where, what, fix or leave_out, "warning"), tuple(case.id for case in cases), mark)


def find_warnings(manifest: Manifest, statistics: Statistics) -> list[DataWarning]:
    """All warnings about the readable cases; `duplicates.py` compares the subsets of a split."""
    data = _Data(manifest, [case for case in manifest if not statistics[case.id].errors], statistics)
    checks = (
        _misplaced, _outlines_only, _smoothed, _specks, _odd_intensities, _spacings, _imbalance, _always_together, _overlapping,
        _skipped_slices, _gaps,
    )  # fmt: skip
    return [warning for check in checks for warning in check(data)]


# masks


def _misplaced(data: _Data) -> list[DataWarning]:
    """Masks that would follow the edges of their image if they were moved or turned over: all of a plane, or a few."""
    by_plane: dict[str, list[tuple[Case, Alignment]]] = {}
    for case, plane, mask in data.masks():
        if mask.alignment is not None:
            by_plane.setdefault(plane, []).append((case, mask.alignment))
    return [found for members in by_plane.values() if len(members) >= ENOUGH for found in _misplaced_of(data, members)]


def _misplaced_of(data: _Data, members: Sequence[tuple[Case, Alignment]]) -> list[DataWarning]:
    best = Counter((one.best, one.shift) for _, one in members).most_common(1)[0][0]
    affected = [case for case, one in members if _same_change(best, one)]
    gain = float(np.median([one.best_score / max(one.score, 0.1) for _, one in members]))
    if best[0] != UNCHANGED and len(affected) >= 0.8 * len(members) and gain >= 1.4:
        what = f"the masks would follow the edges of their images if they were {best[0]}: so for {len(affected)} of {len(members)}"
        return [data.about(affected, what, "misplaced?", INSPECT)]
    usual = float(np.median([one.score for _, one in members]))
    alone = [(case, one) for case, one in members if not case.volume]  # a small slice of a structure follows no edge
    off = [(case, one) for case, one in alone if one.score <= 0.5 * usual and one.best_score >= max(0.75 * usual, 2 * one.score)]
    if usual < ON_EDGES or not off or len(off) > 0.2 * len(members):
        return []
    what = f"the mask is off the edges of its image, and would follow them if it were {off[0][1].best}"
    return [data.about([case for case, _ in off], what, "misplaced?")]


def _same_change(best: tuple[str, tuple[int, int]], one: Alignment) -> bool:
    """A shift between two that were tried is found sometimes as the one, sometimes as the other."""
    if best[1] == (0, 0) or one.shift == (0, 0):
        return one.best == best[0]
    return all(abs(a - b) <= 4 for a, b in zip(best[1], one.shift, strict=True))


def _outlines_only(data: _Data) -> list[DataWarning]:
    """Closed thin lines around one hole each; a net of lines (vessels, membranes) has many holes a component."""
    hollow: dict[str, dict[str, Case]] = {}
    for case, name, s in data.structures():
        if s.filled < 0.35 and s.rim > 0.6 and s.holes <= 1.5 * s.components and s.largest >= 10 * TINY:
            hollow.setdefault(name, {})[case.id] = case
    fix = "fill the outlines (cv2.findContours, then cv2.drawContours with cv2.FILLED) and save the masks again"
    return [
        data.about(list(found.values()), f"{name} is a thin line around an area, not the area", "outline only", fix)
        for name, found in hollow.items()
    ]


def _smoothed(data: _Data) -> list[DataWarning]:
    """Two values, far apart, and between them rare ones without a class: borders were smoothed or compressed."""
    labels = data.manifest.labels
    found = {
        case.id: case
        for case, _, mask in data.masks()
        if _rare_between_two(mask) and (labels.overlap or len(labels.classes) < mask.n_values - 2)
    }
    if not found:
        return []
    what = "few pixels between two frequent values: the borders of the mask are anti-aliased, or it was saved as JPEG"
    fix = "threshold the masks and save them as PNG: cv2.imwrite(FILE, (mask > 127) * 255); resize masks with cv2.INTER_NEAREST only"
    return [data.about(list(found.values()), what, "smoothed", fix)]


def _rare_between_two(mask: MaskStatistics) -> bool:
    if any(value.startswith("#") for value in mask.values):
        return False
    two = sorted(sorted(mask.values, key=lambda value: -mask.values[value])[:2], key=int)
    rare = mask.pixels - sum(mask.values[value] for value in two)
    return mask.n_values >= 5 and int(two[-1]) - int(two[0]) >= 100 and 0 < rare < 0.1 * mask.pixels


def _specks(data: _Data) -> list[DataWarning]:
    """Components of a few pixels. In a slice of a volume that may be the tip of something larger, so these are not counted."""
    found: dict[str, dict[str, Case]] = {}
    n: Counter[str] = Counter()
    for case, name, s in data.structures():
        if s.tiny and not case.volume:
            found.setdefault(name, {})[case.id] = case
            n[name] += s.tiny
    unit = "voxels" if data.manifest.dims == 3 else "pixels"
    return [
        data.about(list(of_class.values()), f"{n[name]} pieces of {name} have fewer than {TINY} {unit}", "specks", INSPECT)
        for name, of_class in found.items()
    ]


# images


def _odd_intensities(data: _Data) -> list[DataWarning]:
    """Median or 99th percentile far from those of the other images (robust z above 8); slices are compared as volumes."""
    statistics = data.statistics
    usual = Counter((statistics[case.id].dtype, statistics[case.id].channels) for case in data.cases).most_common(1)
    units: dict[str, list[Case]] = {}
    for case in data.cases:
        if (statistics[case.id].dtype, statistics[case.id].channels) == usual[0][0] and not statistics[case.id].is_blank:
            units.setdefault(case.volume or case.id, []).append(case)
    if len(units) < ENOUGH:
        return []
    levels = np.array([np.median([_levels(statistics[case.id]) for case in unit], axis=0) for unit in units.values()])
    z = _robust_z(levels)
    odd = [(i, unit[len(unit) // 2]) for i, unit in enumerate(units.values()) if z[i].max() > 8]
    if not odd:
        return []
    first = odd[0][0]
    which = int(z[first].argmax())
    measure = "median" if which % 2 == 0 else "99th percentile"
    what = f"{measure} of the intensity is {levels[first, which]:.4g}, in the data set mostly {np.median(levels[:, which]):.4g}"
    return [data.about([case for _, case in odd], what, "odd intensity", of_masks=False)]


def _levels(stats: CaseStatistics) -> list[float]:
    return [channel[i] for channel in stats.quantiles for i in (MEDIAN, NEARLY_ALL)]


def _robust_z(values: Array) -> Array:
    """(N, K) distances from the median in SDs, estimated by the median absolute deviation, at least 2 % of the range."""
    middle = np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(values - middle), axis=0)
    floor = 0.02 * max(float(np.abs(middle).max()), 1e-12)
    return np.asarray(np.abs(values - middle) / np.maximum(spread, floor))


def _spacings(data: _Data) -> list[DataWarning]:
    manifest = data.manifest
    known = [case for case in manifest if case.pixel_mm]
    found = []
    if known and len(known) < len(manifest):
        without = [case for case in manifest if not case.pixel_mm]
        what = f"no pixel size in mm, while {len(known)} of {len(manifest)} cases have one"
        fix = "add it to these; until then every result in mm is of the others alone"
        found.append(data.about(without, what, "no spacing", fix, of_masks=False))
    if len(known) >= ENOUGH:
        sizes = np.array([case.pixel_mm for case in known])
        ratio = sizes / np.median(sizes, axis=0)
        odd = [case for case, r in zip(known, ratio, strict=True) if r.max() > 3 or r.min() < 1 / 3]
        if odd:
            size, usual = (" x ".join(f"{n:.3g}" for n in mm) for mm in (odd[0].pixel_mm, np.median(sizes, axis=0)))
            what = f"its pixel size is {size} mm, in the data set mostly {usual} mm"
            found.append(data.about(odd, what, "odd spacing", of_masks=False))
    return found


# classes


def _note(where: str, what: str, fix: str = "") -> list[DataWarning]:
    return [DataWarning(Problem(where, what, fix, "note"))]


def _imbalance(data: _Data) -> list[DataWarning]:
    """A class with fewer than 1 of 200 labelled pixels, or a twentieth of the most frequent one."""
    masked = data.masked()
    total = sum(next(iter(stats.masks.values())).pixels for stats in masked)
    counts = Counter[str]()
    for stats in masked:
        counts.update(stats.class_pixels(data.manifest.labels))
    present = {name: n for name, n in counts.items() if n}
    if not present or (min(present.values()) >= total / 200 and min(present.values()) >= max(present.values()) / 20):
        return []
    shares = ", ".join(f"{name} {n / total:.2%}" for name, n in sorted(present.items(), key=lambda item: -item[1]))
    rarest = min(present, key=lambda name: present[name])
    fix = f"sampling=patches  draws patches around structures; Dice in the loss keeps {rarest} from being ignored"
    return _note("classes", f"unequal shares of the pixels: {shares}", fix)


def _always_together(data: _Data) -> list[DataWarning]:
    """Classes that occur in exactly the same masks, where there are masks without them."""
    masked = [stats.class_pixels(data.manifest.labels) for stats in data.masked()]
    together: dict[tuple[bool, ...], list[str]] = {}
    for name in data.manifest.labels.classes:
        together.setdefault(tuple(count[name] > 0 for count in masked), []).append(name)
    return [
        note
        for where, names in together.items()
        if len(names) > 1 and ENOUGH <= sum(where) < len(masked)
        for note in _note("classes", f"{', '.join(names)} always occur together, in {sum(where)} of {len(masked)} masks")
    ]


def _overlapping(data: _Data) -> list[DataWarning]:
    """Which planes overlap, as a share of the smaller one."""
    labels = data.manifest.labels
    if not labels.overlap:
        return []
    names = dict(labels.values)
    both: Counter[tuple[str, str]] = Counter()
    alone: Counter[str] = Counter()
    for case in data.cases:
        stats = data.statistics[case.id]
        alone.update(stats.class_pixels(labels))
        both.update({(names[a], names[b]): n for a, b, n in stats.overlaps if a in names and b in names and names[a] != names[b]})
    pairs = [f"{a} and {b} ({n / max(1, min(alone[a], alone[b])):.1%} of the smaller)" for (a, b), n in both.most_common(6)]
    more = f" and {len(both) - 6} other pairs" if len(both) > 6 else ""
    return _note("classes", f"overlap: {', '.join(pairs)}{more}") if pairs else []


# slices of volumes


def _skipped_slices(data: _Data) -> list[DataWarning]:
    """Slices without a structure that both neighbors show in the same place."""
    skipped = []
    for members in by_volume(data.cases).values():
        for before, case, after in zip(members, members[1:], members[2:], strict=False):
            consecutive = case.position - before.position == after.position - case.position == 1
            shown = [_shown(data.statistics[one.id]) for one in (before, case, after)]
            if consecutive and not shown[1] and _same_place(shown[0], shown[2]):
                skipped.append(case)
    if not skipped:
        return []
    ids = ", ".join(case.id for case in skipped[:3])
    what = f"not labelled, though the slices before and after are: {ids}" + (f" and {len(skipped) - 3} more" if len(skipped) > 3 else "")
    fix = exclude_line([case.id for case in skipped]) if len(skipped) <= 3 else INSPECT
    problem = Problem(f"volume {skipped[0].volume}", what, f"label them, or  {fix}", "warning")
    return [DataWarning(problem, tuple(case.id for case in skipped), "no mask")]


def _shown(stats: CaseStatistics) -> dict[tuple[str, str], Structure]:
    """By plane and value."""
    return {(plane, raw): structure for plane, mask in stats.masks.items() for raw, structure in mask.structures.items()}


def _same_place(before: Mapping[tuple[str, str], Structure], after: Mapping[tuple[str, str], Structure]) -> bool:
    return any(_box_iou(before[key].box, after[key].box) > 0.3 for key in before.keys() & after.keys() if before[key].largest > 3 * TINY)


def _box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two boxes (top, left, bottom, right)."""
    height, width = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return height * width / max(areas - height * width, 1e-12)


def _gaps(data: _Data) -> list[DataWarning]:
    """Volumes whose slices are not numbered at equal steps."""
    gaps = {
        name: [b.position - a.position for a, b in pairwise(members)]
        for name, members in by_volume([case for case in data.manifest if case.volume]).items()
    }
    broken = [name for name, steps in gaps.items() if len(set(steps)) > 1]
    if not broken:
        return []
    what = f"slices are missing between others, at most {max(gaps[broken[0]]) - 1} in a row"
    what += f" (so in {len(broken)} of {len(gaps)} volumes)" if len(broken) > 1 else ""
    return _note(f"volume {broken[0]}", what)
