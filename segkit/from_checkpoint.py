"""The recipes that start from a checkpoint, or from masks: judge them on a subset or another data set, predict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit import checkpoint, evaluation, judging
from segkit.checkpoint import Card
from segkit.config.schema import Data, DataOverride, Evaluate, Metric, Predict, Train
from segkit.data.audit import examine
from segkit.data.labels import LabelMap
from segkit.data.manifest import Case, Manifest
from segkit.data.open import find
from segkit.errors import ProblemsFound, SegkitError
from segkit.evaluation import Evaluation, evaluate_cases
from segkit.files import CACHE, check_writable, sha256_of, write_text_atomic
from segkit.inference import jobs as jobs_
from segkit.inference import predictor
from segkit.inference.batch import Wanted, predict_jobs
from segkit.inference.members import Combination, Ensemble, Member, Together
from segkit.inference.predictor import Predictor
from segkit.metrics.summary import Summary
from segkit.metrics.table import EXCLUDED
from segkit.progress import console
from segkit.rundir import RunFolder, read_json

CLAIM = ".checkpoint.json"
"""In a folder of masks: which checkpoint they are of."""


ELSEWHERE = "choose another  output=FOLDER"


@dataclass(frozen=True)
class Result:
    """What a command hands back to Python."""

    folder: Path
    summary: Summary
    ckpt: Path
    """Of several the first; the folder of masks where these were judged."""


def evaluate(cfg: Evaluate) -> Result:
    """The per-case table of a checkpoint on a subset of its own data, or on another data set (then on all its cases)."""
    given = cfg.data.model_dump(exclude_unset=True)
    is_other = "source" in given
    if is_other and cfg.subset not in ("val", "all"):
        raise SegkitError(f"subset={cfg.subset} is a part of the checkpoint's own data; of other data all cases are judged")
    if cfg.masks is not None:
        return evaluate_masks(cfg, Path(cfg.masks).expanduser())
    best, ckpts = open_checkpoints(cfg)
    if cfg.metric is not None:
        best.config = best.config.model_copy(update={"metric": cfg.metric})
    # The cache is this machine's, never a place that a checkpoint names.
    manifest = examine(data_of(best.card, best.config.data, given), best.config.seed, cfg.allow_targets, cache_dir=CACHE)
    labels = labels_of(manifest.labels, best.labels)
    cases, sides = choose_cases(manifest, best.card, "other" if is_other else cfg.subset)
    part = f"{manifest.name}-{manifest.hash[:8]}" if is_other else cfg.subset
    folder = folder_of(cfg, home_of(ckpts, best.card.config["name"]) / "evaluation" / part)
    judged = evaluate_cases(best, cases, labels, sides)
    if is_other and (absent := judged.table.absent):
        console.print(f"not judged, since no mask of this data shows them: {', '.join(absent)}", markup=False)
        judged = judged.without(absent, best.config.seed)
    if isinstance(best, Combination):
        tell_collisions(judged)
    write_results(folder, judged, best.card.config["name"], manifest, best.config.metric)
    return Result(folder, judged.summary, ckpts[0])


def evaluate_masks(cfg: Evaluate, masks: Path) -> Result:
    """The same of masks that any program wrote, on the labelled cases of a data set."""
    data = Data.model_validate(cfg.data.model_dump())
    manifest = examine(data, 0, cfg.allow_targets, cache_dir=CACHE)
    of_cases = judging.find_masks(masks, manifest, data.source.get("orient", "LPS"), cfg.partial)
    name, cases = masks.absolute().name, [case for case in manifest if case.id in of_cases]
    folder = folder_of(cfg, Path("outputs") / "masks" / name / f"{manifest.name}-{manifest.hash[:8]}")
    files = judging.MaskFiles(judging.Rules(cfg.metric or judging.OVERLAP, cfg.allow_targets), manifest.labels, of_cases)
    judged = evaluate_cases(files, cases, manifest.labels, dict.fromkeys(of_cases, manifest.name))
    title = f"{name}, {len(cases)} of {len(manifest)} cases" if cfg.partial else name
    write_results(folder, judged, title, manifest, files.config.metric)
    return Result(folder, judged.summary, masks)


def predict(cfg: Predict) -> int:
    """Masks for new images. Exit code 1 where an image could not be done."""
    check_writable(Path(cfg.output), ELSEWHERE)
    best, ckpts = open_checkpoints(cfg)
    if best.card.is_phantom:
        console.print("this checkpoint was trained on synthetic phantom data: its masks mean nothing on real images")
    output = Path(cfg.output)
    mine = claim(cfg, best, ckpts)
    wanted = jobs_.of_cases(cases_to_predict(cfg, best)) if cfg.input is None else jobs_.of_files(cfg.input, output)
    asked = Wanted(cfg.probabilities, cfg.overlays, cfg.overwrite, cfg.palette, tuple(cfg.formats))
    done = predict_jobs(best, wanted, output, asked, lambda: write_text_atomic(output / CLAIM, json.dumps(mine, indent=1) + "\n"))
    skipped = f", {done.skipped} there already" if done.skipped else ""
    console.print(f"{done.written} masks written to {cfg.output}{skipped}")
    for note in done.notes:
        console.print(f"note       {note.where}   {note.what}", markup=False)
    if done.problems:
        console.print(f"{len(done.problems)} images could not be done:")
        for problem in done.problems:
            console.print(f"  {problem.where}   {problem.what}")
    return 1 if done.problems else 0


def open_checkpoints(cfg: Evaluate | Predict) -> tuple[Predictor, list[Path]]:
    """One checkpoint, the ensemble of several, or a combination of members, and the files."""
    inference = cfg.inference.model_dump(exclude_unset=True, exclude_none=True)
    where = cfg.hardware

    def load(ckpt: Path) -> Predictor:
        return predictor.load(ckpt, where.accelerator, where.precision, where.threads, cfg.allow_targets, inference)

    if cfg.members:
        found = {name: checkpoint.find(member.ckpt) for name, member in cfg.members.items()}
        loaded = {name: load(path) for name, path in found.items()}
        members = [Member(name, one, tuple(cfg.members[name].labels or one.labels.classes)) for name, one in loaded.items()]
        return Combination(members, cfg.merge), list(found.values())
    paths = [checkpoint.find(ckpt) for ckpt in ([cfg.ckpt] if isinstance(cfg.ckpt, str) else cfg.ckpt or [])]
    return (load(paths[0]) if len(paths) == 1 else Ensemble([load(path) for path in paths])), paths


def folder_of(cfg: Evaluate, usual: Path) -> Path:
    """Where the tables go; known to take them before hours are spent on these."""
    folder = Path(cfg.output) if cfg.output else usual
    check_writable(folder, ELSEWHERE)
    return folder


def home_of(ckpts: Sequence[Path], name: str) -> Path:
    """The run folder of a checkpoint; for several, or one that lies elsewhere, a folder in outputs."""
    runs = [ckpt.parent.parent for ckpt in ckpts if ckpt.parent.name == "checkpoints"]
    if len(ckpts) == 1:
        return runs[0] if runs else Path("outputs") / name
    return Path("outputs") / "together" / "+".join(run.name for run in runs or [ckpt.with_suffix("") for ckpt in ckpts])[:120]


def tell_collisions(judged: Evaluation) -> None:
    cases, pixels = len(judged.collisions), sum(judged.collisions.values())
    worst = max(judged.collisions.items(), key=lambda item: item[1], default=("", 0))
    console.print(
        f"collisions {pixels} pixels in {cases} cases were claimed by several members"
        + (f", most in {worst[0]}: {worst[1]}" if cases else "")
    )


def write_results(folder: Path, judged: Evaluation, name: str, manifest: Manifest, metric: Metric | None = None) -> None:
    """`metric`: of an evaluation, which may judge by another than the run's config names."""
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{name}{' (synthetic phantom data)' if manifest.is_phantom else ''}"
    evaluation.write(judged, manifest.labels, folder, title)
    rules = {} if metric is None else {"metric": metric.model_dump(mode="json")}
    RunFolder(folder).write_json("summary.json", {"is_phantom": manifest.is_phantom, **rules, "results": judged.summary.as_dict()})
    judged.summary.print(console, title)
    console.print(f"per case   {folder / 'cases.csv'}\npictures   {folder / 'samples.png'}")


