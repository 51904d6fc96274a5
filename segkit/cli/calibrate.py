"""`segkit calibrate`: thresholds and post-processing chosen on validation cases, kept only if they help.

The start is the checkpoint's own decision, whose steps stay where they are. For each class by itself: first the threshold,
then the steps, each after those that were kept. Something is kept if its mean gain is above 0 by a one-sided t-test over
groups (patients), for slices of one patient are no independent evidence. The level is 5 % in total for all that is tried
for a class (Bonferroni), so that where nothing helps, luck keeps something for one class in twenty at most. What was
chosen, and what it gained, stands in the checkpoint's card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from segkit.cli import evaluate as from_checkpoint
from segkit.cli.checkpoints import opener
from segkit.config.targets import instantiate
from segkit.data.case import Case, encoded_mask
from segkit.data.labels import LabelMap
from segkit.inference.decide import Decision, Threshold, threshold_of
from segkit.inference.evaluation import build_metrics
from segkit.inference.predictor import Predictor
from segkit.metrics import CaseMetric, Statistic
from segkit.metrics.table import evaluate_case
from segkit.models import checkpoint
from segkit.models.checkpoint import Card
from segkit.system.errors import SegkitError
from segkit.system.progress import console, track
from segkit.training.sweeps.folds import OutOfFold, find_folds, one_of

if TYPE_CHECKING:
    from segkit.config.schema import Calibrate

Array = npt.NDArray[Any]
THRESHOLDS = tuple(round(0.2 + 0.05 * i, 2) for i in range(13))
STEPS = "segkit.inference.postprocess."
CANDIDATES: dict[str, dict[str, Any]] = {
    "fill_holes": {"_target_": f"{STEPS}FillHoles"},
    "largest": {"_target_": f"{STEPS}LargestComponents", "k": 1},
    "two_largest": {"_target_": f"{STEPS}LargestComponents", "k": 2},
    "small_objects": {"_target_": f"{STEPS}MinimumSize", "px": 50},
    "smooth": {"_target_": f"{STEPS}Smooth", "sigma": 2.0},
    "ellipse": {"_target_": f"{STEPS}FitEllipse"},
}
"""In the order in which they are applied."""
CHANCE = 0.05
"""Of keeping anything for a class where nothing helps, at most."""
LEAST = 1e-4
"""A smaller gain is not worth a step."""
MOST_PIXELS = 400_000_000
"""Of probabilities kept in memory, float16."""


@dataclass(frozen=True)
class Seen:
    """What a validation case needs to be judged again and again."""

    case: Case
    probs: Array  # (C, *S) float16
    truth: Array
    pixel_mm: tuple[float, ...]


@dataclass(frozen=True)
class Judge:
    """Scores by case of one class under a decision; higher is better."""

    seen: Sequence[Seen]
    labels: LabelMap
    metrics: Mapping[str, CaseMetric]
    statistic: Statistic
    sign: float

    @property
    def groups(self) -> list[str]:
        return [one.case.group_or_id for one in self.seen]

    def scores(self, decision: Decision, class_name: str) -> Array:
        found = []
        for one in self.seen:
            mask = decision(one.probs.astype(np.float32), one.pixel_mm)
            rows = evaluate_case(mask, one.truth, self.labels, one.case, self.metrics)
            found += [row.values for row in rows if row.class_name == class_name]
        return self.sign * self.statistic.of_rows(found)


@dataclass(frozen=True)
class Gain:
    """After against before over the cases that have both: mean over groups, its standard error, how many groups."""

    mean: float
    error: float
    n_groups: int

    @classmethod
    def of(cls, before: Array, after: Array, groups: Sequence[str]) -> Gain:
        """`before`, `after`, `groups`: (N,). No gain where a case lost its value, or where there is one group."""
        both = ~(np.isnan(before) | np.isnan(after))
        names, index = np.unique(np.asarray(groups, dtype=str)[both], return_inverse=True)
        if len(names) < 2 or np.isnan(after).sum() > np.isnan(before).sum():
            return cls(0.0, float("inf"), len(names))
        by_group = np.bincount(index, weights=(after - before)[both]) / np.bincount(index)
        return cls(float(by_group.mean()), float(by_group.std(ddof=1) / np.sqrt(len(names))), len(names))

    def is_sure(self, trials: int) -> bool:
        """Whether it is no chance finding among so many. If two gains in a row are, then so is their sum."""
        if self.n_groups < 2:
            return False
        return self.mean > max(float(stats.t.ppf(1 - CHANCE / trials, self.n_groups - 1)) * self.error, LEAST)


@dataclass(frozen=True)
class Chosen:
    """A decision, the nodes of the steps that it has beyond the checkpoint's own, and a line about each thing that was kept."""

    decision: Decision
    nodes: Mapping[str, dict[str, Any]]
    kept: tuple[str, ...]

    def better(self, decision: Decision, text: str, nodes: Mapping[str, dict[str, Any]]) -> Chosen:
        return Chosen(decision, {**self.nodes, **nodes}, (*self.kept, text))


