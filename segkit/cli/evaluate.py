"""The recipes that start from a checkpoint, or from masks: judge them on a subset or another data set, predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit.cli.checkpoints import open_checkpoints, opener
from segkit.cli.claim import claim, occupy
from segkit.cli.predict import predict_side_by_side
from segkit.config.schema import Data, DataOverride, Evaluate, Metric, Predict, Train
from segkit.data.audit.audit import examine
from segkit.data.case import Case, Manifest
from segkit.data.labels import LabelMap
from segkit.data.manifest import find
from segkit.inference import evaluation, mask_files, predictor
from segkit.inference import inputs as jobs_
from segkit.inference.batch import Done, Show, Wanted, predict_jobs
from segkit.inference.ensemble import Combination
from segkit.inference.evaluation import Evaluation, evaluate_cases
from segkit.inference.predictor import Predictor
from segkit.metrics.summary import Summary
from segkit.metrics.table import EXCLUDED
from segkit.models.checkpoint import Card
from segkit.system.errors import SegkitError, raise_errors
from segkit.system.files import CACHE, check_writable
from segkit.system.parts import Part
from segkit.system.progress import console, track
from segkit.training.run_folder import RunFolder
from segkit.training.sweeps.folds import OutOfFold, best_of, find_folds

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
    is_other = "source" in cfg.data.model_fields_set
    if is_other and cfg.subset not in ("val", "all"):
        raise SegkitError(f"subset={cfg.subset} is a part of the checkpoint's own data; of other data all cases are judged")
    if cfg.masks is not None:
        return evaluate_masks(cfg, Path(cfg.masks).expanduser())
    if cfg.sweep is not None:
        return evaluate_sweep(cfg, cfg.sweep, is_other)
    best, ckpts = open_checkpoints(cfg)
    return evaluate_opened(cfg, best, ckpts, home_of(ckpts, best.card.config["name"]) / "evaluation")


def evaluate_sweep(cfg: Evaluate, sweep: str, is_other: bool) -> Result:
    """Each case of the cross-validation by the networks that did not see it; test cases and other data by all together.

    Of a sweep over more than folds each group by itself; the result is that of the best.
    """
    if not is_other and cfg.subset in ("train", "all"):
        raise SegkitError(f"subset={cfg.subset}: each fold has trained on other cases;   subset=val  judges all of them, out of fold")
    groups = find_folds(sweep, cfg.where, cfg.partial)
    load = opener(cfg.hardware, cfg.allow_targets, cfg.inference)
    results: dict[str, Result] = {}
    for folds in groups:
        best = OutOfFold(folds, load) if cfg.subset == "val" and not is_other else load(folds.ckpts)
        own = str(Path(cfg.output) / folds.name) if cfg.output and len(groups) > 1 else cfg.output
        results[folds.title] = evaluate_opened(cfg.model_copy(update={"output": own}), best, folds.ckpts, folds.home, folds.title)
    return results[best_of({title: result.summary for title, result in results.items()}, best.config.metric)]


def evaluate_opened(cfg: Evaluate, best: Predictor, ckpts: Sequence[Path], home: Path, about: str = "") -> Result:
    """`home`: where the folder of the part that is judged goes, unless `output` says otherwise."""
    given = cfg.data.model_dump(exclude_unset=True)
    is_other = "source" in given
    if cfg.metric is not None:
        best.config = best.config.model_copy(update={"metric": cfg.metric})
    # The cache is this machine's, never a place that a checkpoint names.
    manifest = examine(data_of(best.card, best.config.data, given), best.config.seed, cfg.allow_targets, cache_dir=CACHE)
    labels = labels_of(manifest.labels, best.labels)
    cases, sides = choose_cases(manifest, best.card, "other" if is_other else cfg.subset)
    part = f"{manifest.name}-{manifest.hash[:8]}" if is_other else cfg.subset
    folder = folder_of(cfg, home / part)
    judged = evaluate_cases(best, cases, labels, sides)
    if is_other and (absent := judged.table.absent):
        console.print(f"not judged, since no mask of this data shows them: {', '.join(absent)}", markup=False)
        judged = judged.without(absent, best.config.seed)
    if isinstance(best, Combination):
        tell_collisions(judged)
    name = str(best.card.config["name"])
    write_results(folder, judged, f"{name}, {about}" if about else name, manifest, best.config.metric)
    return Result(folder, judged.summary, ckpts[0])


def evaluate_masks(cfg: Evaluate, masks: Path) -> Result:
    """The same of masks that any program wrote, on the labelled cases of a data set."""
    data = Data.model_validate(cfg.data.model_dump())
    manifest = examine(data, 0, cfg.allow_targets, cache_dir=CACHE)
    of_cases = mask_files.find_masks(masks, manifest, data.source.get("orient", "LPS"), cfg.partial)
    name, cases = masks.absolute().name, [case for case in manifest if case.id in of_cases]
    folder = folder_of(cfg, Path("outputs") / "masks" / name / f"{manifest.name}-{manifest.hash[:8]}")
    files = mask_files.MaskFiles(mask_files.Rules(cfg.metric or mask_files.OVERLAP, cfg.allow_targets), manifest.labels, of_cases)
    judged = evaluate_cases(files, cases, manifest.labels, dict.fromkeys(of_cases, manifest.name))
    title = f"{name}, {len(cases)} of {len(manifest)} cases" if cfg.partial else name
    write_results(folder, judged, title, manifest, files.config.metric)
    return Result(folder, judged.summary, masks)


def predict(cfg: Predict) -> int:
    """Masks for new images, or for a part of them. Exit code 1 where an image could not be done."""
    check_writable(Path(cfg.output), ELSEWHERE)
    part = Part.named(cfg.part)
    alone = cfg.hardware.devices == 1
    done = predict_part(cfg, part, track) if alone else predict_side_by_side(predict_part, cfg, part)
    mine = done.written + done.skipped + len(done.problems)
    share = f"part {part}, {mine} of {done.of} images{'' if mine else ', nothing to do'}: " if part else ""
    skipped = f", {done.skipped} there already" if done.skipped else ""
    console.print(f"{share}{done.written} masks written to {cfg.output}{skipped}")
    if part and not done.merged:
        console.print(
            "tables are put together when all parts have ended;   the same command without part does what is missing", markup=False
        )
    for note in done.notes:
        console.print(f"note       {note.where}   {note.what}", markup=False)
    if done.problems:
        console.print(f"{len(done.problems)} images could not be done:")
        for problem in done.problems:
            console.print(f"  {problem.where}   {problem.what}")
    return 1 if done.problems else 0


def predict_part(cfg: Predict, part: Part | None, show: Show) -> Done:
    """By this process alone."""
    best, ckpts = open_checkpoints(cfg)
    if best.card.is_phantom:
        console.print("this checkpoint was trained on synthetic phantom data: its masks mean nothing on real images")
    output = Path(cfg.output)
    mine = claim(cfg, best, ckpts)
    wanted = jobs_.of_cases(cases_to_predict(cfg, best)) if cfg.input is None else jobs_.of_files(cfg.input, output)
    asked = Wanted(cfg.probabilities, cfg.overlays, cfg.overwrite, cfg.palette, tuple(cfg.formats))
    return predict_jobs(best, wanted, output, asked, lambda: occupy(cfg, mine), part, show)


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
    raise_errors(found.problems, before="prediction starts")
    return found.cases
