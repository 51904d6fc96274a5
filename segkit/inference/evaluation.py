"""Scores of predictions against the ground truth, case by case: one code path for the end of a training and `segkit evaluate`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segkit.config.commands import DataOverride
from segkit.config.schema import Data, Metric, Train
from segkit.config.targets import instantiate
from segkit.data.audit.audit import inspect, load_labelled
from segkit.data.case import Case, Manifest, encoded_mask
from segkit.data.labels import LabelMap
from segkit.data.overlays import Panel, samples
from segkit.data.statistics import Statistics
from segkit.inference.examples import Example, Examples, write_examples
from segkit.inference.mask_files import MaskFiles
from segkit.inference.predictor import Predictor
from segkit.metrics import calibration
from segkit.metrics.calibration import Calibration
from segkit.metrics.summary import Summary
from segkit.metrics.table import EXCLUDED, SUMMARY, TABLE, VOLUMES, CaseTable, Row, evaluate_case
from segkit.metrics.volumes import Stacks, evaluate_volume
from segkit.models.metadata import Metadata
from segkit.system.errors import Problem, ProblemsFound, SegkitError, raise_errors
from segkit.system.files import CACHE, cache_folder, write_text_atomic
from segkit.system.progress import console, track

BENCHMARK = "benchmark"
"""Folder in a run: tables and figures of the external validation."""


@dataclass(frozen=True)
class Evaluation:
    """The tables of an evaluation, their summary, and a few cases to look at."""

    table: CaseTable
    summary: Summary
    panels: tuple[Panel, ...]
    collisions: Mapping[str, int] = field(default_factory=dict)
    """Cases in which several members of a combination claimed the same pixels, and how many pixels."""
    volumes: CaseTable = field(default_factory=lambda: CaseTable((), ()))
    """Rows of whole volumes, where `metric.volumes` asks for some; their lines stand in `summary` with the others."""
    extremes: tuple[Example, ...] = ()
    """The worst cases and the best ones."""
    calibration: Calibration = field(default_factory=lambda: Calibration({}))
    """Of the probabilities; of masks without any it is empty."""

    def without(self, classes: Collection[str], seed: int) -> Evaluation:
        """The same without these classes."""
        table, volumes = (
            CaseTable(tuple(row for row in one.rows if row.class_name not in classes), one.statistics) for one in (self.table, self.volumes)
        )
        return replace(self, table=table, volumes=volumes, summary=summarize(table, volumes, seed))

    def without_absent(self, data: str, seed: int) -> Evaluation:
        """The same without the classes that no mask of `data` shows, which are printed."""
        if not (absent := self.table.absent):
            return self
        console.print(f"not evaluated, since no mask of {data} shows them: {', '.join(absent)}", markup=False)
        return self.without(absent, seed)


@dataclass(frozen=True)
class Result:
    """The return value of a command, in Python."""

    folder: Path
    summary: Summary
    ckpt: Path
    """The first of several; the folder of masks where these were evaluated."""


# --- cases and labels -------------------------------------------------------------------------------------------------


def checkpoint_data(metadata: Metadata, trained: Data, given: Mapping[str, Any]) -> Data:
    """The data section of the training, updated by the keys that are given; labels mean what they meant in training."""
    if "source" in given:
        same_kind = given.get("overlap") in (None, metadata.labels["overlap"])
        return trained.model_copy(update={**given, "labels": given.get("labels") or (metadata.labels["values"] if same_kind else None)})
    root = None if trained.root is None else metadata.data_root
    return trained.model_copy(update={"root": root, "labels": metadata.labels["values"], **given})


def select_cases(manifest: Manifest, metadata: Metadata, subset: str) -> tuple[list[Case], dict[str, str]]:
    """The cases of a subset of the checkpoint's own split, and the subset of every case.

    Validation includes the cases that the data set excludes from it: their scores are reported as well, separately.
    """
    if subset == "other":
        return list(manifest), {case.id: manifest.name for case in manifest}
    subsets = {id_: name for name in ("train", "val", "test") for id_ in metadata.split[name]}
    if subset == "all":
        return list(manifest), {case.id: subsets.get(case.id, "unseen") for case in manifest}
    left_out = [i for i in metadata.split.get(EXCLUDED, ()) if i in manifest.by_id and manifest.by_id[i].split == "val"]
    ids: list[str] = [*metadata.split[subset], *(left_out if subset == "val" else ())]
    subsets |= dict.fromkeys(left_out, EXCLUDED)
    missing = [i for i in ids if i not in manifest.by_id]
    if missing:
        raise SegkitError(
            f"{len(missing)} of {len(ids)} {subset} cases of this checkpoint are not in {manifest.root} (such as {missing[0]});\n"
            "  name the folder of the images with  data.root=FOLDER,  or evaluate all cases of another data set with\n"
            "  data=NAME data.root=FOLDER"
        )
    return [manifest.by_id[i] for i in ids], subsets


def first_of(cases: Sequence[Case], limit: float | None) -> Sequence[Case]:
    """The cases that `trainer.limit_test_batches` leaves, one at least: a number or a fraction; None leaves all."""
    n = len(cases) if limit is None else min(len(cases), limit if isinstance(limit, int) else max(1, int(limit * len(cases))))
    if n < len(cases):
        console.print(f"note       {n} of {len(cases)} cases are evaluated, as trainer.limit_test_batches={limit} says")
    return cases[:n]


def validation_cases(metadata: Metadata, config: Train, data: DataOverride, allow: Sequence[str]) -> tuple[list[Case], LabelMap]:
    """The labelled validation cases of a checkpoint, in its own data."""
    section = checkpoint_data(metadata, config.data, data.model_dump(exclude_unset=True))
    manifest = load_labelled(section, config.seed, allow, cache_dir=cache_folder())
    cases, subsets = select_cases(manifest, metadata, "val")
    return [case for case in cases if case.masks and subsets[case.id] == "val"], match_labels(manifest.labels, metadata.label_map())


def match_labels(data: LabelMap, trained: LabelMap) -> LabelMap:
    """The data's label map with the checkpoint's classes in their order; the data may lack some."""
    if data.overlap != trained.overlap or not set(data.classes) <= set(trained.classes):
        theirs, ours = ", ".join(data.classes), ", ".join(trained.classes)
        raise SegkitError(f"the data has classes {theirs}, the checkpoint {ours};   name them alike with  data.labels")
    if data.classes == trained.classes:
        return data
    unused = iter(range(2**20, 2**20 + len(trained.classes)))  # values that no mask holds
    others = [(raw, name) for raw, name in data.values if name not in trained.classes]
    ordered = [
        pair
        for name in trained.classes
        for pair in ([(raw, other) for raw, other in data.values if other == name] or [(str(next(unused)), name)])
    ]
    return LabelMap((*others, *ordered), data.overlap)


# --- scores -----------------------------------------------------------------------------------------------------------


def build_metrics(nodes: Mapping[str, Mapping[str, Any] | None], allow: Sequence[str]) -> dict[str, Any]:
    return {name: instantiate(node, f"metric.cases.{name}", allow=allow) for name, node in nodes.items() if node is not None}


def evaluate_cases(
    predictor: Predictor | MaskFiles, cases: Sequence[Case], labels: LabelMap, subsets: Mapping[str, str], metric: Metric | None = None
) -> Evaluation:
    """Predict every labelled case and compare it with its ground truth, on the grid of the original image.

    Args:
        predictor: A `Predictor`, or `MaskFiles`.
        cases: The cases to evaluate; those without masks are left out.
        labels: Classes of the masks, in the order of the predictor's classes.
        subsets: Case id -> subset. Subsets are never mixed into one mean.
        metric: Metrics to use in place of those of the predictor's config.

    Returns:
        Table, summary, calibration, and panels: the worst cases by the first metric, then others evenly from all cases.

    Raises:
        SegkitError: No case has masks, or `metric.volumes` is set and no case belongs to a volume.
    """
    cases = [case for case in cases if case.masks]
    if not cases:
        raise SegkitError("this subset has no labelled case;   choose another  subset=train|val|test|all")
    config = predictor.config
    used = metric or config.metric
    metrics, volume_metrics = (build_metrics(nodes, config.allow_targets) for nodes in (used.cases, used.volumes))
    if volume_metrics:
        check_volumes(cases)
    stacks, examples, counts = Stacks(cases if volume_metrics else ()), Examples(len(cases), labels), Calibration.of(labels.classes)
    rows: list[Row] = []
    volume_rows: list[Row] = []
    collisions: dict[str, int] = {}
    for case, prediction in track(zip(cases, predictor.predict_all(cases), strict=True), "evaluating", len(cases)):
        target = encoded_mask(case, labels)
        found = evaluate_case(prediction.mask, target, labels, case, metrics, subsets[case.id])
        rows += found
        examples.add(case, prediction, target, found)
        counts.add(prediction.probs, target, labels)
        if volume_metrics and (volume := stacks.add(case, prediction.mask, target)):
            volume_rows += evaluate_volume(volume, labels, volume_metrics, subsets[case.id])
        if prediction.collisions:
            collisions[case.id] = prediction.collisions
    table, volumes = CaseTable.of(rows, metrics), CaseTable.of(volume_rows, volume_metrics)
    summary, extremes = summarize(table, volumes, config.seed), tuple(examples.extremes())
    return Evaluation(table, summary, tuple(examples.panels()), collisions, volumes, extremes, counts)


def check_volumes(cases: Iterable[Case]) -> None:
    if not any(case.volume or case.dims == 3 for case in cases):
        raise SegkitError("metric.volumes evaluates whole volumes, but these images belong to none;   choose another  metric=NAME")


def summarize(table: CaseTable, volumes: CaseTable, seed: int) -> Summary:
    return Summary((*table.summary(seed).lines, *volumes.summary(seed).lines))


# --- results ----------------------------------------------------------------------------------------------------------


def report_collisions(evaluation: Evaluation) -> None:
    cases, pixels = len(evaluation.collisions), sum(evaluation.collisions.values())
    worst = max(evaluation.collisions.items(), key=lambda item: item[1], default=("", 0))
    most = f", most in {worst[0]}: {worst[1]}" if cases else ""
    console.print(f"collisions {pixels} pixels in {cases} cases were claimed by several members{most}")


def write_results(folder: Path, evaluation: Evaluation, name: str, manifest: Manifest, metric: Metric | None = None) -> None:
    """Write cases.csv, volumes.csv where whole volumes were evaluated, calibration.csv, figures and summary.json; print the summary.

    `metric` is recorded in summary.json: an evaluation may use another than the run's config names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{name}{' (synthetic phantom data)' if manifest.is_phantom else ''}"
    evaluation.table.to_csv(folder / TABLE)
    if evaluation.volumes.rows:
        evaluation.volumes.to_csv(folder / VOLUMES)
    samples(evaluation.panels, manifest.labels, folder / "samples.png", title)
    write_examples(folder, evaluation.extremes, manifest.labels)
    if evaluation.calibration.known:
        evaluation.calibration.to_csv(folder / calibration.TABLE)
    recorded = {} if metric is None else {"metric": metric.model_dump(mode="json")}
    content = {"is_phantom": manifest.is_phantom, **recorded, "results": evaluation.summary.as_dict()}
    write_text_atomic(folder / SUMMARY, json.dumps(content, indent=1))
    evaluation.summary.print(console, title)
    console.print(f"per case   {folder / TABLE}\nfigures    {folder / 'samples.png'}")


