"""The recipe of a training: config -> data -> module -> trainer -> result."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from torch import nn

from segkit.config.schema import Train
from segkit.config.targets import find
from segkit.data.audit.audit import Prepared, prepare
from segkit.data.case import Manifest
from segkit.data.datamodule import SegmentationData, intensity_statistics
from segkit.data.dataset import naming_killed_workers
from segkit.data.overlays import samples
from segkit.data.phantoms.base import MARK
from segkit.inference import predictor
from segkit.inference.evaluation import (
    Evaluation,
    Result,
    check_volumes,
    evaluate_benchmark,
    evaluate_cases,
    find_benchmark,
    first_of,
    select_cases,
    write_results,
)
from segkit.inference.predictor import CheckpointPredictor
from segkit.metrics.summary import Summary
from segkit.models.metadata import Metadata
from segkit.system.environment import is_child, job_name
from segkit.system.errors import SegkitError
from segkit.system.files import CACHE, check_writable, write_text_atomic
from segkit.system.hardware import Hardware
from segkit.system.plain import read_json
from segkit.system.progress import console
from segkit.system.shell import override
from segkit.training.building import build_parts, check_monitor, make_metadata
from segkit.training.callbacks.checkpoints import link_or_copy
from segkit.training.callbacks.ending import Timer
from segkit.training.callbacks.logging import N_PICTURES
from segkit.training.callbacks.throughput import Throughput
from segkit.training.checks import check_sense, check_smallest_batch, mirrored
from segkit.training.distributed import end_with_parent, process_group
from segkit.training.loggers import ending_loggers, record_result
from segkit.training.memory import found_batch_size
from segkit.training.module import SegmentationModule
from segkit.training.own import build_datamodule, build_module, is_own_data, is_own_module, own_parts
from segkit.training.plots import curves
from segkit.training.report.report import leaving_report
from segkit.training.resuming import restoring, step_to_resume
from segkit.training.run_folder import TIME, RunFolder
from segkit.training.status import Interrupted, NonFinite, Pruned
from segkit.training.trainer import build_strategy, build_trainer, check_devices, check_trainer, prepare_network, wants_sync
from segkit.training.verdict import unmoved


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
        return Result(done.path, Summary.from_dict(read_json(done.path / "summary.json").get("results", {})), done.best)
    check_writable(Path(cfg.output_dir), "choose another  output_dir=FOLDER")
    cfg = with_absolute_root(cfg)
    resumed = joined(cfg) if is_child() and cfg.resume == "auto" else RunFolder.to_resume(cfg, overrides)
    cfg = resumed.continued(cfg, overrides) if resumed else cfg
    check_sense(cfg)
    asked = cfg.trainer
    hardware = Hardware.of_training(asked.accelerator, asked.precision, asked.threads, asked.devices, asked.num_nodes)
    check_devices(cfg, hardware)
    check_trainer(cfg, hardware)
    hardware.prepare_process()
    experiment = assemble(cfg, resumed, hardware)
    cfg = experiment.config
    run = resumed or RunFolder.create(cfg, overrides, run_dir)
    if is_child():
        with suppress(Interrupted, Pruned, NonFinite):  # the first process reports it
            fit(run, cfg, hardware, experiment)
        return Result(run.path, Summary(()), run.best)
    announce(run, cfg, experiment, hardware)
    with leaving_report(run.path) if cfg.report else nullcontext(), run.recording() as facts, ending_loggers(run):
        record_start(run, cfg, experiment, hardware)
        try:
            facts |= fit(run, cfg, hardware, experiment)
        except Pruned:
            record_result(run, cfg)
            raise
        except NonFinite:
            with suppress(Exception):  # the error is what counts
                draw_curves(run, cfg)
            raise
        return finish(run, cfg, hardware, experiment)


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


@dataclass(frozen=True)
class Experiment:
    """What is trained. `prepared` and `metadata`: None where segkit does not know the data, or not the network."""

    data: L.LightningDataModule
    module: L.LightningModule
    config: Train
    """The config, with what was found by trial in place of `auto`."""
    prepared: Prepared | None = None
    metadata: Metadata | None = None
    benchmark: Manifest | None = None

    @property
    def usual(self) -> dict[str, Any]:
        """Keywords of Lightning's Trainer where the config has null: own data are not dealt out yet, own modules were never tried."""
        return {"num_sanity_val_steps": 0 if self.is_ours else 2, "use_distributed_sampler": self.prepared is None}

    @property
    def is_ours(self) -> bool:
        """Whether its checkpoints can be evaluated and used by segkit: data and network are known."""
        return self.prepared is not None and isinstance(self.module, SegmentationModule)


