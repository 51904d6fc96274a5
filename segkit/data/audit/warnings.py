"""What looks wrong but may be right: masks off their images, images alike on two sides, odd intensities, forgotten slices.

Nothing here stops a training, and an accusation without strong evidence is worse than a miss; so the thresholds are wide.
Like `checks.py` this looks at the facts, and many findings of one kind are one suspicion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from segkit.data.case import Case, Manifest, relative
from segkit.data.measures import AS_IT_IS, MEDIAN, NEARLY_ALL, TINY, Fit, Structure
from segkit.data.splits import SIDES, Split, exclude_line
from segkit.data.statistics import CaseFacts, MaskFacts
from segkit.data.views import by_volume
from segkit.system.errors import Problem

Facts = Mapping[str, CaseFacts]
Array = npt.NDArray[np.float64]

ENOUGH = 8
"""Cases, masks or volumes from which the usual can be told."""
LOOK = "look at them with  output=DIR"


@dataclass(frozen=True)
class Suspicion:
    """A problem, the cases that it is about, and a word for the picture of each."""

    problem: Problem
    cases: tuple[str, ...] = ()
    mark: str = ""


def suspicions(manifest: Manifest, facts: Facts) -> list[Suspicion]:
    """Of the cases whose files can be read."""
    sound = [case for case in manifest if not facts[case.id].errors]
    return [
        *_misplaced(manifest, sound, facts),
        *_outlines_only(manifest, sound, facts),
        *_smoothed(manifest, sound, facts),
        *_specks(manifest, sound, facts),
        *_odd_intensities(manifest, sound, facts),
        *_spacings(manifest),
        *_imbalance(manifest, sound, facts),
        *_always_together(manifest, sound, facts),
        *_overlapping(manifest, sound, facts),
        *_skipped_slices(sound, facts),
        *_gaps(manifest),
    ]


def _about(manifest: Manifest, cases: Sequence[Case], what: str, mark: str, fix: str = "", of_masks: bool = True) -> Suspicion:
    """One suspicion of all `cases`: the file of the first, how many more, two of these, and the line that leaves them out."""
    first = next(iter(cases[0].masks.values())) if of_masks and cases[0].masks else cases[0].image
    others = [case.id for case in cases[1:]]
    if others:
        what += f" (and {len(others)} more: {', '.join(others[:2])}{', …' if len(others) > 2 else ''})"
    leave_out = exclude_line([case.id for case in cases]) if len(cases) <= 3 else LOOK
    where = relative(first.paths[0], manifest.root) if first.paths else cases[0].id
    return Suspicion(Problem(where, what, fix or leave_out, "warning"), tuple(case.id for case in cases), mark)


def _masks(cases: Iterable[Case], facts: Facts) -> Iterator[tuple[Case, str, MaskFacts]]:
    return ((case, plane, mask) for case in cases for plane, mask in facts[case.id].masks.items())


def _structures(manifest: Manifest, cases: Iterable[Case], facts: Facts) -> Iterator[tuple[Case, str, Structure]]:
    """Case, class, and how it lies."""
    labels = manifest.labels
    names = {raw if labels.overlap else labels.as_key(raw): name for raw, name in labels.values}
    for case, plane, mask in _masks(cases, facts):
        for raw, structure in mask.structures.items():
            name = names.get(plane if labels.overlap else labels.as_key(raw), "")
            if name in labels.classes:
                yield case, name, structure


# masks


FOLLOWS = 1.3
"""Masks of a data set whose outlines follow edges this well (median) can be told from one that does not."""


def _misplaced(manifest: Manifest, cases: Iterable[Case], facts: Facts) -> list[Suspicion]:
    """Masks that would follow the edges of their image if they were moved or turned over: all of a plane, or a few."""
    by_plane: dict[str, list[tuple[Case, Fit]]] = {}
    for case, plane, mask in _masks(cases, facts):
        if mask.fit is not None:
            by_plane.setdefault(plane, []).append((case, mask.fit))
    return [found for fits in by_plane.values() if len(fits) >= ENOUGH for found in _misplaced_of(manifest, fits)]


def _misplaced_of(manifest: Manifest, fits: Sequence[tuple[Case, Fit]]) -> list[Suspicion]:
    best = Counter((fit.best, fit.shift) for _, fit in fits).most_common(1)[0][0]
    so = [case for case, fit in fits if _same_change(best, fit)]
    gain = float(np.median([fit.best_score / max(fit.score, 0.1) for _, fit in fits]))
    if best[0] != AS_IT_IS and len(so) >= 0.8 * len(fits) and gain >= 1.4:
        what = f"the masks would follow the edges of their images if they were {best[0]}: so for {len(so)} of {len(fits)}"
        return [_about(manifest, so, what, "misplaced?", LOOK)]
    usual = float(np.median([fit.score for _, fit in fits]))
    alone = [(case, fit) for case, fit in fits if not case.volume]  # a small slice of a structure follows no edge
    off = [(case, fit) for case, fit in alone if fit.score <= 0.5 * usual and fit.best_score >= max(0.75 * usual, 2 * fit.score)]
    if usual < FOLLOWS or not off or len(off) > 0.2 * len(fits):
        return []
    what = f"the mask is off the edges of its image, and would follow them if it were {off[0][1].best}"
    return [_about(manifest, [case for case, _ in off], what, "misplaced?")]


def _same_change(best: tuple[str, tuple[int, int]], fit: Fit) -> bool:
    """A shift between two that were tried is found now as the one, now as the other."""
    if best[1] == (0, 0) or fit.shift == (0, 0):
        return fit.best == best[0]
    return all(abs(a - b) <= 4 for a, b in zip(best[1], fit.shift, strict=True))


def _outlines_only(manifest: Manifest, cases: Iterable[Case], facts: Facts) -> list[Suspicion]:
    """Closed thin lines around one hole each; a net of lines (vessels, membranes) has many holes a component."""
    hollow: dict[str, dict[str, Case]] = {}
    for case, name, s in _structures(manifest, cases, facts):
        if s.filled < 0.35 and s.rim > 0.6 and s.holes <= 1.5 * s.components and s.largest >= 10 * TINY:
            hollow.setdefault(name, {})[case.id] = case
    fix = "fill the outlines (cv2.findContours, then cv2.drawContours with cv2.FILLED) and save the masks anew"
    return [
        _about(manifest, list(found.values()), f"{name} is a thin line around an area, not the area", "outline only", fix)
        for name, found in hollow.items()
    ]


def _smoothed(manifest: Manifest, cases: Iterable[Case], facts: Facts) -> list[Suspicion]:
    """Two values, far apart, and between them rare ones that no class is named for: borders were smoothed or compressed."""
    labels = manifest.labels
    found = [
        case for case, _, mask in _masks(cases, facts) if _between(mask) and (labels.overlap or len(labels.classes) < mask.n_values - 2)
    ]
    if not found:
        return []
    what = "few pixels between two frequent values: the borders of the mask are anti-aliased, or it was saved as JPEG"
    fix = "threshold the masks and save them as PNG: cv2.imwrite(FILE, (mask > 127) * 255); resize masks with cv2.INTER_NEAREST only"
    return [_about(manifest, list({case.id: case for case in found}.values()), what, "smoothed", fix)]


def _between(mask: MaskFacts) -> bool:
    if any(value.startswith("#") for value in mask.values):
        return False
    two = sorted(sorted(mask.values, key=lambda value: -mask.values[value])[:2], key=int)
    rare = mask.pixels - sum(mask.values[value] for value in two)
    return mask.n_values >= 5 and int(two[-1]) - int(two[0]) >= 100 and 0 < rare < 0.1 * mask.pixels


def _specks(manifest: Manifest, cases: Iterable[Case], facts: Facts) -> list[Suspicion]:
    """Components of a few pixels. In a slice of a volume that may be the tip of something larger, so these are not counted."""
    found: dict[str, dict[str, Case]] = {}
    n: Counter[str] = Counter()
    for case, name, s in _structures(manifest, cases, facts):
        if s.tiny and not case.volume:
            found.setdefault(name, {})[case.id] = case
            n[name] += s.tiny
    unit = "voxels" if manifest.dims == 3 else "pixels"
    return [
        _about(manifest, list(of_class.values()), f"{n[name]} pieces of {name} have fewer than {TINY} {unit}", "specks", LOOK)
        for name, of_class in found.items()
    ]


# images


def _odd_intensities(manifest: Manifest, cases: Sequence[Case], facts: Facts) -> list[Suspicion]:
    """Median or 99th percentile far from those of the other images (robust z above 8); slices are judged as volumes."""
    usual = Counter((facts[case.id].dtype, facts[case.id].channels) for case in cases).most_common(1)
    units: dict[str, list[Case]] = {}
    for case in cases:
        if (facts[case.id].dtype, facts[case.id].channels) == usual[0][0] and not facts[case.id].is_blank:
            units.setdefault(case.volume or case.id, []).append(case)
    if len(units) < ENOUGH:
        return []
    levels = np.array([np.median([_levels(facts[case.id]) for case in unit], axis=0) for unit in units.values()])
    z = _robust_z(levels)
    odd = [unit[len(unit) // 2] for unit, scores in zip(units.values(), z, strict=True) if scores.max() > 8]
    if not odd:
        return []
    at = list(units).index(odd[0].volume or odd[0].id)
    which = int(z[at].argmax())
    measure = "median" if which % 2 == 0 else "99th percentile"
    what = f"{measure} of the intensity is {levels[at, which]:.4g}, in the data set mostly {np.median(levels[:, which]):.4g}"
    return [_about(manifest, odd, what, "odd intensity", of_masks=False)]


def _levels(fact: CaseFacts) -> list[float]:
    return [channel[i] for channel in fact.quantiles for i in (MEDIAN, NEARLY_ALL)]


def _robust_z(values: Array) -> Array:
    """(N, K) distances from the median in SDs as the median absolute deviation tells them, which is at least 2 % of the range."""
    middle = np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(values - middle), axis=0)
    floor = 0.02 * max(float(np.abs(middle).max()), 1e-12)
    return np.asarray(np.abs(values - middle) / np.maximum(spread, floor))


def _spacings(manifest: Manifest) -> list[Suspicion]:
    known = [case for case in manifest if case.pixel_mm]
    found = []
    if known and len(known) < len(manifest):
        without = [case for case in manifest if not case.pixel_mm]
        what = f"no pixel size in mm, while {len(known)} of {len(manifest)} cases have one"
        fix = "add it to these; until then every result in mm is of the others alone"
        found.append(_about(manifest, without, what, "no spacing", fix, of_masks=False))
    if len(known) >= ENOUGH:
        sizes = np.array([case.pixel_mm for case in known])
        ratio = sizes / np.median(sizes, axis=0)
        odd = [case for case, r in zip(known, ratio, strict=True) if r.max() > 3 or r.min() < 1 / 3]
        if odd:
            size, usual = (" x ".join(f"{n:.3g}" for n in mm) for mm in (odd[0].pixel_mm, np.median(sizes, axis=0)))
            what = f"its pixel size is {size} mm, in the data set mostly {usual} mm"
            found.append(_about(manifest, odd, what, "odd spacing", of_masks=False))
    return found


# near duplicates


NEAR_BITS, NEAR_CORRELATION = 4, 0.98
NEIGHBOURS = 64
"""Images in order of their hashes that each is compared with, once for each of 8 rotations of the hash."""


def near_duplicates(manifest: Manifest, split: Split, facts: Facts) -> list[Suspicion]:
    """Images of different groups that look the same, on two sides; identical ones are errors of `check_split`."""
    side_of = {id_: side for side in SIDES for id_ in split.ids(side)}
    cases = [case for case in manifest if case.id in side_of and facts[case.id].look]
    pairs = [
        (cases[i], cases[j])
        for i, j in _look_alike([facts[case.id] for case in cases])
        if cases[i].group_or_id != cases[j].group_or_id
        and side_of[cases[i].id] != side_of[cases[j].id]
        and facts[cases[i].id].sha1 != facts[cases[j].id].sha1
    ]
    if not pairs:
        return []
    a, b = pairs[0]
    what = f"looks like {b.id}; one is in {side_of[a.id]}, the other in {side_of[b.id]}"
    what += f" ({len(pairs)} such pairs)" if len(pairs) > 1 else ""
    fix = f"give both one group if they show one patient, or  {exclude_line([b.id])}"
    ids = tuple(dict.fromkeys(case.id for pair in pairs for case in pair))
    return [Suspicion(Problem(relative(a.image.paths[0], manifest.root) if a.image.paths else a.id, what, fix, "warning"), ids, "alike")]


def _look_alike(facts: Sequence[CaseFacts]) -> list[tuple[int, int]]:
    """Pairs whose hashes differ in at most 4 bits and whose thumbnails correlate with at least 0.98.

    Near hashes are near each other in the order of some rotation of their bits: time grows as n log n, not as n squared.
    """
    if len(facts) < 2:
        return []
    hashes = np.array([fact.perceptual_hash for fact in facts], np.uint64)
    candidates: set[tuple[int, int]] = set()
    for turn in range(0, 64, 8):
        order = np.argsort(hashes << np.uint64(turn) | hashes >> np.uint64((64 - turn) % 64), kind="stable")
        for step in range(1, min(NEIGHBOURS, len(facts) - 1) + 1):
            near = np.flatnonzero(np.bitwise_count(hashes[order[:-step]] ^ hashes[order[step:]]) <= NEAR_BITS)
            candidates.update((int(min(i, j)), int(max(i, j))) for i, j in zip(order[near], order[near + step], strict=True))
    return [(i, j) for i, j in sorted(candidates) if _correlation(facts[i], facts[j]) >= NEAR_CORRELATION]


def _correlation(a: CaseFacts, b: CaseFacts) -> float:
    first, second = a.thumbnail, b.thumbnail
    return 0.0 if first is None or second is None else float(np.corrcoef(first.reshape(-1), second.reshape(-1))[0, 1])


# classes


def _imbalance(manifest: Manifest, cases: Iterable[Case], facts: Facts) -> list[Suspicion]:
    """A class with fewer than 1 of 200 labelled pixels, or a twentieth of the most frequent one."""
    masked = [facts[case.id] for case in cases if facts[case.id].masks]
    total = sum(next(iter(fact.masks.values())).pixels for fact in masked)
    counts = Counter[str]()
    for fact in masked:
        counts.update(fact.class_pixels(manifest.labels))
    there = {name: n for name, n in counts.items() if n}
    if not there or (min(there.values()) >= total / 200 and min(there.values()) >= max(there.values()) / 20):
        return []
    shares = ", ".join(f"{name} {n / total:.2%}" for name, n in sorted(there.items(), key=lambda item: -item[1]))
    rarest = min(there, key=lambda name: there[name])
    fix = f"sampling=patches  draws patches around structures; Dice in the loss keeps {rarest} from being ignored"
    return [Suspicion(Problem("classes", f"unequal shares of the pixels: {shares}", fix, "note"))]


def _always_together(manifest: Manifest, cases: Iterable[Case], facts: Facts) -> list[Suspicion]:
    """Classes that occur in exactly the same masks, where there are masks without them."""
    masked = [facts[case.id].class_pixels(manifest.labels) for case in cases if facts[case.id].masks]
    together: dict[tuple[bool, ...], list[str]] = {}
    for name in manifest.labels.classes:
        together.setdefault(tuple(count[name] > 0 for count in masked), []).append(name)
    return [
        Suspicion(Problem("classes", f"{', '.join(names)} always occur together, in {sum(where)} of {len(masked)} masks", "", "note"))
        for where, names in together.items()
        if len(names) > 1 and ENOUGH <= sum(where) < len(masked)
    ]


def _overlapping(manifest: Manifest, cases: Iterable[Case], facts: Facts) -> list[Suspicion]:
    """Which planes overlap, as a share of the smaller one."""
    if not manifest.labels.overlap:
        return []
    names = dict(manifest.labels.values)
    both: Counter[tuple[str, str]] = Counter()
    alone: Counter[str] = Counter()
    for case in cases:
        fact = facts[case.id]
        alone.update(fact.class_pixels(manifest.labels))
        both.update({(names[a], names[b]): n for a, b, n in fact.overlaps if a in names and b in names and names[a] != names[b]})
    pairs = [f"{a} and {b} ({n / max(1, min(alone[a], alone[b])):.1%} of the smaller)" for (a, b), n in both.most_common(6)]
    if not pairs:
        return []
    more = f" and {len(both) - 6} other pairs" if len(both) > 6 else ""
    return [Suspicion(Problem("classes", f"overlap: {', '.join(pairs)}{more}", "", "note"))]


# slices of volumes


def _skipped_slices(cases: Sequence[Case], facts: Facts) -> list[Suspicion]:
    """Slices without a structure that both neighbours show in the same place."""
    skipped = []
    for members in by_volume(cases).values():
        for before, case, after in zip(members, members[1:], members[2:], strict=False):
            consecutive = case.position - before.position == after.position - case.position == 1
            if consecutive and not _shown(facts[case.id]) and _same_place(_shown(facts[before.id]), _shown(facts[after.id])):
                skipped.append(case)
    if not skipped:
        return []
    ids = ", ".join(case.id for case in skipped[:3])
    what = f"not labelled, though the slices before and after are: {ids}" + (f" and {len(skipped) - 3} more" if len(skipped) > 3 else "")
    fix = exclude_line([case.id for case in skipped]) if len(skipped) <= 3 else LOOK
    problem = Problem(f"volume {skipped[0].volume}", what, f"label them, or  {fix}", "warning")
    return [Suspicion(problem, tuple(case.id for case in skipped), "no mask")]


def _shown(fact: CaseFacts) -> dict[tuple[str, str], Structure]:
    """By plane and value."""
    return {(plane, raw): structure for plane, mask in fact.masks.items() for raw, structure in mask.structures.items()}


def _same_place(before: Mapping[tuple[str, str], Structure], after: Mapping[tuple[str, str], Structure]) -> bool:
    return any(_box_iou(before[key].box, after[key].box) > 0.3 for key in before.keys() & after.keys() if before[key].largest > 3 * TINY)


def _box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Of two boxes (top, left, bottom, right)."""
    height, width = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return height * width / max(areas - height * width, 1e-12)


def _gaps(manifest: Manifest) -> list[Suspicion]:
    """Volumes whose slices are not numbered at equal steps."""
    gaps = {
        name: [b.position - a.position for a, b in pairwise(members)]
        for name, members in by_volume([case for case in manifest if case.volume]).items()
    }
    broken = [name for name, steps in gaps.items() if len(set(steps)) > 1]
    if not broken:
        return []
    what = f"slices are missing between others, at most {max(gaps[broken[0]]) - 1} in a row"
    what += f" (so in {len(broken)} of {len(gaps)} volumes)" if len(broken) > 1 else ""
    return [Suspicion(Problem(f"volume {broken[0]}", what, "", "note"))]
