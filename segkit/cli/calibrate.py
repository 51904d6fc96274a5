"""`segkit calibrate`: thresholds and post-processing chosen on validation cases, kept only if they help.

Calibration starts from the checkpoint's own decision, whose steps stay where they are. For each class by itself: first the
threshold, then the steps, each after those that were kept. A change is kept if its mean gain is above 0 by a one-sided t-test
over groups (patients), for slices of one patient are no independent evidence. The level is 5 % in total for all that is tried
for a class (Bonferroni), so that where nothing helps, chance keeps something for one class in twenty at most. What was
chosen, and its gain, is stored in the checkpoint's metadata.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from segkit.cli.checkpoints import load_checkpoint, load_checkpoints
from segkit.config.commands import Calibrate
from segkit.config.targets import instantiate
from segkit.data.case import Case, encoded_mask
from segkit.data.labels import Array, LabelMap
from segkit.inference.evaluation import build_metrics, validation_cases
from segkit.inference.examples import evenly
from segkit.inference.postprocess import Decision, Threshold, threshold_of
from segkit.inference.predictor import Predictor
from segkit.metrics import CaseMetric, Statistic
from segkit.metrics.base import known_as
from segkit.metrics.table import evaluate_case
from segkit.models import checkpoint
from segkit.models.metadata import Metadata
from segkit.system.errors import SegkitError
from segkit.system.progress import console, track
from segkit.system.shell import override
from segkit.training.sweeps.folds import OutOfFold, find_folds, one_of

THRESHOLDS = tuple(round(0.2 + 0.05 * i, 2) for i in range(13))
STEPS = "segkit.inference."
CANDIDATES: dict[str, dict[str, Any]] = {
    "fill_holes": {"_target_": f"{STEPS}FillHoles"},
    "largest": {"_target_": f"{STEPS}LargestComponents", "k": 1},
    "two_largest": {"_target_": f"{STEPS}LargestComponents", "k": 2},
    "small_objects": {"_target_": f"{STEPS}MinimumSize", "px": 50},
    "smooth": {"_target_": f"{STEPS}Smooth", "sigma": 2.0},
    "ellipse": {"_target_": f"{STEPS}FitEllipse"},
}
"""In the order in which they are applied."""
ALPHA = 0.05
"""Probability of keeping anything for a class where nothing helps, at most."""
MIN_GAIN = 1e-4
"""A smaller gain is not worth a step."""
MAX_PIXELS = 400_000_000
"""The most probabilities that are kept in memory, as float16."""


@dataclass(frozen=True)
class CachedPrediction:
    """A validation case with what it takes to score it again and again."""

    case: Case
    probs: Array  # (C, *S) float16
    target: Array  # (*S), or (K, *S) where classes overlap
    pixel_mm: tuple[float, ...]


@dataclass(frozen=True)
class ClassScorer:
    """Scores one class in every case under a decision; higher is better."""

    predictions: Sequence[CachedPrediction]
    labels: LabelMap
    metrics: Mapping[str, CaseMetric]
    statistic: Statistic
    sign: float

    @property
    def groups(self) -> list[str]:
        return [one.case.group_or_id for one in self.predictions]

    def scores(self, decision: Decision, class_name: str) -> Array:
        """(N,), NaN where the case has no value."""
        found = []
        for one in self.predictions:
            mask = decision(one.probs.astype(np.float32), one.pixel_mm)
            rows = evaluate_case(mask, one.target, self.labels, one.case, self.metrics)
            found += [row.values for row in rows if row.class_name == class_name]
        return self.sign * self.statistic.of_rows(found)


@dataclass(frozen=True)
class Improvement:
    """After against before over the cases that have both: mean over groups, its standard error, number of groups."""

    mean: float
    error: float
    n_groups: int

    @classmethod
    def of(cls, before: Array, after: Array, groups: Sequence[str]) -> Improvement:
        """`before`, `after`, `groups`: (N,). None where a case lost its value, or where there is one group."""
        both = ~(np.isnan(before) | np.isnan(after))
        names, index = np.unique(np.asarray(groups, dtype=str)[both], return_inverse=True)
        if len(names) < 2 or np.isnan(after).sum() > np.isnan(before).sum():
            return cls(0.0, float("inf"), len(names))
        by_group = np.bincount(index, weights=(after - before)[both]) / np.bincount(index)
        return cls(float(by_group.mean()), float(by_group.std(ddof=1) / np.sqrt(len(names))), len(names))

    def is_significant(self, trials: int) -> bool:
        """Whether it is significant among so many trials. If two improvements in a row are, so is their sum."""
        if self.n_groups < 2:
            return False
        return self.mean > max(float(stats.t.ppf(1 - ALPHA / trials, self.n_groups - 1)) * self.error, MIN_GAIN)


@dataclass(frozen=True)
class Calibration:
    """A decision, the config nodes of the steps it adds to the checkpoint's own, and a line about each change that was kept."""

    decision: Decision
    nodes: Mapping[str, dict[str, Any]]
    kept: tuple[str, ...]

    def changed(self, decision: Decision, class_name: str, what: str, gain: Improvement, **nodes: dict[str, Any]) -> Calibration:
        line = f"{class_name}: {what}, {gain.mean:+.4f} (standard error {gain.error:.4f}, {gain.n_groups} groups)"
        return Calibration(decision, {**self.nodes, **nodes}, (*self.kept, line))


