"""A second data set, from elsewhere: judged with the finished checkpoint, and never used to choose anything."""

from __future__ import annotations

from pathlib import Path

from segkit.cli.evaluate import labels_of, write_results
from segkit.config.schema import Train
from segkit.data.audit.audit import Facts, look
from segkit.data.case import Manifest
from segkit.data.labels import LabelMap
from segkit.inference.evaluation import evaluate_cases
from segkit.inference.predictor import Predictor
from segkit.system.errors import Problem, ProblemsFound, SegkitError, raise_errors
from segkit.system.files import CACHE
from segkit.system.progress import console

FOLDER = "benchmark"
"""Of a run: its case table, summary and pictures."""


def find_benchmark(cfg: Train, trained: Manifest, facts: Facts) -> Manifest | None:
    """The labelled cases of `benchmark`, with the classes of the training; looked at before it starts. None where none is named."""
    if cfg.benchmark.root is None:
        return None
    root = str(Path(cfg.benchmark.root).expanduser().absolute())
    data = cfg.data.model_copy(update={"root": root, "labels": cfg.benchmark.labels or cfg.data.labels, "exclude": []})
    looked = look(data, None, cfg.seed, cfg.allow_targets, Path(cfg.output_dir) / CACHE.name)
    seen = {fact.sha1: id_ for id_, fact in facts.items() if not fact.is_blank}
    shared = [(id_, seen[fact.sha1]) for id_, fact in looked.facts.items() if fact.sha1 in seen]
    problems = list(looked.problems)
    if shared:
        one, other = shared[0]
        what = f"{len(shared)} of its images are in the data of the training too, such as {one} (there {other})"
        problems.append(Problem("benchmark.root", what, "name images from elsewhere"))
    raise_errors(problems)
    labels = classes_of(looked.labelled.labels, trained.labels)
    return Manifest(looked.labelled.name, looked.labelled.root, looked.labelled.cases, labels, looked.labelled.is_phantom)


def classes_of(theirs: LabelMap, trained: LabelMap) -> LabelMap:
    """The benchmark's label map with the training's classes in their order."""
    try:
        return labels_of(theirs, trained)
    except SegkitError:
        has, wants = ", ".join(theirs.classes), ", ".join(trained.classes)
        fix = "name them alike, and what is not wanted background, with  benchmark.labels='{VALUE: CLASS, ...}'"
        raise ProblemsFound([Problem("benchmark.labels", f"has classes {has}, the training {wants}", fix)]) from None


def judge_benchmark(best: Predictor, manifest: Manifest, run: Path) -> None:
    """Its tables and pictures, in a folder of their own in the run."""
    judged = evaluate_cases(best, list(manifest), manifest.labels, {case.id: "benchmark" for case in manifest})
    if absent := judged.table.absent:
        console.print(f"not judged, since no mask of the benchmark shows them: {', '.join(absent)}", markup=False)
        judged = judged.without(absent, best.config.seed)
    write_results(run / FOLDER, judged, f"{best.card.config['name']} on {manifest.root}", manifest)
