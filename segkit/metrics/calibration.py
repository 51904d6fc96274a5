"""Predicted probabilities against the truth, pixel by pixel: reliability, expected calibration error, precision and recall."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.data.labels import IGNORE, LabelMap
from segkit.metrics.base import NAN, Array
from segkit.system.files import write_csv_atomic
from segkit.system.plain import reading

BINS, COARSE = 100, 10
"""Bins of probability that are counted, and those of a reliability curve."""
MOST_PIXELS = 100_000
"""Pixels of one case and class that are counted, evenly taken: enough for a curve, and quick on whole volumes."""
TABLE = "calibration.csv"
COLUMNS = ("class", "low", "high", "n", "mean_probability", "frequency")


@dataclass
class Counts:
    """Pixels of one class by their predicted probability: how many, how many of them show the class, and their sum. Each (BINS,)."""

    n: Array
    positive: Array
    total: Array

    @classmethod
    def empty(cls) -> Counts:
        return cls(*(np.zeros(BINS) for _ in range(3)))

    def add(self, probs: Array, truth: Array) -> None:
        """`probs` (N,) in [0, 1] and bool `truth` (N,)."""
        bins = np.minimum((probs * BINS).astype(np.intp), BINS - 1)
        self.n += np.bincount(bins, minlength=BINS)
        self.positive += np.bincount(bins[truth], minlength=BINS)
        self.total += np.bincount(bins, weights=probs, minlength=BINS)

    def reliability(self) -> tuple[Array, Array, Array]:
        """Mean probability, frequency of the class, and number of pixels in each of `COARSE` bins (COARSE,); NaN in an empty one."""
        n, positive, total = (part.reshape(COARSE, -1).sum(1) for part in (self.n, self.positive, self.total))
        known = np.where(n > 0, n, NAN)
        return total / known, positive / known, n

    @property
    def expected_error(self) -> float:
        """Mean of |frequency - probability| over the pixels (ECE: Guo et al., ICML 2017)."""
        mean, frequency, n = self.reliability()
        return float(np.nansum(np.abs(frequency - mean) * n) / max(1.0, n.sum()))

    def at_least(self) -> tuple[Array, Array]:
        """Pixels that show the class, and that do not, with a probability of at least each bin's lower bound; both (BINS,)."""
        positive = np.cumsum(self.positive[::-1])[::-1]
        return positive, np.cumsum(self.n[::-1])[::-1] - positive

    def precision_recall(self) -> tuple[Array, Array]:
        """Precision and recall at each threshold of `at_least`; precision is 1 where nothing is found."""
        hits, false = self.at_least()
        found = hits + false
        return np.where(found > 0, hits / np.maximum(found, 1), 1.0), hits / max(1.0, float(self.positive.sum()))


class Calibration:
    """The counts of all classes over many cases."""

    def __init__(self, counts: Mapping[str, Counts]) -> None:
        self.counts = dict(counts)

    @classmethod
    def of(cls, classes: Sequence[str]) -> Calibration:
        return cls({name: Counts.empty() for name in classes})

    @classmethod
    def together(cls, parts: Sequence[Calibration]) -> Calibration:
        """That of all cases of several, which have the same classes."""
        counts = [part.counts for part in parts]
        return cls({name: Counts(*(sum(getattr(one[name], part) for one in counts) for part in ("n", "positive", "total")))
                    for name in counts[0]})  # fmt: skip

    @property
    def known(self) -> dict[str, Counts]:
        """Those of classes that some pixel shows."""
        return {name: counts for name, counts in self.counts.items() if counts.positive.any()}

    def add(self, probs: Array, target: Array, labels: LabelMap) -> None:
        """Count one case.

        Args:
            probs: (C, *S) in [0, 1], the background first where classes exclude each other and there are several.
            target: (*S) class indices, or (K, *S) planes where classes overlap; 255 is not counted, nor is a probability of NaN.
            labels: Classes of both. Probabilities of another number of classes, or of another grid, are left out.
                Nothing is counted of no class.
        """
        size = target.shape[1:] if labels.overlap else target.shape
        if probs.shape != (labels.n_outputs, *size) or not self.counts:
            return
        for k, (name, of_class) in enumerate(zip(labels.classes, probs[-len(labels.classes) :], strict=True)):
            plane = target[k] if labels.overlap else target
            step = slice(None, None, max(1, plane.size // MOST_PIXELS))
            sample = of_class.reshape(-1)[step]
            known = (plane.reshape(-1)[step] != IGNORE) & np.isfinite(sample)
            truth = labels.plane(target, k).reshape(-1)[step][known]
            self.counts[name].add(sample[known].astype(np.float64), truth)

    def to_csv(self, path: Path) -> None:
        """One row a class and bin that holds pixels."""
        rows: list[list[object]] = [list(COLUMNS)]
        for name, counts in self.known.items():
            for i in np.flatnonzero(counts.n):
                n = counts.n[i]
                rows.append([name, i / BINS, (i + 1) / BINS, int(n), float(counts.total[i] / n), float(counts.positive[i] / n)])
        write_csv_atomic(path, rows)

    @classmethod
    def from_csv(cls, path: Path) -> Calibration:
        """As written; empty where there is no file. SegkitError where it is damaged."""
        found: dict[str, Counts] = {}
        if path.is_file():
            with reading(path), path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file, restval=""):
                    counts, i, n = found.setdefault(row["class"], Counts.empty()), round(float(row["low"]) * BINS), float(row["n"])
                    counts.n[i], counts.positive[i], counts.total[i] = n, n * float(row["frequency"]), n * float(row["mean_probability"])
        return cls(found)