def calibrate(cfg: Calibrate) -> int:
    """Choose thresholds and steps on the validation cases of a checkpoint or cross-validation, and store them in its metadata."""
    if cfg.sweep is None:
        paths = [checkpoint.find(cfg.ckpt or "")]
        predictor: Predictor = load_checkpoint(cfg, paths[0])
        use = f"segkit evaluate {override('ckpt', str(paths[0]))} subset=test"
    else:
        folds = one_of(find_folds(cfg.sweep, cfg.where, cfg.partial))
        paths, predictor = folds.ckpts, OutOfFold(folds, partial(load_checkpoints, cfg))
        use = f"segkit predict sweep={folds.sweep} input=… output=…"
    cases, labels = validation_cases(predictor.metadata, predictor.config, cfg.data, cfg.allow_targets)
    scorer = scorer_of(predictor, cases, labels)
    chosen = choose(scorer, Decision.of(predictor.config.inference, predictor.labels, cfg.allow_targets))
    for text in chosen.kept or ["nothing helps on these validation cases: the checkpoint stays as it is"]:
        console.print(text, markup=False, highlight=False)
    if not chosen.kept:
        return 0
    n = len(scorer.predictions)
    for path in reversed(paths):  # the first, with which this began, is the last: a second start after a kill does the same again
        store(path, chosen, n, predictor.metadata)
    where = str(paths[0]) if len(paths) == 1 else f"{len(paths)} checkpoints"
    console.print(f"stored in {where}, for validation of {n} cases;   {use}", markup=False)
    return 0


# --- choosing ---------------------------------------------------------------------------------------------------------


def choose(scorer: ClassScorer, start: Decision) -> Calibration:
    exclusive = scorer.labels.mode == "multiclass"
    own = {name: threshold_of(name, start.threshold) for name in scorer.labels.classes}
    chosen = Calibration(start if exclusive else replace(start, threshold=own), {}, ())
    for name in scorer.labels.classes:
        limits = [] if exclusive else [limit for limit in THRESHOLDS if limit != own[name]]
        steps = candidate_steps(scorer, name, start.steps)
        trials = len(limits) + len(steps)
        chosen = with_threshold(scorer, chosen, name, limits, trials) if limits else chosen
        chosen = with_steps(scorer, chosen, name, steps, trials)
    return chosen


def with_threshold(scorer: ClassScorer, chosen: Calibration, name: str, limits: Sequence[float], trials: int) -> Calibration:
    decision = chosen.decision
    own = {one: threshold_of(one, decision.threshold) for one in scorer.labels.classes}
    before = scorer.scores(decision, name)
    tried = {limit: replace(decision, threshold={**own, name: limit}) for limit in limits}
    gains = {limit: Improvement.of(before, scorer.scores(other, name), scorer.groups) for limit, other in tried.items()}
    best = max(gains, key=lambda limit: gains[limit].mean)
    if not gains[best].is_significant(trials):
        return chosen
    return chosen.changed(tried[best], name, f"threshold {best:g} instead of {own[name]:g}", gains[best])


def with_steps(scorer: ClassScorer, chosen: Calibration, name: str, steps: Mapping[str, Any], trials: int) -> Calibration:
    before = scorer.scores(chosen.decision, name)
    for key, step in steps.items():
        decision = replace(chosen.decision, steps=(*chosen.decision.steps, step))
        after = scorer.scores(decision, name)
        gain = Improvement.of(before, after, scorer.groups)
        if gain.is_significant(trials):
            node = {**CANDIDATES[key], "classes": [name]}
            chosen, before = chosen.changed(decision, name, key, gain, **{f"calibrated_{key}_{name}": node}), after
    return chosen


