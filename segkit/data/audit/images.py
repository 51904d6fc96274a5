"""Checks of the images themselves: channels, bit depth, values that are no numbers, ranges that hide what the image shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from segkit.data.audit.audited import Audited, leave_out
from segkit.data.case import Case, grouped
from segkit.data.io.base import IMAGE_SUFFIXES, suffix_of
from segkit.data.io.exif import UPRIGHT, orientation_of, swaps_axes
from segkit.data.quantiles import PERCENTILES
from segkit.data.transforms.intensity import NOTHING_KNOWN
from segkit.system.errors import Problem, few

FIRST, LAST = PERCENTILES.index(0.5), PERCENTILES.index(99.5)
SQUEEZED = 0.02
"""Share of the range in which 99 % of the values lie, below which the rest of it is taken for outliers."""


def check_images(data: Audited, exif: str = "auto") -> list[Problem]:
    """What is wrong with the pixels of the images. `exif` is `data.exif`."""
    turned = _turned_alone(data) if exif == "auto" else []
    return [*turned, *_kinds(data), *_blank(data), *_no_numbers(data), *_squeezed(data)]


def _turned_alone(data: Audited) -> list[Problem]:
    """One error about all pictures that are turned by their EXIF orientation while their mask has none, and its size fits both."""
    found = [case for case in data.cases if data.statistics[case.id].orientation > UPRIGHT and _could_be_either(data, case)]
    if not found:
        return []
    what = f"has EXIF orientation {data.statistics[found[0].id].orientation}, its mask none, so it is unsure which grid the mask is on"
    fix = "drawn on the picture as viewers show it:  data.exif=shown,  on its stored pixels:  data.exif=stored"
    return [replace(data.about(found, what, fix=fix, of_masks=False).problem, severity="error")]


def _could_be_either(data: Audited, case: Case) -> bool:
    """Whether the size of a mask fits the picture as stored and as shown; outlines are drawn on the picture as shown."""
    stats = data.statistics[case.id]
    rows, columns = stats.shape[-2:]
    files = {path for mask in case.masks.values() for path in mask.paths if suffix_of(path.name).lower() in IMAGE_SUFFIXES}
    files -= set(case.image.paths)
    is_open = not swaps_axes(stats.orientation) or rows == columns
    return bool(files) and is_open and all(orientation_of(path) == UPRIGHT for path in files)


def _kinds(data: Audited) -> list[Problem]:
    """Images of one data set have the same channels; mixed bit depths are only worth a warning, since all are scaled."""
    problems: list[Problem] = []
    by_channels = grouped((data.statistics[case.id].channels, case) for case in data.cases)
    if len(by_channels) > 1:
        usual = max(by_channels, key=lambda n: len(by_channels[n]))
        odd = [case for case in data.cases if data.statistics[case.id].channels != usual]
        n = data.statistics[odd[0].id].channels
        what = f"{n} channel{'s' * (n > 1)}, but {len(by_channels[usual])} of {len(data.cases)} images have {usual}"
        found = data.about(odd, what, fix=_to_one_kind(set(by_channels), odd), of_masks=False)
        problems.append(replace(found.problem, severity="error"))
    depths = Counter(data.statistics[case.id].dtype for case in data.cases)
    if len(depths) > 1:
        what = f"bit depths are mixed ({', '.join(f'{n} {kind}' for kind, n in depths.most_common())})"
        problems.append(Problem("images", what, "each is scaled to 0..1 by its own range", "warning"))
    return problems


def _to_one_kind(channels: set[int], odd: Sequence[Case]) -> str:
    keys = "read all as gray:  data.channels=1,  all as color:  data.channels=3," if channels == {1, 3} else "convert to one kind,"
    return f"{keys}  or  {leave_out(odd)}"


def _blank(data: Audited) -> list[Problem]:
    """One problem for all: volumes often begin and end with empty slices."""
    blank = [case for case in data.cases if data.statistics[case.id].is_blank]
    return [data.about(blank, "every pixel has the same value", of_masks=False).problem] if blank else []


def _no_numbers(data: Audited) -> list[Problem]:
    """NaN and infinity: a warning about all files that hold some, an error about each image or volume that holds nothing else."""
    affected = grouped((case.volume or case.id, case) for case in data.cases)
    bad = {name: n for name, cases in affected.items() if (n := sum(data.statistics[case.id].n_nonfinite for case in cases))}
    void = [affected[name][0] for name, n in bad.items() if n == sum(_n_values(data, case) for case in affected[name])]
    problems = [replace(data.about([case], NOTHING_KNOWN, of_masks=False).problem, severity="error") for case in void]
    some = [name for name in bad if affected[name][0] not in void]
    if some:
        first, *more = some
        what = f"{_values(bad[first])} NaN or infinite"
        what += (
            f" (and in {len(more)} more file{'s' * (len(more) > 1)}: {few([f'{name} {bad[name]}' for name in more], 3)})" if more else ""
        )
        fix = "each counts as the nearest finite value of its image; if they mean something else, repair the file"
        problems.append(Problem(data.file(affected[first][0], affected[first][0].image), what, fix, "warning"))
    return problems


def _values(n: int) -> str:
    return f"{n} values are" if n > 1 else "1 value is"


def _n_values(data: Audited, case: Case) -> int:
    stats = data.statistics[case.id]
    return math.prod(stats.shape) * stats.channels


def _squeezed(data: Audited) -> list[Problem]:
    """Fractions and signed numbers, of which 99 % lie in a sliver of the range: scaled from least to greatest they look flat."""
    found = []
    for case in data.cases:
        stats = data.statistics[case.id]
        ends = [(q[0], q[FIRST], q[LAST], q[-1]) for q in stats.quantiles if q[FIRST] < q[LAST]]
        if stats.dtype.startswith("float") and any(high - low < SQUEEZED * (most - least) for least, low, high, most in ends):
            found.append((case, min(ends, key=lambda q: (q[2] - q[1]) / max(q[3] - q[0], 1e-30))))
    if not found:
        return []
    least, low, high, most = found[0][1]
    what = f"99 % of its values lie between {low:.4g} and {high:.4g}, all from {least:.4g} to {most:.4g}: outliers make it flat"
    fix = "preprocess.scale=percentiles  leaves them out"
    return [data.about([case for case, _ in found], what, fix=fix, of_masks=False).problem]