def assemble(cfg: Train, resumed: RunFolder | None, hardware: Hardware) -> Experiment:
    """Read the data and build DataModule and LightningModule, segkit's or the user's own."""
    is_new = not (resumed and resumed.resume_from)
    if is_own_data(cfg) or is_own_module(cfg):
        L.seed_everything(cfg.seed, workers=True, verbose=False)
    if is_own_data(cfg):
        own = build_datamodule(cfg)
        parts = own_parts(cfg, own, hardware.precision, is_new)
        module = build_module(cfg, parts)
        return Experiment(own, module, cfg, metadata=parts.metadata if parts else None)
    prepared = prepare_data(cfg, resumed)
    if cfg.test and not prepared.split.test:
        raise SegkitError("test=true, but the split has no test cases;   add  split.test_fraction=0.2")
    benchmark = find_benchmark(cfg, prepared.manifest, prepared.statistics)
    seen = intensity_statistics(cfg, prepared)
    cfg = found_batch_size(cfg, prepared, seen, hardware)
    parts = build_parts(cfg, make_metadata(cfg, prepared, seen, hardware.precision), is_new)
    module = build_module(cfg, parts)
    data_class = find(cfg.data.target, cfg.allow_targets) if cfg.data.target else SegmentationData
    data = data_class(prepared, cfg, hardware.device, seen, **cfg.data.options)
    if isinstance(module, SegmentationModule):
        check_monitor(cfg, parts.metrics)
        check_smallest_batch(module.model, cfg, data, parts.metadata.channels, hardware.world)
    return Experiment(data, module, cfg, prepared, parts.metadata, benchmark)


def announce(run: RunFolder, cfg: Train, experiment: Experiment, hardware: Hardware) -> None:
    """Print data, hardware and notes before the training starts."""
    console.print(f"{'resuming' if run.resumed else 'run folder'} {run.path}")
    prepared = experiment.prepared
    if prepared is None:
        console.print(f"data       {cfg.data.target}: not audited, as segkit does not know what it reads", markup=False)
    else:
        split = prepared.split
        console.print(f"data       {len(split.train)} cases to train, {len(split.val)} to validate; {prepared.manifest.name}")
    if not experiment.is_ours:
        console.print("note       no cases.csv will be written: that needs segkit's own data and LightningModule")
    console.print(f"hardware   {hardware}")
    if prepared is None:
        return
    asked, n = cfg.data.images_per_step, len(prepared.split.train) // hardware.world
    if asked > n > 0 and not cfg.sampling.patch:
        console.print(f"note       data.batch_size={cfg.data.batch_size} is more than there are cases to train: {n} a step")
    for note in prepared.notes:
        console.print(f"note       {note.where}: {note.what}")
    for line in mirrored(cfg, prepared.manifest.labels):
        console.print(line, style="yellow", markup=False)


def record_start(run: RunFolder, cfg: Train, experiment: Experiment, hardware: Hardware) -> None:
    prepared, metadata = experiment.prepared, experiment.metadata
    own = {} if isinstance(experiment.module, SegmentationModule) else {"own_module": True}
    if prepared is None or metadata is None:
        run.write_provenance({"datamodule": cfg.data.target, **own}, str(hardware))
        return
    if not run.resumed or not (run.path / "split.json").exists():
        prepared.split.to_json(run.path / "split.json")
    manifest = prepared.manifest
    if manifest.is_phantom:
        write_text_atomic(
            run.path / MARK, f"Trained and evaluated on synthetic images in {metadata.data_root}: says nothing about patients.\n"
        )
    facts = {"fingerprint": metadata.data_fingerprint, "manifest": manifest.hash, "root": metadata.data_root}
    run.write_provenance({**facts, **own, "cases": len(manifest), "is_phantom": manifest.is_phantom}, str(hardware))


def fit(run: RunFolder, cfg: Train, hardware: Hardware, experiment: Experiment) -> dict[str, Any]:
    """Train to the end, or stop with a checkpoint and print how to resume. Returns what its status tells besides its state."""
    module, data = experiment.module, experiment.data
    n_train = len(data.train) if isinstance(data, SegmentationData) else 0
    network = module.model if isinstance(module, SegmentationModule) else module
    compiled = prepare_network(network, cfg, hardware, n_train, experiment.metadata)
    parameters = sum(p.numel() for p in network.parameters())
    layout = "channels last" if cfg.trainer.channels_last and network is not module else "channels first"
    console.print(f"network    {parameters:,} parameters, {layout}, {'compiled' if compiled else 'not compiled'}")
    step = step_of(run.resume_from, network, experiment) if run.resume_from else 0
    group = process_group(run.path, cfg.allow_targets, hardware.processes, hardware.threads, run.write_failure)
    datasets = (data.train, data.val) if isinstance(data, SegmentationData) else ()
    try:
        with group, naming_killed_workers(*datasets):
            strategy, sync = build_strategy(cfg, hardware, network, experiment.metadata), wants_sync(cfg, hardware, network)
            trainer = build_trainer(cfg, run, hardware, step, n_train, strategy, sync, experiment.usual)
            with restoring(run.resume_from, trainer):
                trainer.fit(module, data, ckpt_path=run.resume_from, weights_only=True)
            if cfg.test and not experiment.is_ours and cfg.trainer.keeps_checkpoints:
                trainer.test(module, data, ckpt_path=run.best if run.best.exists() else run.last, weights_only=True)
    except (Interrupted, SystemExit, KeyboardInterrupt) as stop:
        if not is_child():
            console.print(f"stopped; resume with   {run.how_to_resume(cfg.allow_targets)}", markup=False)
            with suppress(Exception):  # the checkpoint is what counts, and is written
                draw_unfinished(run, cfg, hardware, experiment, with_samples=isinstance(stop, Interrupted))
        raise Interrupted from None
    return {"parameters": parameters, **speed(trainer), **ended_by(trainer, run, cfg)}


