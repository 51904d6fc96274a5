"""`segkit evaluate`: the scores of a checkpoint, an ensemble, a cross-validation, or masks on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from segkit.cli.checkpoints import check_output, load_checkpoints, load_predictor
from segkit.config.commands import Evaluate
from segkit.config.schema import Data
from segkit.data.audit.audit import load_labelled
from segkit.inference.ensemble import Combination
from segkit.inference.evaluation import (
    Result,
    checkpoint_data,
    evaluate_cases,
    match_labels,
    report_collisions,
    select_cases,
    write_results,
)
from segkit.inference.mask_files import OVERLAP, MaskFiles, Rules, find_masks
from segkit.inference.predictor import Predictor
from segkit.system.errors import SegkitError
from segkit.system.files import cache_folder
from segkit.system.progress import console
from segkit.training.sweeps.folds import OutOfFold, best_of, find_folds


def evaluate(cfg: Evaluate) -> Result:
    """Write the per-case table of a checkpoint on a subset of its own data, or on all cases of another data set."""
    is_other = "source" in cfg.data.model_fields_set
    if is_other and cfg.subset not in ("val", "all"):
        raise SegkitError(f"subset={cfg.subset} is a subset of the checkpoint's own data; of another data set all cases are evaluated")
    if cfg.masks is not None:
        return evaluate_masks(cfg, Path(cfg.masks).expanduser())
    if cfg.sweep is not None:
        return evaluate_sweep(cfg, cfg.sweep, is_other)
    predictor, ckpts = load_predictor(cfg)
    return evaluate_predictor(cfg, predictor, ckpts, default_folder(ckpts, predictor.metadata.config["name"]) / "evaluation")


def evaluate_sweep(cfg: Evaluate, sweep: str, is_other: bool) -> Result:
    """Evaluate each case of a cross-validation by the networks that were not trained on it; test cases and other data by all of them.

    In a sweep over more than folds each combination of the other keys is evaluated; the result is that of the best.
    """
    if not is_other and cfg.subset in ("train", "all"):
        raise SegkitError(f"subset={cfg.subset}: each fold was trained on other cases;   subset=val  evaluates all of them, out of fold")
    groups, load = find_folds(sweep, cfg.where, cfg.partial), partial(load_checkpoints, cfg)
    results: dict[str, Result] = {}
    for folds in groups:
        predictor = OutOfFold(folds, load) if cfg.subset == "val" and not is_other else load(folds.ckpts)
        output = str(Path(cfg.output) / folds.name) if cfg.output and len(groups) > 1 else cfg.output
        own = cfg.model_copy(update={"output": output})
        results[folds.title] = evaluate_predictor(own, predictor, folds.ckpts, folds.home, folds.title)
    return results[best_of({title: result.summary for title, result in results.items()}, cfg.metric or predictor.config.metric)]


def evaluate_predictor(cfg: Evaluate, predictor: Predictor, ckpts: Sequence[Path], home: Path, title: str = "") -> Result:
    """`home`: parent of the folder that is written, unless `output` names one."""
    given, metadata, config = cfg.data.model_dump(exclude_unset=True), predictor.metadata, predictor.config
    is_other = "source" in given
    # The cache is this machine's, never a place that a checkpoint names.
    manifest = load_labelled(checkpoint_data(metadata, config.data, given), config.seed, cfg.allow_targets, cache_dir=cache_folder())
    labels = match_labels(manifest.labels, predictor.labels)
    cases, subsets = select_cases(manifest, metadata, "other" if is_other else cfg.subset)
    if not is_other and metadata.split.get("manifest_hash", "") not in ("", manifest.hash):
        console.print("note       the data have changed since the training: files came, went, or have another size")
    folder = output_folder(cfg, home / (f"{manifest.name}-{manifest.hash[:8]}" if is_other else cfg.subset))
    evaluation = evaluate_cases(predictor, cases, labels, subsets, cfg.metric)
    if is_other:
        evaluation = evaluation.without_absent("this data", config.seed)
    if isinstance(predictor, Combination):
        report_collisions(evaluation)
    name = str(metadata.config["name"])
    write_results(folder, evaluation, f"{name}, {title}" if title else name, manifest, cfg.metric or config.metric)
    return Result(folder, evaluation.summary, ckpts[0])


def evaluate_masks(cfg: Evaluate, folder: Path) -> Result:
    """Evaluate masks that any program wrote, on the labelled cases of a data set."""
    data = Data.model_validate(cfg.data.model_dump(exclude_none=True))
    manifest = load_labelled(data, 0, cfg.allow_targets, cache_dir=cache_folder())
    masks = find_masks(folder, manifest, data.source.get("orient", "LPS"), cfg.partial)
    name, cases = folder.absolute().name, [case for case in manifest if case.id in masks]
    output = output_folder(cfg, Path("outputs") / "masks" / name / f"{manifest.name}-{manifest.hash[:8]}")
    files = MaskFiles(Rules(cfg.metric or OVERLAP, cfg.allow_targets), manifest.labels, masks)
    evaluation = evaluate_cases(files, cases, manifest.labels, dict.fromkeys(masks, manifest.name))
    title = f"{name}, {len(cases)} of {len(manifest)} cases" if cfg.partial else name
    write_results(output, evaluation, title, manifest, files.config.metric)
    return Result(output, evaluation.summary, folder)


def output_folder(cfg: Evaluate, default: Path) -> Path:
    """Where the tables go; checked to be writable before hours are spent on them."""
    folder = Path(cfg.output) if cfg.output else default
    check_output(folder)
    return folder


def default_folder(ckpts: Sequence[Path], name: str) -> Path:
    """The run folder of a checkpoint; for several, or one from elsewhere, a folder in outputs."""
    runs = [ckpt.parent.parent for ckpt in ckpts if ckpt.parent.name == "checkpoints"]
    if len(ckpts) == 1:
        return runs[0] if runs else Path("outputs") / name
    return Path("outputs") / "together" / "+".join(run.name for run in runs or [ckpt.with_suffix("") for ckpt in ckpts])[:120]