def choose(judge: Judge, start: Decision) -> Chosen:
    exclusive = judge.labels.mode == "multiclass"
    own = {name: threshold_of(name, start.threshold) for name in judge.labels.classes}
    chosen = Chosen(start if exclusive else replace(start, threshold=own), {}, ())
    for name in judge.labels.classes:
        limits = [] if exclusive else [limit for limit in THRESHOLDS if limit != own[name]]
        steps = candidates(judge, name, start.steps)
        trials = len(limits) + len(steps)
        chosen = with_threshold(judge, chosen, name, limits, trials) if limits else chosen
        chosen = with_steps(judge, chosen, name, steps, trials)
    return chosen


def with_threshold(judge: Judge, chosen: Chosen, name: str, limits: Sequence[float], trials: int) -> Chosen:
    decision = chosen.decision
    own = {one: threshold_of(one, decision.threshold) for one in judge.labels.classes}
    before = judge.scores(decision, name)
    tried = {limit: replace(decision, threshold={**own, name: limit}) for limit in limits}
    gains = {limit: Gain.of(before, judge.scores(other, name), judge.groups) for limit, other in tried.items()}
    best = max(gains, key=lambda limit: gains[limit].mean)
    if not gains[best].is_sure(trials):
        return chosen
    return chosen.better(tried[best], line(name, f"threshold {best:g} instead of {own[name]:g}", gains[best]), {})


def with_steps(judge: Judge, chosen: Chosen, name: str, steps: Mapping[str, Any], trials: int) -> Chosen:
    before = judge.scores(chosen.decision, name)
    for key, step in steps.items():
        decision = replace(chosen.decision, steps=(*chosen.decision.steps, step))
        after = judge.scores(decision, name)
        gained = Gain.of(before, after, judge.groups)
        if gained.is_sure(trials):
            node = {**CANDIDATES[key], "classes": [name]}
            chosen, before = chosen.better(decision, line(name, key, gained), {f"calibrated_{key}_{name}": node}), after
    return chosen


def candidates(judge: Judge, name: str, present: Sequence[Any]) -> dict[str, Any]:
    """Steps to try on a class: not those that the checkpoint applies to it already, and no ellipse in a volume."""
    steps = {key: instantiate({**node, "classes": [name]}) for key, node in CANDIDATES.items()}
    applied = [step for step in present if step.classes is None or name in step.classes]
    there = [replace(step, classes=[name]) for step in applied if type(step) in map(type, steps.values())]
    volumes = judge.seen[0].truth.ndim - judge.labels.overlap == 3
    return {key: step for key, step in steps.items() if step not in there and not (volumes and key == "ellipse")}


def line(class_name: str, what: str, gained: Gain) -> str:
    return f"{class_name}: {what}, {gained.mean:+.4f} (standard error {gained.error:.4f}, {gained.n_groups} groups)"