def data_of(card: Card, trained: Data, given: Mapping[str, Any]) -> Data:
    """The data section of the training with what is given instead; labels mean what they meant in training."""
    if "source" in given:
        same_kind = given.get("overlap") in (None, card.labels["overlap"])
        return trained.model_copy(update={**given, "labels": given.get("labels") or (card.labels["values"] if same_kind else None)})
    root = None if trained.root is None else card.data_root
    return trained.model_copy(update={"root": root, "labels": card.labels["values"], **given})


def validation_cases(card: Card, config: Train, data: DataOverride, allow: Sequence[str]) -> tuple[list[Case], LabelMap]:
    """The labelled validation cases of a checkpoint, in its own data."""
    manifest = examine(data_of(card, config.data, data.model_dump(exclude_unset=True)), config.seed, allow, cache_dir=CACHE)
    cases, sides = choose_cases(manifest, card, "val")
    return [case for case in cases if case.masks and sides[case.id] == "val"], labels_of(manifest.labels, card.label_map())


def choose_cases(manifest: Manifest, card: Card, subset: str) -> tuple[list[Case], dict[str, str]]:
    """The cases of a subset of the split that the checkpoint was trained with, and the side that each was on.

    To validation belong the cases that the data set excludes from it: their scores are told as well, apart.
    """
    if subset == "other":
        return list(manifest), {case.id: manifest.name for case in manifest}
    sides = {id_: side for side in ("train", "val", "test") for id_ in card.split[side]}
    if subset == "all":
        return list(manifest), {case.id: sides.get(case.id, "unseen") for case in manifest}
    left_out = [i for i in card.split.get(EXCLUDED, ()) if i in manifest.by_id and manifest.by_id[i].split == "val"]
    ids: list[str] = [*card.split[subset], *(left_out if subset == "val" else ())]
    sides |= dict.fromkeys(left_out, EXCLUDED)
    missing = [i for i in ids if i not in manifest.by_id]
    if missing:
        raise SegkitError(
            f"{len(missing)} of {len(ids)} {subset} cases of this checkpoint are not in {manifest.root} (such as {missing[0]});\n"
            "  say where the images are with  data.root=FOLDER,  or judge all cases of another data set with  data=NAME data.root=FOLDER"
        )
    return [manifest.by_id[i] for i in ids], sides


