"""Warnings about what looks wrong but may be right: masks off their images, odd intensities, forgotten slices.

Nothing here stops a training, and a false warning is worse than a missed one; so the thresholds are wide. Like `checks.py`
this uses the statistics alone, and many findings of one kind are one warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import cv2
import numpy as np

from segkit.data.audit.audited import INSPECT, Audited, DataWarning, leave_out
from segkit.data.audit.label_checks import threshold_fix
from segkit.data.case import Case, Manifest, grouped
from segkit.data.labels import Array
from segkit.data.mask_values import cut_between_clusters, gray_counts
from segkit.data.quantiles import MEDIAN, NEARLY_ALL
from segkit.data.slices import by_volume
from segkit.data.splits import Split
from segkit.data.statistics import CaseStatistics, Statistics
from segkit.data.structures import TINY, UNCHANGED, Alignment, Structure
from segkit.system.errors import Problem

ENOUGH = 8
"""Cases, masks or volumes from which on it is clear what is usual."""
ON_EDGES = 1.3
"""Median alignment from which on a mask that does not follow the edges stands out."""
MAX_BITS, MIN_CORRELATION = 4, 0.98
"""Of hashes of near duplicates that differ, and between their thumbnails."""
NEIGHBORS = 64
"""Images in order of their hashes that each is compared with, once for each of 8 rotations of the hash."""


def find_warnings(manifest: Manifest, statistics: Statistics) -> list[DataWarning]:
    """All warnings about the readable cases; `near_duplicates` compares the subsets of a split."""
    data = Audited(manifest, statistics)
    checks = (
        _misplaced, _outlines_only, _smoothed, _specks, _odd_intensities, _spacings, _imbalance, _always_together, _overlapping,
        _skipped_slices, _gaps,
    )  # fmt: skip
    return [warning for check in checks for warning in check(data)]


# masks


def _misplaced(data: Audited) -> list[DataWarning]:
    """Masks that would follow the edges of their image if they were moved or turned over: all of a plane, or a few."""
    by_plane = grouped((plane, (case, mask.alignment)) for case, plane, mask in data.masks() if mask.alignment is not None)
    return [found for members in by_plane.values() if len(members) >= ENOUGH for found in _misplaced_of(data, members)]


def _misplaced_of(data: Audited, members: Sequence[tuple[Case, Alignment]]) -> list[DataWarning]:
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


def _outlines_only(data: Audited) -> list[DataWarning]:
    """Closed thin lines around one hole each; a net of lines (vessels, membranes) has many holes a component."""
    hollow = grouped(
        (name, case)
        for case, name, s in data.structures()
        if s.filled < 0.35 and s.rim > 0.6 and s.holes <= 1.5 * s.components and s.largest >= 10 * TINY
    )
    fix = "fill the outlines (cv2.findContours, then cv2.drawContours with cv2.FILLED) and save the masks again"
    return [data.about(cases, f"{name} is a thin line around an area, not the area", "outline only", fix) for name, cases in hollow.items()]


def _smoothed(data: Audited) -> list[DataWarning]:
    """Gray levels around two values, all of which have a name: borders were smoothed or compressed."""
    labels = data.manifest.labels
    soft = [
        (case, cut)
        for case, _, mask in data.masks()
        if (labels.overlap or len(labels.classes) < mask.n_values - 2)
        and (labels.overlap or all(labels.name_of("", value) for value in mask.values))
        and (cut := cut_between_clusters(gray_counts(mask.values))) is not None
    ]
    if not soft:
        return []
    what = "few pixels between two frequent values: the borders of the mask are anti-aliased, or it was saved as JPEG"
    cut = round(float(np.median([cut for _, cut in soft])))
    return [data.about([case for case, _ in soft], what, "smoothed", threshold_fix(data.manifest, cut))]


def _specks(data: Audited) -> list[DataWarning]:
    """Components of a few pixels. In a slice of a volume that may be the tip of something larger, so these are not counted."""
    found = grouped((name, (case, s.tiny)) for case, name, s in data.structures() if s.tiny and not case.volume)
    unit = "voxels" if data.manifest.dims == 3 else "pixels"
    return [
        data.about(
            [case for case, _ in specks],
            f"{sum(n for _, n in specks)} pieces of {name} have fewer than {TINY} {unit}",
            "specks",
            INSPECT,
        )
        for name, specks in found.items()
    ]


# images


def _odd_intensities(data: Audited) -> list[DataWarning]:
    """Median or 99th percentile far from those of the other images (robust z above 8); slices are compared as volumes."""
    statistics = data.statistics
    by_kind = grouped(((statistics[case.id].dtype, statistics[case.id].channels), case) for case in data.cases)
    usual = max(by_kind.values(), key=len, default=[])
    units = grouped((case.volume or case.id, case) for case in usual if not statistics[case.id].is_blank)
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


def _spacings(data: Audited) -> list[DataWarning]:
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


def _imbalance(data: Audited) -> list[DataWarning]:
    """A class with fewer than 1 of 200 labelled pixels, or a twentieth of the most frequent one."""
    total = sum(next(iter(stats.masks.values())).pixels for stats in data.masked)
    counts = sum(map(Counter, data.class_pixels), Counter[str]()).most_common()  # of classes that occur
    if not counts or counts[-1][1] >= max(total / 200, counts[0][1] / 20):
        return []
    shown = counts if len(counts) <= 6 else [*counts[:3], *counts[-3:]]
    shares = ", ".join(f"{name} {n / total:.2%}" for name, n in shown)
    shares += f" (of {len(counts)} classes the three largest and smallest)" if len(shown) < len(counts) else ""
    fix = f"sampling=patches  draws patches around structures; Dice in the loss keeps {counts[-1][0]} from being ignored"
    return _note("classes", f"unequal shares of the pixels: {shares}", fix)


def _always_together(data: Audited) -> list[DataWarning]:
    """Classes that occur in exactly the same masks, where there are masks without them."""
    counts = data.class_pixels
    together = grouped((tuple(count[name] > 0 for count in counts), name) for name in data.manifest.labels.classes)
    return [
        note
        for where, names in together.items()
        if len(names) > 1 and ENOUGH <= sum(where) < len(counts)
        for note in _note("classes", f"{', '.join(names)} always occur together, in {sum(where)} of {len(counts)} masks")
    ]


def _overlapping(data: Audited) -> list[DataWarning]:
    """Which planes overlap, as a share of the smaller one."""
    classes = data.manifest.labels.classes
    names = {raw: name for raw, name in data.manifest.labels.values if name in classes}
    alone = sum(map(Counter, data.class_pixels), Counter[str]())
    both: Counter[tuple[str, str]] = Counter()
    for stats in data.masked if data.manifest.labels.overlap else ():
        both.update({(names[a], names[b]): n for a, b, n in stats.overlaps if a in names and b in names and names[a] != names[b]})
    pairs = [f"{a} and {b} ({n / max(1, min(alone[a], alone[b])):.1%} of the smaller)" for (a, b), n in both.most_common(6)]
    more = f" and {len(both) - 6} other pairs" if len(both) > 6 else ""
    return _note("classes", f"overlap: {', '.join(pairs)}{more}") if pairs else []


# slices of volumes


def _skipped_slices(data: Audited) -> list[DataWarning]:
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
    what = f"slice {skipped[0].id} is not labelled, though those before and after it are"
    return [data.about(skipped, what, "no mask", f"label them, or  {leave_out(skipped)}")]


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


def _gaps(data: Audited) -> list[DataWarning]:
    """Volumes whose slices are not numbered at equal steps."""
    volumes = by_volume(data.manifest.cases)
    gaps = {name: [b.position - a.position for a, b in pairwise(members)] for name, members in volumes.items()}
    broken = [name for name, steps in gaps.items() if len(set(steps)) > 1]
    if not broken:
        return []
    what = f"slices are missing between others, at most {max(gaps[broken[0]]) - 1} in a row"
    what += f" (so in {len(broken)} of {len(gaps)} volumes)" if len(broken) > 1 else ""
    return _note(f"volume {broken[0]}", what)


# images of different groups that look alike, in two subsets of a split


def near_duplicates(manifest: Manifest, split: Split, statistics: Statistics) -> list[DataWarning]:
    """One warning about all pairs; identical images are errors of `check_split`."""
    data, subset_of = Audited(manifest, statistics), split.subset_of
    cases = [case for case in manifest if case.id in subset_of and statistics[case.id].preview]
    thumbnails = [small for case in cases if (small := statistics[case.id].thumbnail) is not None]
    pairs = [
        (a, b, correlation)
        for a, b, correlation in ((cases[i], cases[j], r) for i, j, r in _look_alike(thumbnails))
        if a.group_or_id != b.group_or_id and subset_of[a.id] != subset_of[b.id] and statistics[a.id].sha1 != statistics[b.id].sha1
    ]
    if not pairs:
        return []
    pairs.sort(key=lambda pair: -pair[2])
    a, b, _ = pairs[0]
    what = f"looks like {b.id}; one is in {subset_of[a.id]}, the other in {subset_of[b.id]}"
    what += f" ({len(pairs)} such pairs)" if len(pairs) > 1 else ""
    fix = "segkit audit with output=FOLDER  shows every pair side by side; if one shows one patient, give both one group, else leave them"
    ids = tuple(dict.fromkeys(case.id for pair in pairs for case in pair[:2]))
    listed = tuple((a.id, b.id, correlation) for a, b, correlation in pairs)
    return [DataWarning(Problem(data.file(a, a.image), what, fix, "warning"), ids, "alike", listed)]


def _look_alike(thumbnails: Sequence[Array]) -> list[tuple[int, int, float]]:
    """Pairs of thumbnails, and their correlation, whose hashes differ in at most 4 bits and that correlate with at least 0.98.

    Near hashes are near each other in the order of some rotation of their bits: time grows as n log n, not as n squared.
    """
    hashes = np.array([perceptual_hash(small) for small in thumbnails], np.uint64)
    candidates: set[tuple[int, int]] = set()
    for turn in range(0, 64, 8):
        order = np.argsort(hashes << np.uint64(turn) | hashes >> np.uint64((64 - turn) % 64), kind="stable")
        for step in range(1, min(NEIGHBORS, len(thumbnails) - 1) + 1):
            near = np.flatnonzero(np.bitwise_count(hashes[order[:-step]] ^ hashes[order[step:]]) <= MAX_BITS)
            candidates.update((int(min(i, j)), int(max(i, j))) for i, j in zip(order[near], order[near + step], strict=True))
    found = ((i, j, _correlation(thumbnails[i], thumbnails[j])) for i, j in sorted(candidates))
    return [(i, j, r) for i, j, r in found if r >= MIN_CORRELATION]


def perceptual_hash(small: Array) -> int:
    """64 bits: which of the 8 x 8 lowest cosine frequencies of a thumbnail exceed their median (pHash, Zauner 2010)."""
    low = cv2.dct(small.astype(np.float32))[:8, :8].reshape(-1)
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _correlation(a: Array, b: Array) -> float:
    return float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])