def speed(trainer: L.Trainer) -> dict[str, float]:
    """For the status, where it was measured."""
    found = next((callback.images_per_second for callback in trainer.callbacks if isinstance(callback, Throughput)), None)  # type: ignore[attr-defined]
    return {} if found is None else {"images_per_second": round(found, 3)}


def step_of(last: Path, network: nn.Module, experiment: Experiment) -> int:
    """The step that a run continues from, once its checkpoint is checked."""
    config = experiment.metadata.config if experiment.metadata else None
    plans_one = type(experiment.module).configure_optimizers is SegmentationModule.configure_optimizers
    return step_to_resume(last, network, config, plans_one)


def ended_by(trainer: L.Trainer, run: RunFolder, cfg: Train) -> dict[str, str]:
    """For the status; prints how a run that its time limit has ended is trained on."""
    limit = next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)  # type: ignore[attr-defined]
    if limit is None or not limit.is_over or is_complete(trainer):
        return {}
    planned = f" of {trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
    said = f"time is over after {trainer.current_epoch}{planned} epochs ({TIME})"
    console.print(f"{said};   train for as long again with  {run.how_to_resume(cfg.allow_targets)}", markup=False)
    return {"ended_by": TIME}


def is_complete(trainer: L.Trainer) -> bool:
    """Whether all epochs or steps are done; -1, or no number, is no limit."""
    return 0 < (trainer.max_epochs or 0) <= trainer.current_epoch or 0 < trainer.max_steps <= trainer.global_step


def draw_unfinished(run: RunFolder, cfg: Train, hardware: Hardware, experiment: Experiment, with_samples: bool) -> None:
    """Figures of an unfinished run: its curves, and a few validation images with the masks of the latest checkpoint."""
    draw_curves(run, cfg)
    data = experiment.data
    if with_samples and run.last.exists() and experiment.is_ours and isinstance(data, SegmentationData):
        latest = predictor.load(run.last, cfg.trainer.accelerator, hardware.precision, cfg.trainer.threads, cfg.allow_targets)
        n = (cfg.callbacks.get("pictures") or {}).get("n_images", N_PICTURES)
        few = data.val.cases[:n]
        panels = evaluate_cases(latest, few, data.val.labels, {case.id: "val" for case in few}).panels
        samples(panels, data.val.labels, run.path / "samples.png", f"{cfg.name}, interrupted")


def finish(run: RunFolder, cfg: Train, hardware: Hardware, experiment: Experiment) -> Result:
    """Evaluate the best checkpoint as `segkit evaluate` does, and write tables and figures."""
    if not (run.best.exists() or run.last.exists()):
        return Result(run.path, Summary(()), run.best)
    if not run.best.exists():
        console.print("note       the training ended without a validation, so its last checkpoint is the best")
        link_or_copy(run.last, run.best)
    draw_curves(run, cfg)
    limit = cfg.trainer.limit_test_batches
    if experiment.prepared is None or not experiment.is_ours or limit == 0:
        record_result(run, cfg)
        return Result(run.path, Summary(()), run.best)
    best = predictor.load(run.best, cfg.trainer.accelerator, hardware.precision, cfg.trainer.threads, cfg.allow_targets)
    manifest, name = experiment.prepared.manifest, best.metadata.config["name"]
    evaluation = evaluate_subset(best, manifest, "val", limit)
    write_results(run.path, evaluation, name, manifest)
    if cfg.test:
        write_results(run.path / "test", evaluate_subset(best, manifest, "test", limit), f"{name}, test cases", manifest)
    if experiment.benchmark:
        evaluate_benchmark(best, experiment.benchmark, run.path, limit)
    for line in unmoved(run, cfg, evaluation.table):
        console.print(line, style="yellow", markup=False)
    record_result(run, cfg, evaluation.summary)
    return Result(run.path, evaluation.summary, run.best)


def evaluate_subset(best: CheckpointPredictor, manifest: Manifest, subset: str, limit: float | None) -> Evaluation:
    cases, subsets = select_cases(manifest, best.metadata, subset)
    return evaluate_cases(best, first_of(cases, limit), manifest.labels, subsets)


def draw_curves(run: RunFolder, cfg: Train) -> None:
    if cfg.report and (run.path / "metrics.csv").exists():
        curves(run.path / "metrics.csv", run.path / "curves.png", cfg.metric.monitor, cfg.metric.mode)
