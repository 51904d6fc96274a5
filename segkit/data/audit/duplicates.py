"""Near duplicates: images of different groups that look alike, in two subsets of a split."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from segkit.data.audit.checks import exclude_line
from segkit.data.audit.warnings import DataWarning
from segkit.data.case import Manifest, relative
from segkit.data.labels import Array
from segkit.data.splits import Split
from segkit.data.statistics import Statistics
from segkit.system.errors import Problem

MAX_BITS, MIN_CORRELATION = 4, 0.98
NEIGHBORS = 64
"""Images in order of their hashes that each is compared with, once for each of 8 rotations of the hash."""


def near_duplicates(manifest: Manifest, split: Split, statistics: Statistics) -> list[DataWarning]:
    """One warning about all pairs; identical images are errors of `check_split`."""
    subset_of = split.subset_of
    cases = [case for case in manifest if case.id in subset_of and statistics[case.id].preview]
    thumbnails = [small for case in cases if (small := statistics[case.id].thumbnail) is not None]
    pairs = [
        (a, b)
        for a, b in ((cases[i], cases[j]) for i, j in _look_alike(thumbnails))
        if a.group_or_id != b.group_or_id and subset_of[a.id] != subset_of[b.id] and statistics[a.id].sha1 != statistics[b.id].sha1
    ]
    if not pairs:
        return []
    a, b = pairs[0]
    what = f"looks like {b.id}; one is in {subset_of[a.id]}, the other in {subset_of[b.id]}"
    what += f" ({len(pairs)} such pairs)" if len(pairs) > 1 else ""
    fix = f"give both one group if they show one patient, or  {exclude_line([b.id])}"
    ids = tuple(dict.fromkeys(case.id for pair in pairs for case in pair))
    where = relative(a.image.paths[0], manifest.root) if a.image.paths else a.id
    return [DataWarning(Problem(where, what, fix, "warning"), ids, "alike")]


def _look_alike(thumbnails: Sequence[Array]) -> list[tuple[int, int]]:
    """Pairs of thumbnails whose hashes differ in at most 4 bits and that correlate with at least 0.98.

    Near hashes are near each other in the order of some rotation of their bits: time grows as n log n, not as n squared.
    """
    hashes = np.array([perceptual_hash(small) for small in thumbnails], np.uint64)
    candidates: set[tuple[int, int]] = set()
    for turn in range(0, 64, 8):
        order = np.argsort(hashes << np.uint64(turn) | hashes >> np.uint64((64 - turn) % 64), kind="stable")
        for step in range(1, min(NEIGHBORS, len(thumbnails) - 1) + 1):
            near = np.flatnonzero(np.bitwise_count(hashes[order[:-step]] ^ hashes[order[step:]]) <= MAX_BITS)
            candidates.update((int(min(i, j)), int(max(i, j))) for i, j in zip(order[near], order[near + step], strict=True))
    return [(i, j) for i, j in sorted(candidates) if _correlation(thumbnails[i], thumbnails[j]) >= MIN_CORRELATION]


def perceptual_hash(small: Array) -> int:
    """64 bits: which of the 8 x 8 lowest cosine frequencies of a thumbnail exceed their median (pHash, Zauner 2010)."""
    low = cv2.dct(small.astype(np.float32))[:8, :8].reshape(-1)
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _correlation(a: Array, b: Array) -> float:
    return float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])
