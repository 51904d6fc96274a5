"""What `segkit train -m` starts: Hydra hands over the overrides of a multirun, every trial is one of its jobs.

Imported at every start (see plugin/): what is heavy waits until there is something to search.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import run_job
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from segkit.system.errors import SegkitError

if TYPE_CHECKING:
    from segkit.training.sweeps.narrator import Narrator
    from segkit.training.sweeps.settings import Settings
    from segkit.training.sweeps.space import Space
    from segkit.training.sweeps.study import Claim, Ledger
    from segkit.training.trial import RunningTrial

WARM = ("segkit.training.train",)
"""What trials need, imported once, before the first fork. Nothing in it may start threads or touch a GPU when imported."""


class OptunaSweeper(Sweeper):
    """Its keys are those of conf/hydra/sweeper/optuna.yaml, read from the whole config."""

    def __init__(self, **keys: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.cfg = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Returns when no trial is left; raises `TrialsFailed` where some have failed."""
        from segkit.config import sweeps
        from segkit.training.sweeps.settings import read_settings
        from segkit.training.sweeps.space import read_space

        settings = read_settings(OmegaConf.to_container(self.cfg.hydra.sweeper, resolve=True))  # type: ignore[arg-type]
        listed = [sweeps.as_typed(key, value) for key, value in (settings.params or {}).items()]
        space = read_space([*listed, *arguments], settings.when or {}, self.context.config_loader)
        self._search(settings.of(space), space)

    def _search(self, settings: Settings, space: Space) -> None:
        from segkit.training.sweeps.narrator import Narrator
        from segkit.training.sweeps.opening import open_folder, open_study, shared
        from segkit.training.sweeps.samplers import build_pruner, check_sampler
        from segkit.training.sweeps.storage import open_storage
        from segkit.training.sweeps.study import Ledger

        check_sampler(settings)
        self._check_root()
        space = replace(space, shared=shared(self._config(), space))
        objectives = dict(settings.objectives or {self.cfg.metric.monitor: self.cfg.metric.mode})
        self.name = self.experiment(space)
        folder = self.folder(space, objectives)
        storage = open_storage(settings.storage, folder)
        study_name = f"{self.name}/{folder.name}"
        place = open_folder(folder, space, objectives, study_name, settings.storage)
        pruner = build_pruner(settings.pruner, settings.startup_trials, settings.warmup_epochs, self.cfg.trainer.max_epochs)
        study = open_study(storage, study_name, space, objectives, pruner)
        ledger = Ledger(study, folder, place, space, settings, objectives)
        narrator = Narrator(ledger)
        narrator.begin(ledger.take_up(), self.engine)
        try:
            self._run(ledger, narrator, study_name)
        finally:
            draw(folder, settings.storage)
        narrator.end()

    def _config(self) -> Any:
        config = OmegaConf.masked_copy(self.cfg, [str(key) for key in self.cfg if key != "hydra"])
        return OmegaConf.to_container(config, resolve=True)

    def _check_root(self) -> None:
        """Told once, and not by each trial."""
        root = self.cfg.data.root
        if root is not None and not Path(root).expanduser().exists():
            raise SegkitError(f"data.root={root}: no such folder")

    def _run(self, ledger: Ledger, narrator: Narrator, study: str) -> None:
        """By a pool of forked processes; or by the launcher that is chosen."""
        fail_fast = self.cfg.sweep.fail_fast
        if self.engine is None:
            self._run_here(ledger, narrator, study, fail_fast)
            return
        from segkit.training.sweeps.launched import Batches

        def of(claim: Claim) -> tuple[RunningTrial, list[str]]:
            return self.trial(claim, ledger, study), [*ledger.space.fixed, *values(claim), *self.place(claim)]

        settings = ledger.settings
        size = ledger.n_trials if settings.sampler in ("grid", "random") else settings.n_jobs
        with read_write(self.cfg), open_dict(self.cfg):
            self.cfg.hydra.sweep.dir = str(ledger.folder)
        Batches(ledger, of, narrator.tell, size, fail_fast, self.context, self.task, self.cfg).run()

    def _run_here(self, ledger: Ledger, narrator: Narrator, study: str, fail_fast: bool) -> None:
        from segkit.training.sweeps.workers import Pool

        if not hasattr(os, "fork"):
            raise SegkitError("a sweep forks its trials, which this system cannot;   use  hydra/launcher=joblib,  WSL, Linux or macOS")
        for module in WARM:
            importlib.import_module(module)

        def job(claim: Claim) -> None:
            self.trial(claim, ledger, study).announce()
            self.run(claim, ledger.space.fixed)

        Pool(ledger, job, narrator.tell, ledger.settings.n_jobs, fail_fast).run()

    @property
    def engine(self) -> str | None:
        chosen = self.cfg.hydra.runtime.choices.get("hydra/launcher")
        return None if chosen == "basic" else chosen

    def experiment(self, space: Space) -> str:
        """The experiment folder; trials of several experiments or data sets have one in common."""
        if self.cfg.name:
            return str(self.cfg.name)
        choices = self.cfg.hydra.runtime.choices
        mixed = any(parameter.key in ("experiment", "data") for parameter in space.parameters)
        return "several" if mixed else str(choices.get("experiment") or choices.data)

    def folder(self, space: Space, objectives: Mapping[str, str]) -> Path:
        """outputs/EXPERIMENT/sweeps/NAME. Without a name, that of the search; else of the keys that are varied, with a number where
        another sweep has that already.
        """
        from segkit.training.run_folder import read_json
        from segkit.training.sweeps.names import short_keys
        from segkit.training.sweeps.opening import differences, identity

        home = Path(self.cfg.output_dir, self.name, "sweeps")
        if name := self.cfg.sweep.name or self.cfg.hydra.runtime.choices.get("hparams_search"):
            return home / str(name)
        keys = "-".join(short_keys([parameter.key for parameter in space.parameters]).values())[:80]
        wanted = identity(space, objectives)
        names = (home / (keys if number == 1 else f"{keys}-{number}") for number in count(1))
        return next(path for path in names if not (known := read_json(path / "sweep.json")) or not differences(known, wanted))

    def trial(self, claim: Claim, ledger: Ledger, study: str) -> RunningTrial:
        from segkit.training.trial import RunningTrial

        settings = ledger.settings
        return RunningTrial(
            storage=settings.storage,
            folder=str(claim.folder.parent),
            study=study,
            id=claim.id,
            objectives=tuple(ledger.objectives),
            pruner=settings.pruner,
            startup_trials=settings.startup_trials,
            warmup_epochs=settings.warmup_epochs,
            max_epochs=self.cfg.trainer.max_epochs,
        )

    def place(self, claim: Claim) -> list[str]:
        """Overrides that have a training live in its trial's folder, and go on with what is there."""
        run = claim.folder.relative_to(Path(self.cfg.output_dir, self.name))
        where = {"name": self.name, "run": run, "hydra.sweep.dir": claim.folder.parent, "hydra.sweep.subdir": claim.folder.name}
        quoted = {key: QuotedString(str(value), Quote.single).with_quotes() for key, value in where.items()}
        return [*(f"{key}={value}" for key, value in quoted.items()), "resume=auto"]

    # --- in the trial's process -----------------------------------------------------------------------------------------

    def run(self, claim: Claim, fixed: Sequence[str]) -> None:
        """As a job of Hydra's; what it raises is raised here."""
        config = self.context.config_loader.load_sweep_config(self.cfg, [*fixed, *values(claim), *self.place(claim)])
        with read_write(config), open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(claim.number), claim.number
        done = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        _ = done.return_value  # raises what the job raised


def draw(folder: Path, storage: str | None) -> None:
    """The table and pictures of `segkit sweep show`. They must not cost a sweep its end."""
    from segkit.training.sweeps.narrator import say
    from segkit.training.sweeps.pictures import draw_sweep

    try:
        draw_sweep(folder, storage)
        say(f"page       {folder / 'sweep.html'}")
    except Exception as error:
        say(f"the sweep could not be drawn: {type(error).__name__}: {error};   segkit sweep show {folder}")


def values(claim: Claim) -> list[str]:
    return [f"{key}={text}" for key, text in claim.overrides.items()]
