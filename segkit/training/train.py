"""The recipe of a training: config -> data -> module -> trainer -> result."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from segkit.config.schema import Train
from segkit.config.targets import instantiate, keywords_of
from segkit.data.audit.audit import Prepared, prepare
from segkit.data.case import Manifest
from segkit.data.datamodule import SegmentationData, intensity_statistics
from segkit.data.dataset import naming_killed_workers
from segkit.data.labels import LabelMap, sided
from segkit.data.overlays import samples
from segkit.data.phantoms.base import MARK
from segkit.data.statistics import data_fingerprint
from segkit.inference import predictor
from segkit.inference.evaluation import (
    Result,
    build_metrics,
    check_volumes,
    evaluate_benchmark,
    evaluate_cases,
    find_benchmark,
    select_cases,
    write_results,
)
from segkit.losses import IgnoreGuard, WeightedLoss
from segkit.metrics.base import known_as
from segkit.metrics.summary import Summary
from segkit.models import checkpoint
from segkit.models.checkpoint import build_model
from segkit.models.metadata import Metadata
from segkit.system.environment import is_child, job_name, versions
from segkit.system.errors import SegkitError, nearest
from segkit.system.files import CACHE, check_writable, write_text_atomic
from segkit.system.hardware import Hardware
from segkit.system.plain import read_json
from segkit.system.progress import console
from segkit.system.shell import override
from segkit.training.callbacks.checkpoints import link_or_copy
from segkit.training.callbacks.ending import Timer
from segkit.training.callbacks.logging import N_PICTURES, record_hparams
from segkit.training.checks import check_sense, check_size, check_smallest_batch
from segkit.training.distributed import end_with_parent, process_group
from segkit.training.module import SegmentationModule
from segkit.training.optim import freeze
from segkit.training.plots import curves
from segkit.training.report.report import leaving_report
from segkit.training.resuming import restoring, step_to_resume
from segkit.training.run_folder import TIME, RunFolder
from segkit.training.status import Interrupted, NonFinite, Pruned
from segkit.training.trainer import build_strategy, build_trainer, check_devices, prepare_network, wants_sync
from segkit.training.verdict import unmoved

MIRRORS = frozenset({"HorizontalFlip", "VerticalFlip", "D4", "SquareSymmetry", "Transpose"})


def train(cfg: Train, overrides: Sequence[str] = (), run_dir: Path | None = None) -> Result:
    """Train one experiment and leave a complete run folder.

    The folder holds config, split, provenance, checkpoints, metrics.csv, cases.csv, summary.json and figures. Killed or stopped, the
    run continues with `resume`. In further processes of the same training (DDP) nothing is printed or written.

    Args:
        cfg: The validated config; `segkit.compose("train", [...])` makes one.
        overrides: The overrides that led to it, kept in the run folder.
        run_dir: The run folder, where it does not follow from the config (a trial of a sweep).

    Returns:
        The run folder, the summary of its validation cases and the best checkpoint.

    Raises:
        SegkitError: The config, the data or the hardware does not allow this training.
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is written.
        Pruned: The sweep around this run has stopped it.
        NonFinite: A loss, gradient, weight or probability is NaN or infinite.
    """
    console.quiet |= is_child()
    end_with_parent()
    cfg = named_after_job(cfg)
    if done := RunFolder.finished(cfg):
        console.print(f"{done.path} is finished already;   segkit evaluate {override('ckpt', str(done.path))}")
        return Result(done.path, Summary.from_dict(read_json(done.path / "summary.json")["results"]), done.best)
    check_writable(Path(cfg.output_dir), "choose another  output_dir=FOLDER")
    cfg = with_absolute_root(cfg)
    resumed = joined(cfg) if is_child() and cfg.resume == "auto" else RunFolder.to_resume(cfg, overrides)
    cfg = resumed.continued(cfg, overrides) if resumed and cfg.resume != "auto" else cfg  # `auto` has found the same config
    check_sense(cfg)
    asked = cfg.trainer
    hardware = Hardware.of_training(asked.accelerator, asked.precision, asked.threads, asked.devices, asked.num_nodes)
    check_devices(cfg, hardware)
    hardware.prepare_process()
    prepared = prepare_data(cfg, resumed)
    benchmark = find_benchmark(cfg, prepared.manifest, prepared.statistics)
    metadata = make_metadata(cfg, prepared, hardware)
    module = build_module(cfg, metadata, is_new=not (resumed and resumed.resume_from))
    data = SegmentationData(prepared, cfg, hardware.device, metadata.intensity_max)
    check_smallest_batch(module.model, cfg, data, metadata.channels, hardware.world)
    run = resumed or RunFolder.create(cfg, overrides, run_dir)
    if is_child():
        with suppress(Interrupted, Pruned, NonFinite):  # the first process reports it
            fit(run, cfg, hardware, module, data)
        return Result(run.path, Summary(()), run.best)
    announce(run, cfg, prepared, hardware)
    with leaving_report(run.path), run.recording() as facts:
        record_start(run, prepared, metadata, hardware)
        try:
            facts |= fit(run, cfg, hardware, module, data)
        except Pruned:
            if cfg.logger.get("tensorboard"):
                record_hparams(run, cfg)
            raise
        except NonFinite:
            with suppress(Exception):  # the error is what counts
                draw_curves(run, cfg)
            raise
        return finish(run, cfg, hardware, prepared, benchmark)


def named_after_job(cfg: Train) -> Train:
    """Name the run after the job: all its processes meet in one folder, and a job that is queued again finds its own."""
    if cfg.run is None and cfg.resume in (None, "auto") and (name := job_name()):
        return cfg.model_copy(update={"run": name})
    return cfg


def joined(cfg: Train) -> RunFolder | None:
    """The run folder that a further process of torchrun or srun resumes with the first one.

    No checkpoint is written before the process group exists, so all processes find the same one.
    """
    path = Path(cfg.output_dir) / str(cfg.name) / str(cfg.run)
    return RunFolder(path, resumed=True) if (path / "config.yaml").exists() else None


def with_absolute_root(cfg: Train) -> Train:
    """Make data.root absolute, so that the run can be resumed and evaluated from any folder."""
    root = cfg.data.root and str(Path(cfg.data.root).expanduser().absolute())
    return cfg.model_copy(update={"data": cfg.data.model_copy(update={"root": root})})


def prepare_data(cfg: Train, resumed: RunFolder | None) -> Prepared:
    """Audit and split the data; a resumed run keeps its split."""
    split = cfg.split
    if resumed and (resumed.path / "split.json").exists():
        split = split.model_copy(update={"kind": "file", "path": str(resumed.path / "split.json")})
    prepared = prepare(cfg.data, split, cfg.seed, cfg.allow_targets, cache_dir=Path(cfg.output_dir) / CACHE.name)
    if any(cfg.metric.volumes.values()):
        check_volumes(prepared.manifest)
    return prepared


def make_metadata(cfg: Train, prepared: Prepared, hardware: Hardware) -> Metadata:
    seen = intensity_statistics(cfg, prepared)
    manifest = prepared.manifest
    return Metadata(
        config=cfg.model_dump(mode="json"),
        labels=manifest.labels.as_dict(),
        dims=manifest.dims,
        channels=len(seen.mean),
        intensity_max=seen.intensity_max,
        mean=seen.mean,
        sd=seen.sd,
        split=asdict(prepared.split),
        data_root=str(manifest.root.resolve()),
        data_fingerprint=data_fingerprint(prepared.statistics),
        is_phantom=manifest.is_phantom,
        precision=hardware.precision,
        versions=versions(),
        dtypes=seen.dtypes,
    )


def build_module(cfg: Train, metadata: Metadata, is_new: bool = True) -> SegmentationModule:
    """Build network, loss and metrics. Weights depend on the seed alone, unless they come from `init_from` or a checkpoint."""
    for seed_all in (random.seed, np.random.seed, torch.manual_seed):
        seed_all(cfg.seed)
    model = build_model(metadata, cfg.allow_targets, is_new and cfg.init_from is None, cfg)
    if cfg.init_from and is_new:
        fresh = checkpoint.init_weights(model, checkpoint.find(cfg.init_from, "init_from"), metadata.label_map().classes)
        console.print(f"weights from {cfg.init_from}" + (f"; newly initialized: {', '.join(fresh)}" if fresh else ""))
    check_size(model, cfg, metadata)
    freeze(model.network, cfg.freeze)
    metrics = build_metrics(cfg.metric.cases, cfg.allow_targets)
    measured = ["loss", *(statistic.name for metric in metrics.values() for statistic in metric.statistics)]
    if known_as(cfg.metric.monitor.split("/")[0], measured) not in measured:
        hint = nearest(cfg.metric.monitor, measured) or f"available: {', '.join(measured)}"
        raise SegkitError(f"metric.monitor={cfg.metric.monitor} is not measured;   {hint}")
    module = SegmentationModule(model, build_loss(cfg, metadata.label_map()), metrics, cfg, metadata)
    module.build_optimizer()  # what it refuses is found before there is a run folder
    return module


def build_loss(cfg: Train, labels: LabelMap) -> WeightedLoss:
    """Build the parts of the loss. A part with a keyword `mode` handles the ignored label 255 itself; others are guarded."""
    known = {"mode": labels.mode, "classes": labels.classes}
    parts = {}
    for name, node in cfg.loss.parts.items():
        if node is not None:
            taken = keywords_of(str(node["_target_"]), cfg.allow_targets, training=True)
            part = instantiate(node, allow=cfg.allow_targets, training=True, **{key: known[key] for key in known if key in taken})
            parts[name] = part if "mode" in taken else IgnoreGuard(part, name)
    for name in cfg.loss.weights:
        if name not in cfg.loss.parts:
            raise SegkitError(f"loss.weights.{name}: not a part of the loss; {nearest(name, parts) or 'available: ' + ', '.join(parts)}")
    return WeightedLoss(parts, cfg.loss.weights, labels.mode, cfg.loss.deep_supervision)


def announce(run: RunFolder, cfg: Train, prepared: Prepared, hardware: Hardware) -> None:
    """Print data, hardware and notes before the training starts."""
    split = prepared.split
    console.print(f"{'resuming' if run.resumed else 'run folder'} {run.path}")
    console.print(f"data       {len(split.train)} cases to train, {len(split.val)} to validate; {prepared.manifest.name}")
    console.print(f"hardware   {hardware}")
    for note in prepared.notes:
        console.print(f"note       {note.where}: {note.what}")
    for line in mirrored(cfg, prepared.manifest.labels):
        console.print(line, style="yellow", markup=False)


def mirrored(cfg: Train, labels: LabelMap) -> list[str]:
    """A warning if augmentation mirrors structures that have a side."""
    name = sided(labels.classes)
    mirrors = [key for key, node in cfg.augment.transforms.items() if node and str(node["_target_"]).rpartition(".")[2] in MIRRORS]
    if not name or not mirrors:
        return []
    off = "  ".join(f"augment.transforms.{key}=null" for key in mirrors)
    return [f"warning    class {name} has a side, but augmentation mirrors the images;   add  {off}"]


def record_start(run: RunFolder, prepared: Prepared, metadata: Metadata, hardware: Hardware) -> None:
    if not run.resumed or not (run.path / "split.json").exists():
        prepared.split.to_json(run.path / "split.json")
    manifest = prepared.manifest
    if manifest.is_phantom:
        write_text_atomic(
            run.path / MARK, f"Trained and evaluated on synthetic images in {metadata.data_root}: says nothing about patients.\n"
        )
    facts = {"fingerprint": metadata.data_fingerprint, "manifest": manifest.hash, "root": metadata.data_root}
    run.write_provenance({**facts, "cases": len(manifest), "is_phantom": manifest.is_phantom}, str(hardware))


def fit(run: RunFolder, cfg: Train, hardware: Hardware, module: SegmentationModule, data: SegmentationData) -> dict[str, Any]:
    """Train to the end, or stop with a checkpoint and print how to resume. Returns what its status tells besides its state."""
    n_train = len(data.train)
    compiled = prepare_network(module.model, cfg, hardware, module.metadata.channels, n_train, module.metadata.dims)
    parameters = sum(p.numel() for p in module.model.parameters())
    layout = "channels last" if cfg.trainer.channels_last else "channels first"
    console.print(f"network    {parameters:,} parameters, {layout}, {'compiled' if compiled else 'not compiled'}")
    step = step_to_resume(run.resume_from, module.model, module.metadata.config) if run.resume_from else 0
    group = process_group(run.path, cfg.allow_targets, hardware.processes, hardware.threads, run.write_failure)
    try:
        with group, naming_killed_workers(data.train, data.val):
            strategy, sync = build_strategy(cfg, hardware, module.model, module.metadata.channels), wants_sync(cfg, hardware, module.model)
            trainer = build_trainer(cfg, run, hardware, step, n_train, strategy, sync)
            with restoring(run.resume_from, trainer):
                trainer.fit(module, data, ckpt_path=run.resume_from, weights_only=True)
    except (Interrupted, SystemExit, KeyboardInterrupt) as stop:
        if not is_child():
            console.print(f"stopped; resume with   {run.how_to_resume(cfg)}", markup=False)
            with suppress(Exception):  # the checkpoint is what counts, and is written
                draw_unfinished(run, cfg, hardware, data, with_samples=isinstance(stop, Interrupted))
        raise Interrupted from None
    return {"parameters": parameters, **ended_by(trainer, run, cfg)}


def ended_by(trainer: L.Trainer, run: RunFolder, cfg: Train) -> dict[str, str]:
    """For the status; prints how a run that its time limit has ended is trained on."""
    limit = next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)  # type: ignore[attr-defined]
    if limit is None or not limit.is_over or trainer.current_epoch >= (trainer.max_epochs or 0):
        return {}
    said = f"time is over after {trainer.current_epoch} of {trainer.max_epochs} epochs ({TIME})"
    console.print(f"{said};   train for as long again with  {run.how_to_resume(cfg)}", markup=False)
    return {"ended_by": TIME}


def draw_unfinished(run: RunFolder, cfg: Train, hardware: Hardware, data: SegmentationData, with_samples: bool) -> None:
    """Figures of an unfinished run: its curves, and a few validation images with the masks of the latest checkpoint."""
    draw_curves(run, cfg)
    if with_samples and run.last.exists():
        latest = predictor.load(run.last, cfg.trainer.accelerator, hardware.precision, cfg.trainer.threads, cfg.allow_targets)
        n = (cfg.callbacks.get("pictures") or {}).get("n_images", N_PICTURES)
        few = data.val.cases[:n]
        panels = evaluate_cases(latest, few, data.val.labels, {case.id: "val" for case in few}).panels
        samples(panels, data.val.labels, run.path / "samples.png", f"{cfg.name}, interrupted")


def finish(run: RunFolder, cfg: Train, hardware: Hardware, prepared: Prepared, benchmark: Manifest | None) -> Result:
    """Evaluate the best checkpoint as `segkit evaluate` does, and write tables and figures."""
    if not run.best.exists():
        console.print("note       the training ended without a validation, so its last checkpoint is the best")
        link_or_copy(run.last, run.best)
    best = predictor.load(run.best, cfg.trainer.accelerator, hardware.precision, cfg.trainer.threads, cfg.allow_targets)
    cases, subsets = select_cases(prepared.manifest, best.metadata, "val")
    evaluation = evaluate_cases(best, cases, prepared.manifest.labels, subsets)
    write_results(run.path, evaluation, best.metadata.config["name"], prepared.manifest)
    if benchmark:
        evaluate_benchmark(best, benchmark, run.path)
    draw_curves(run, cfg)
    for line in unmoved(run, cfg, evaluation.table):
        console.print(line, style="yellow", markup=False)
    if cfg.logger.get("tensorboard"):
        record_hparams(run, cfg, evaluation.summary)
    return Result(run.path, evaluation.summary, run.best)


def draw_curves(run: RunFolder, cfg: Train) -> None:
    if (run.path / "metrics.csv").exists():
        curves(run.path / "metrics.csv", run.path / "curves.png", cfg.metric.monitor, cfg.metric.mode)
