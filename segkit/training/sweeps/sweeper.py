"""The sweep of `segkit train -m`: Hydra hands over the overrides of a multirun (see plugin/), and every trial is a Hydra job."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from segkit.config.compose import plain
from segkit.config.overrides import as_typed
from segkit.system.errors import DiskFull, SegkitError
from segkit.system.files import is_full
from segkit.system.plain import read_json
from segkit.system.progress import console
from segkit.training.config_hash import PLACE_KEYS, flat, is_below
from segkit.training.sweeps.names import clean, short_keys
from segkit.training.sweeps.results import read_sweep
from segkit.training.sweeps.samplers import build_pruner
from segkit.training.sweeps.space import Settings, Space, read_settings, read_space
from segkit.training.sweeps.storage import differences, identity, open_folder, open_storage, open_study
from segkit.training.sweeps.study import Attempt, Outcome, SweepStudy
from segkit.training.sweeps.ties import tie_line

if TYPE_CHECKING:
    from segkit.training.callbacks.pruning import RunningTrial
    from segkit.training.sweeps.workers import Runner

WARM = ("segkit.training.train",)
"""Imported once before the first fork, for all trials. These modules must not start threads or touch a GPU when imported."""


class TrialsFailed(SegkitError):
    """Trials of the sweep have failed: it ran to its end, or with `sweep.fail_fast=true` to the first failure."""

    exit_code = 1


class Multirun:
    """Runs a multirun as an Optuna study."""

    def __init__(self, context: HydraContext, task: TaskFunction, cfg: DictConfig) -> None:
        self.context, self.task, self.cfg = context, task, cfg
        with read_write(cfg), open_dict(cfg):
            cfg.output_dir = os.path.expanduser(cfg.output_dir)  # noqa: PTH111  as the schema does it for one run
        launcher = cfg.hydra.runtime.choices.get("hydra/launcher")
        self.launcher = None if launcher == "basic" else launcher

    def run(self, arguments: list[str]) -> None:
        """Run trials until none is left. Raises `TrialsFailed` where some have failed."""
        settings = read_settings(OmegaConf.to_container(self.cfg.hydra.sweeper, resolve=True))  # type: ignore[arg-type]
        listed = [as_typed(key, value) for key, value in (settings.params or {}).items()]
        space = read_space([*listed, *arguments], settings.when or {}, self.context.config_loader)
        settings = settings.resolved(space)
        root = self.cfg.data.get("root")
        if root is not None and not Path(root).expanduser().exists():  # once, not by every trial
            raise SegkitError(f"data.root={root}: no such folder")
        config = OmegaConf.masked_copy(self.cfg, [str(key) for key in self.cfg if key != "hydra"])
        space = replace(space, shared=shared_config(plain(config, (), []), space))  # what is known of a job alone is None
        self.study = self._study(settings, space, dict(settings.objectives or {self.cfg.metric.monitor: self.cfg.metric.mode}))
        self._announce(self.study.requeue_failed())
        try:
            self._runner().run()
        except OSError as error:  # of the study's journal
            if not is_full(error, self.study.folder):
                raise
            raise DiskFull.in_sweep(self.study.folder) from error
        finally:
            draw(self.study.folder, settings.storage)
        self._summarize()

    def _study(self, settings: Settings, space: Space, objectives: dict[str, str]) -> SweepStudy:
        self.name = self._experiment(space)
        folder = self._folder(space, objectives)
        storage, name = open_storage(settings.storage, folder), f"{self.name}/{folder.name}"
        is_known = (folder / "sweep.json").exists()
        folder_id = open_folder(folder, space, objectives, name, settings.storage)
        self.pruner = (settings.pruner, settings.startup_trials, settings.warmup_epochs, self.cfg.trainer.max_epochs)
        study = open_study(storage, name, space, objectives, build_pruner(*self.pruner), is_known)
        return SweepStudy(study, folder, folder_id, space, settings, objectives)

    def _runner(self) -> Runner:
        """Forked processes, or the launcher that is chosen."""
        from segkit.training.sweeps.workers import ForkedWorkers, LauncherBatches

        settings = self.study.settings
        common: dict[str, Any] = {"study": self.study, "report": self._report, "fail_fast": self.cfg.sweep.fail_fast}
        if self.launcher:
            size = self.study.n_trials if settings.sampler in ("grid", "random") else settings.n_jobs
            with read_write(self.cfg), open_dict(self.cfg):
                self.cfg.hydra.sweep.dir = str(self.study.folder)
            return LauncherBatches(**common, launch=self._launch, size=size)
        if not hasattr(os, "fork"):
            raise SegkitError("a sweep forks its trials, which this system cannot;   use  hydra/launcher=joblib,  WSL, Linux or macOS")
        for module in WARM:
            importlib.import_module(module)
        return ForkedWorkers(**common, job=self._train, n_jobs=settings.n_jobs)

    def _experiment(self, space: Space) -> str:
        """The experiment folder; trials of several experiments or data sets share one."""
        if self.cfg.name:
            return str(self.cfg.name)
        choices = self.cfg.hydra.runtime.choices
        mixed = any(parameter.key in ("experiment", "data") for parameter in space.parameters)
        return "several" if mixed else str(choices.get("experiment") or choices.data)

    def _folder(self, space: Space, objectives: Mapping[str, str]) -> Path:
        """outputs/EXPERIMENT/sweeps/NAME. Without `sweep.name`, NAME is that of the search, else the varied keys, numbered where another
        sweep has this name already.
        """
        home = Path(self.cfg.output_dir, self.name, "sweeps")
        if name := self.cfg.sweep.name or self.cfg.hydra.runtime.choices.get("hparams_search"):
            return home / str(name)
        keys = "-".join(short_keys([parameter.key for parameter in space.parameters]).values())[:80]
        wanted = identity(space, objectives)
        names = (home / (keys if number == 1 else f"{keys}-{number}") for number in count(1))
        return next(path for path in names if not (known := read_json(path / "sweep.json")) or not differences(known, wanted))

    # --- trials -------------------------------------------------------------------------------------------------------

    def _trial(self, attempt: Attempt) -> RunningTrial:
        from segkit.training.callbacks.pruning import RunningTrial

        home, storage = str(attempt.folder.parent), self.study.settings.storage
        return RunningTrial(storage, home, self.study.study.study_name, attempt.id, tuple(self.study.objectives), self.pruner)

    def _overrides(self, attempt: Attempt) -> list[str]:
        """The overrides of a trial; the last ones put its training into the trial's folder, and have it resume what is there."""
        run = attempt.folder.relative_to(Path(self.cfg.output_dir, self.name))
        where = {"output_dir": self.cfg.output_dir, "name": self.name, "run": run}
        where |= {"hydra.sweep.dir": attempt.folder.parent, "hydra.sweep.subdir": attempt.folder.name}
        quoted = {key: QuotedString(str(value), Quote.single).with_quotes() for key, value in where.items()}
        place = [f"{key}={value}" for key, value in quoted.items()]
        return [*self.study.space.fixed, *attempt.values, *place, "resume=auto"]

    def _launch(self, attempts: Sequence[Attempt]) -> None:
        """Run trials by the launcher until all have ended."""
        from segkit.training.sweeps.workers import LaunchedJob

        job = LaunchedJob(self.task, {str(attempt.folder): self._trial(attempt) for attempt in attempts})
        launcher = Plugins.instance().instantiate_launcher(hydra_context=self.context, task_function=job, config=self.cfg)
        launcher.launch([self._overrides(attempt) for attempt in attempts], initial_job_idx=attempts[0].number)

    def _train(self, attempt: Attempt) -> None:
        """In the trial's process: run it as a Hydra job, raising what it raises."""
        self._trial(attempt).announce()
        config = self.context.config_loader.load_sweep_config(self.cfg, self._overrides(attempt))
        with read_write(config), open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(attempt.number), attempt.number
        done = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        _ = done.return_value  # raises what the job has raised

    # --- what is printed ----------------------------------------------------------------------------------------------

    def _announce(self, n_failed: int) -> None:
        settings, folder = self.study.settings, self.study.folder
        sweep = read_sweep(folder, settings.storage)
        known = [*([sweep.counts] if sweep.trials else []), *([f"{n_failed} to run once more"] if n_failed else [])]
        pruning = "" if settings.pruner == "none" else f", {settings.pruner} pruning"
        how = f"by {self.launcher}" if self.launcher else f"{settings.n_jobs} at a time"
        say(f"sweep      {folder}")
        say("; ".join([f"trials     {self.study.n_trials}, {how}", f"{settings.sampler}{pruning}", *known]))

    def _report(self, attempt: Attempt, outcome: Outcome, seconds: float | None) -> None:
        """One line a trial."""
        values = "  ".join(f"{name} {value:.4g}" for name, value in zip(self.study.objectives, outcome.values, strict=False))
        what = values or (f"failed: {outcome.reason}" if outcome.state == "failed" else outcome.state)
        short = short_keys([parameter.key for parameter in self.study.space.parameters])
        given = " ".join(f"{short[key]}={clean(text)}" for key, text in attempt.overrides.items())
        say(f"trial {attempt.first:<4} {what}   {given}" + ("" if seconds is None else f"   {seconds:.0f} s"))

    def _summarize(self) -> None:
        """Print the best trial. Raises `TrialsFailed` with every failure and its folder."""
        sweep = read_sweep(self.study.folder, self.study.settings.storage)
        say(f"finished   {sweep.counts}")
        if sweep.ranked and len(sweep.objectives) == 1:
            best = sweep.ranked[0]
            say(f"best       {next(iter(sweep.objectives))} {best.values[0]:.4g}   {best.path}")
            if tie := tie_line(sweep):
                say(f"tie        {tie}")
        if failed := sweep.of("failed"):
            headline = f"{len(failed)} of {self.study.n_trials} trials failed;   the same command runs those once more that did not end"
            raise TrialsFailed("\n".join([headline, *(f"  trial {t.number}   {t.reason};   {t.path}" for t in failed)]))


def say(text: str) -> None:
    console.print(text, markup=False)


def draw(folder: Path, storage: str | None) -> None:
    """Write the table and figures of `segkit sweep show`; what goes wrong here must not fail the sweep."""
    from segkit.training.sweeps.plots import draw_sweep

    try:
        draw_sweep(read_sweep(folder, storage))
        say(f"page       {folder / 'sweep.html'}")
    except Exception as error:
        say(f"the sweep could not be drawn: {type(error).__name__}: {error};   segkit sweep show {folder}")


def shared_config(config: Mapping[str, Any], space: Space) -> dict[str, str]:
    """The config of a sweep by dotted key, without keys that its trials vary, and keys that say where they run."""
    varied = tuple(parameter.key.lstrip("+").replace("/", ".") for parameter in space.parameters)
    found = {key: str(value) for key, value in flat(config) if not is_below(key, (*varied, *PLACE_KEYS, "name", "hydra"))}
    if root := config["data"].get("root"):
        found["data.root"] = str(Path(root).expanduser().absolute())
    return found