def candidate_steps(scorer: ClassScorer, name: str, present: Sequence[Any]) -> dict[str, Any]:
    """Steps to try on a class: not those that the checkpoint applies to it already, and no ellipse in a volume."""
    steps = {key: instantiate({**node, "classes": [name]}) for key, node in CANDIDATES.items()}
    applied = [step for step in present if step.classes is None or name in step.classes]
    same = [replace(step, classes=[name]) for step in applied if type(step) in map(type, steps.values())]
    volumes = scorer.predictions[0].target.ndim - scorer.labels.overlap == 3
    return {key: step for key, step in steps.items() if step not in same and not (volumes and key == "ellipse")}


# --- validation cases -------------------------------------------------------------------------------------------------


def scorer_of(predictor: Predictor, cases: Sequence[Case], labels: LabelMap) -> ClassScorer:
    """Predict the validation cases once and keep their probabilities."""
    config = predictor.config.metric
    metrics = build_metrics(config.cases, predictor.config.allow_targets)
    statistics = {statistic.name: statistic for metric in metrics.values() for statistic in metric.statistics}
    monitor = known_as(config.monitor.split("/")[0], statistics)  # over all cases: else removing what is not there would never pay
    statistic = statistics.get(monitor) or next(iter(statistics.values()))
    sign = -1.0 if monitor in statistics and config.mode == "min" else 1.0
    chosen = fitting(cases, pixels_of(cases, labels), MAX_PIXELS)
    if len(chosen) < len(cases):
        console.print(f"note       memory holds {len(chosen)} of {len(cases)} validation cases; these, evenly taken, decide")
    cached = [
        CachedPrediction(case, prediction.probs.astype(np.float16), encoded_mask(case, labels), prediction.pixel_mm)
        for case, prediction in track(zip(chosen, predictor.predict_all(chosen), strict=True), "predicting", len(chosen))
    ]
    scorer = ClassScorer(cached, labels, metrics, statistic, sign)
    if len(cached) < 5 or len(set(scorer.groups)) < 2:
        of_one = " of one group (patient)" if len(cached) >= 5 else ""
        raise SegkitError(f"{len(cached)} validation cases{of_one} are too few to choose by;   calibrate where there are 5 or more")
    return scorer


def pixels_of(cases: Sequence[Case], labels: LabelMap) -> list[int]:
    """Number of probabilities of each case, which are on the grid of its mask."""
    channels = len(labels.classes) + (labels.mode == "multiclass")
    shapes = (next(iter(case.masks.values())).read().shape[: case.dims] for case in cases)
    return [channels * math.prod(shape) for shape in track(shapes, "reading sizes", len(cases))]


def fitting(cases: Sequence[Case], pixels: Sequence[int], most: int) -> list[Case]:
    """As many cases as `most` pixels hold, evenly from all over the list: it goes fold by fold, and patient by patient."""
    n, chosen = len(cases), list(range(len(cases)))
    while n and (total := sum(pixels[i] for i in chosen)) > most:
        n = n * most // total
        chosen = evenly(range(len(cases)), n)
    return [cases[i] for i in chosen]


# --- storing ----------------------------------------------------------------------------------------------------------


def store(path: Path, chosen: Calibration, n: int, start: Metadata | None = None) -> None:
    """Write it to the metadata of a checkpoint, whole or not at all; its steps come after those of `start` (None: its own)."""
    content = checkpoint.read(path)
    if path.suffix == checkpoint.SAFETENSORS:
        raise SegkitError(f"{path} is a shared folder;   calibrate the run's own checkpoint, then share it again")
    metadata = content[checkpoint.METADATA_KEY]
    config = metadata["config"]
    began, past = (start.config, start.calibration) if start else (config, metadata.get("calibration") or {})
    threshold, steps = simplest(chosen.decision.threshold), {**began["inference"]["postprocess"], **chosen.nodes}
    inference = {**config["inference"], "threshold": threshold, "postprocess": steps}
    content[checkpoint.METADATA_KEY] = {
        **metadata,
        "config": {**config, "inference": inference},
        "calibration": {"n": n, "kept": [*past.get("kept", []), *chosen.kept]},
    }
    checkpoint.save(content, path)


def simplest(threshold: Threshold) -> Threshold:
    """One number where all classes have the same."""
    if isinstance(threshold, Mapping) and len(set(threshold.values())) == 1:
        return next(iter(threshold.values()))
    return threshold