def labels_of(data: LabelMap, trained: LabelMap) -> LabelMap:
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


def cases_to_predict(cfg: Predict, best: predictor.Predictor) -> tuple[Case, ...]:
    """Of a data set in a layout that a source reads, labelled or not."""
    given = cfg.data.model_dump(exclude_unset=True)
    found = find(data_of(best.card, best.config.data, given), best.config.seed, cfg.allow_targets, CACHE)
    errors = [problem for problem in found.problems if problem.severity == "error"]
    if errors:
        raise ProblemsFound(errors, before="prediction starts")
    return found.cases


def claim(cfg: Predict, best: Predictor, ckpts: Sequence[Path]) -> dict[str, Any]:
    """Masks that are there already are skipped, so a folder belongs to one checkpoint, whose hash it keeps, and one way to use it."""
    output = Path(cfg.output)
    theirs, settings = read_json(output / CLAIM), settings_of(cfg, best)
    mine = {"sha256": " ".join(map(sha256_of, ckpts)), "ckpt": ", ".join(str(ckpt.absolute()) for ckpt in ckpts), "settings": settings}
    mend = "name another  output=FOLDER,  or add  overwrite=true"
    if not theirs or cfg.overwrite:
        return mine
    if theirs.get("sha256") != mine["sha256"]:
        raise SegkitError(f"{output} holds masks of another checkpoint ({theirs.get('ckpt')});   {mend}")
    past = theirs.get("settings", {})  # older folders do not say
    if other := [f"{key}={past[key]}, not {settings[key]}" for key in settings if key in past and past[key] != settings[key]]:
        raise SegkitError(f"{output} holds masks made with {'; '.join(other)};   {mend}")
    return mine


def settings_of(cfg: Predict, best: Predictor) -> dict[str, Any]:
    """What besides the weights makes masks what they are, as JSON gives it back."""
    used = [one.config.inference.model_dump(mode="json") for one in (best.predictors if isinstance(best, Together) else [best])]
    for section in used:
        section["postprocess"] = [node for node in section["postprocess"].values() if node]  # their order counts, not their names
    alike = {key: [section[key] for section in used] for key in ("tta", "threshold", "window", "overlap", "postprocess")}
    combined = best if isinstance(best, Combination) else None
    return {
        **{f"inference.{key}": of[0] if all(one == of[0] for one in of) else of for key, of in alike.items()},
        "merge": combined and combined.merge,
        "members.labels": combined and [list(member.owned) for member in combined.members],
    }
