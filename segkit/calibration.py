"""`segkit calibrate`: thresholds and post-processing chosen on validation cases, kept only if they help.

For each class by itself: first the threshold, then the steps, each tried alone and after those that were kept. Something is
kept if the mean gain over the validation cases exceeds 1.64 of its standard errors (one-sided 95 %), so that a lucky case
decides nothing. What was chosen, and what it gained, stands in the checkpoint's card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segkit import checkpoint, from_checkpoint
from segkit.config.targets import instantiate
from segkit.data.labels import LabelMap
from segkit.data.manifest import Case, encoded_mask
from segkit.errors import SegkitError
from segkit.evaluation import build_metrics
from segkit.inference.decide import Decision, threshold_of
from segkit.inference.predictor import Predictor, load
from segkit.metrics import CaseMetric, Statistic
from segkit.metrics.table import evaluate_case
from segkit.progress import console, track

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
SURE = 1.64
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

    def scores(self, decision: Decision, class_name: str) -> Array:
        found = []
        for one in self.seen:
            mask = decision(one.probs.astype(np.float32), one.pixel_mm)
            rows = evaluate_case(mask, one.truth, self.labels, one.case, self.metrics)
            found += [row.values[self.statistic.column] for row in rows if row.class_name == class_name]
        return self.sign * np.asarray(self.statistic.of(np.array(found, float)))


def gain(before: Array, after: Array) -> tuple[float, float]:
    """Mean paired difference over the cases that both have, and its standard error."""
    both = ~(np.isnan(before) | np.isnan(after))
    difference = (after - before)[both]
    if len(difference) < 2 or np.isnan(after).sum() > np.isnan(before).sum():
        return 0.0, float("inf")
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def helps(before: Array, after: Array) -> bool:
    mean, error = gain(before, after)
    return mean > max(SURE * error, 1e-4)


def choose(judge: Judge, start: Decision) -> tuple[dict[str, float], dict[str, dict[str, Any]], list[str]]:
    """Thresholds by class, nodes of steps, and a line about each thing that was kept."""
    thresholds = {name: threshold_of(name, start.threshold) for name in judge.labels.classes}
    nodes: dict[str, dict[str, Any]] = {}
    kept: list[str] = []
    for name in judge.labels.classes:
        decision = replace(start, threshold=0.5 if judge.labels.mode == "multiclass" else thresholds, steps=())
        now = judge.scores(decision, name)
        if judge.labels.mode != "multiclass":
            tried = {t: judge.scores(replace(decision, threshold={**thresholds, name: t}), name) for t in THRESHOLDS}
            best = max(tried, key=lambda t: float(np.nanmean(tried[t])))
            if helps(now, tried[best]):
                kept.append(line(name, f"threshold {best:g} instead of {thresholds[name]:g}", now, tried[best]))
                thresholds[name], now = best, tried[best]
                decision = replace(decision, threshold=dict(thresholds))
        for key, node in CANDIDATES.items():
            if judge.seen[0].truth.ndim - judge.labels.overlap == 3 and key == "ellipse":
                continue
            step = instantiate({**node, "classes": [name]})
            after = judge.scores(replace(decision, steps=(*decision.steps, step)), name)
            if helps(now, after):
                kept.append(line(name, key, now, after))
                nodes[f"{key}_{name}" if len(judge.labels.classes) > 1 else key] = {**node, "classes": [name]}
                decision, now = replace(decision, steps=(*decision.steps, step)), after
    return thresholds, nodes, kept


def line(class_name: str, what: str, before: Array, after: Array) -> str:
    mean, error = gain(before, after)
    return f"{class_name}: {what}, {mean:+.4f} (standard error {error:.4f})"


def command(cfg: Calibrate) -> int:
    path = checkpoint.find(cfg.ckpt)
    where = cfg.hardware
    unfinished = {"postprocess": {}, "threshold": 0.5}
    opened = load(path, where.accelerator, where.precision, where.threads, cfg.allow_targets, unfinished)
    cases, labels = from_checkpoint.validation_cases(opened.card, opened.config, cfg.data, cfg.allow_targets)
    judge = judge_of(opened, cases, labels)
    thresholds, nodes, kept = choose(judge, opened.decide)
    for text in kept or ["nothing helps on these validation cases: the checkpoint stays as it is"]:
        console.print(text, markup=False, highlight=False)
    if not kept:
        return 0
    threshold: float | dict[str, float] = thresholds if len(set(thresholds.values())) > 1 else next(iter(thresholds.values()))
    store(path, threshold, nodes, kept, len(judge.seen))
    console.print(f"stored in {path}, for validation of {len(judge.seen)} cases;   segkit evaluate ckpt={path} subset=test", markup=False)
    return 0


def judge_of(opened: Predictor, cases: Sequence[Case], labels: LabelMap) -> Judge:
    metrics = build_metrics(opened.config.metric.cases, opened.config.allow_targets)
    statistics = {statistic.name: statistic for metric in metrics.values() for statistic in metric.statistics}
    monitor = opened.config.metric.monitor.split("/")[0]
    statistic = statistics.get(monitor) or next(iter(statistics.values()))
    sign = -1.0 if monitor in statistics and opened.config.metric.mode == "min" else 1.0
    seen, pixels = [], 0
    for case, prediction in track(zip(cases, opened.predict_all(cases), strict=True), "predicting", len(cases)):
        seen.append(Seen(case, prediction.probs.astype(np.float16), encoded_mask(case, labels), prediction.pixel_mm))
        pixels += prediction.probs.size
        if pixels > MOST_PIXELS:
            console.print(f"note       memory is full with {len(seen)} of {len(cases)} validation cases; these decide")
            break
    if len(seen) < 5:
        raise SegkitError(f"{len(seen)} validation cases are too few to choose anything by;   calibrate where there are 5 or more")
    return Judge(seen, labels, metrics, statistic, sign)


def store(path: Path, threshold: float | dict[str, float], nodes: Mapping[str, Any], kept: Sequence[str], n: int) -> None:
    """In the card of the checkpoint, whole or not at all."""
    content = checkpoint.read(path)
    if path.suffix == checkpoint.SAFETENSORS:
        raise SegkitError(f"{path} is a shared folder;   calibrate the run's own checkpoint, then share it again")
    card = content[checkpoint.CARD]
    inference = {**card["config"]["inference"], "threshold": threshold, "postprocess": dict(nodes)}
    content[checkpoint.CARD] = {
        **card,
        "config": {**card["config"], "inference": inference},
        "calibration": {"n": n, "kept": list(kept)},
    }
    checkpoint.save(content, path)