# --- benchmark: a second data set, never used to choose anything -------------------------------------------------------


def find_benchmark(cfg: Train, trained: Manifest, statistics: Statistics) -> Manifest | None:
    """The labelled cases of `benchmark` with the classes of the training, audited before it starts; None where none is named."""
    if cfg.benchmark.root is None:
        return None
    root = str(Path(cfg.benchmark.root).expanduser().absolute())
    data = cfg.data.model_copy(update={"root": root, "labels": cfg.benchmark.labels or cfg.data.labels, "exclude": []})
    audited = inspect(data, None, cfg.seed, cfg.allow_targets, Path(cfg.output_dir) / CACHE.name)
    seen = {fact.sha1: id_ for id_, fact in statistics.items() if not fact.is_blank}
    shared = [(id_, seen[fact.sha1]) for id_, fact in audited.statistics.items() if fact.sha1 in seen]
    problems = list(audited.problems)
    if shared:
        one, other = shared[0]
        what = f"{len(shared)} of its images are in the data of the training too, such as {one} (there {other})"
        problems.append(Problem("benchmark.root", what, "name images from elsewhere"))
    raise_errors(problems)
    theirs = audited.labelled.labels
    try:
        return replace(audited.labelled, labels=match_labels(theirs, trained.labels))
    except SegkitError:
        what = f"has classes {', '.join(theirs.classes)}, the training {', '.join(trained.labels.classes)}"
        fix = "name them alike, and what is not wanted background, with  benchmark.labels='{VALUE: CLASS, ...}'"
        raise ProblemsFound([Problem("benchmark.labels", what, fix)]) from None


def evaluate_benchmark(best: Predictor, manifest: Manifest, run: Path, limit: float | None = None) -> None:
    """Tables and figures of the finished checkpoint, in a folder of their own in the run."""
    found = evaluate_cases(best, first_of(list(manifest), limit), manifest.labels, {case.id: BENCHMARK for case in manifest})
    found = found.without_absent("the benchmark", best.config.seed)
    write_results(run / BENCHMARK, found, f"{best.metadata.config['name']} on {manifest.root}", manifest)