def command(cfg: Calibrate) -> int:
    load = opener(cfg.hardware, cfg.allow_targets)
    if cfg.sweep is None:
        paths = [checkpoint.find(cfg.ckpt or "")]
        opened, use = load(paths), f"segkit evaluate ckpt={paths[0]} subset=test"
    else:
        folds = one_of(find_folds(cfg.sweep, cfg.where, cfg.partial))
        paths, opened, use = folds.ckpts, OutOfFold(folds, load), f"segkit predict sweep={folds.sweep} input=… output=…"
    cases, labels = from_checkpoint.validation_cases(opened.card, opened.config, cfg.data, cfg.allow_targets)
    judge = judge_of(opened, cases, labels)
    chosen = choose(judge, opened.decide)
    for text in chosen.kept or ["nothing helps on these validation cases: the checkpoint stays as it is"]:
        console.print(text, markup=False, highlight=False)
    if not chosen.kept:
        return 0
    for path in reversed(paths):  # the first, with which this began, is the last: a second start after a kill does the same again
        store(path, chosen, len(judge.seen), opened.card)
    where = str(paths[0]) if len(paths) == 1 else f"{len(paths)} checkpoints"
    console.print(f"stored in {where}, for validation of {len(judge.seen)} cases;   {use}", markup=False)
    return 0


def judge_of(opened: Predictor, cases: Sequence[Case], labels: LabelMap) -> Judge:
    metrics = build_metrics(opened.config.metric.cases, opened.config.allow_targets)
    statistics = {statistic.name: statistic for metric in metrics.values() for statistic in metric.statistics}
    monitor = opened.config.metric.monitor.split("/")[0]
    statistic = statistics.get(monitor) or next(iter(statistics.values()))
    sign = -1.0 if monitor in statistics and opened.config.metric.mode == "min" else 1.0
    seen = []
    chosen = fitting(cases, pixels_of(cases, labels), MOST_PIXELS)
    if len(chosen) < len(cases):
        console.print(f"note       memory holds {len(chosen)} of {len(cases)} validation cases; these, evenly taken, decide")
    for case, prediction in track(zip(chosen, opened.predict_all(chosen), strict=True), "predicting", len(chosen)):
        seen.append(Seen(case, prediction.probs.astype(np.float16), encoded_mask(case, labels), prediction.pixel_mm))
    judge = Judge(seen, labels, metrics, statistic, sign)
    if len(seen) < 5 or len(set(judge.groups)) < 2:
        of_one = " of one group (patient)" if len(seen) >= 5 else ""
        raise SegkitError(f"{len(seen)} validation cases{of_one} are too few to choose anything by;   calibrate where there are 5 or more")
    return judge


def pixels_of(cases: Sequence[Case], labels: LabelMap) -> list[int]:
    """Of each case's probabilities, which are on the grid of its mask."""
    channels = len(labels.classes) + (labels.mode == "multiclass")
    first = (next(iter(case.masks.values())).read().shape[: case.dims] for case in cases)
    return [channels * math.prod(shape) for shape in track(first, "reading sizes", len(cases))]


def fitting(cases: Sequence[Case], pixels: Sequence[int], most: int) -> list[Case]:
    """As many cases as `most` pixels hold, evenly from all over the list: it goes fold by fold, and patient by patient."""
    n, chosen = len(cases), list(range(len(cases)))
    while n and (total := sum(pixels[i] for i in chosen)) > most:
        n = n * most // total
        chosen = [i * len(cases) // n for i in range(n)]
    return [cases[i] for i in chosen]


def store(path: Path, chosen: Chosen, n: int, start: Card | None = None) -> None:
    """In the card of the checkpoint, whole or not at all; the steps after those of `start` (None: its own)."""
    content = checkpoint.read(path)
    if path.suffix == checkpoint.SAFETENSORS:
        raise SegkitError(f"{path} is a shared folder;   calibrate the run's own checkpoint, then share it again")
    card = content[checkpoint.CARD]
    config = card["config"]
    began, past = (start.config, start.calibration) if start else (config, card.get("calibration") or {})
    threshold, steps = simplest(chosen.decision.threshold), {**began["inference"]["postprocess"], **chosen.nodes}
    inference = {**config["inference"], "threshold": threshold, "postprocess": steps}
    content[checkpoint.CARD] = {
        **card,
        "config": {**config, "inference": inference},
        "calibration": {"n": n, "kept": [*past.get("kept", []), *chosen.kept]},
    }
    checkpoint.save(content, path)


def simplest(threshold: Threshold) -> Threshold:
    """One number where all classes have the same."""
    if isinstance(threshold, Mapping) and len(set(threshold.values())) == 1:
        return next(iter(threshold.values()))
    return threshold
