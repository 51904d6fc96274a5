"""`hydra/sweeper=optuna`: Hydra hands over the overrides of a multirun, every trial is one of its jobs.

Imported at every start (see plugin/): what is heavy waits until there is something to search.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import run_job
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from segkit.errors import SegkitError

if TYPE_CHECKING:
    from segkit.sweep.ledger import Claim
    from segkit.sweep.settings import Settings
    from segkit.sweep.space import Space

WARM = ("segkit.run",)
"""What trials need, imported once, before the first fork. Nothing in it may start threads or touch a GPU when imported."""


class OptunaSweeper(Sweeper):
    """Its keys are those of conf/hydra/sweeper/optuna.yaml, read from the whole config."""

    def __init__(self, **keys: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.cfg = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Returns when no trial is left; raises `TrialsFailed` where some have failed."""
        from segkit.sweep.settings import read_settings
        from segkit.sweep.space import read_space

        self._check_place()
        settings = read_settings(OmegaConf.to_container(self.cfg.hydra.sweeper, resolve=True))  # type: ignore[arg-type]
        listed = [f"{key}={value}" for key, value in (settings.params or {}).items()]
        space = read_space([*listed, *arguments], settings.when or {}, self.context.config_loader)
        self._search(settings, space)

    def _search(self, settings: Settings, space: Space) -> None:
        from segkit.sweep.ledger import Ledger
        from segkit.sweep.narrator import Narrator
        from segkit.sweep.opening import open_folder, open_study
        from segkit.sweep.pool import Pool
        from segkit.sweep.samplers import build_pruner, check_sampler
        from segkit.sweep.storage import open_storage

        check_sampler(settings, space)
        folder = self.folder(space)
        objectives = dict(settings.objectives or {self.cfg.metric.monitor: self.cfg.metric.mode})
        storage = open_storage(settings.storage, folder)
        place = open_folder(folder, space, objectives)
        pruner = build_pruner(settings.pruner, settings.startup_trials, settings.warmup_epochs, self.cfg.trainer.max_epochs)
        name = f"{self.experiment}/{folder.name}"
        study = open_study(storage, name, space, objectives, pruner)
        ledger = Ledger(study, folder, place, space, settings, objectives)
        narrator = Narrator(ledger)
        narrator.begin(ledger.take_up())
        for module in WARM:
            importlib.import_module(module)

        def job(claim: Claim) -> None:
            self.announce(claim, settings, objectives, name)
            self.run(claim, space.fixed)

        Pool(ledger, job, narrator.tell, settings.n_jobs, self.cfg.sweep.fail_fast).run()
        narrator.end()

    @property
    def experiment(self) -> str:
        choices = self.cfg.hydra.runtime.choices
        return str(self.cfg.name or choices.get("experiment") or choices.data)

    def folder(self, space: Space) -> Path:
        """outputs/<experiment>/sweeps/<name>; without a name, that of the search or of the keys that are searched."""
        from segkit.sweep.names import short_keys

        keys = short_keys([parameter.key for parameter in space.parameters])
        name = self.cfg.sweep.name or self.cfg.hydra.runtime.choices.get("hparams_search") or "-".join(keys.values())[:80]
        return Path(self.cfg.output_dir, self.experiment, "sweeps", name)

    def _check_place(self) -> None:
        if not hasattr(os, "fork"):
            raise SegkitError("hydra/sweeper=optuna forks its trials, which this system cannot;   use Linux (WSL) or macOS")
        chosen = self.cfg.hydra.runtime.choices.get("hydra/launcher")
        if chosen not in (None, "basic"):
            raise SegkitError(
                f"hydra/launcher={chosen}: optuna starts its trials itself, hydra.sweeper.n_jobs at a time;\n"
                "  for more machines start the same command on each of them: they share the sweep"
            )

    # --- in the trial's process -----------------------------------------------------------------------------------------

    def announce(self, claim: Claim, settings: Settings, objectives: Mapping[str, str], study: str) -> None:
        from segkit.sweep.trial import RunningTrial

        RunningTrial(
            storage=settings.storage,
            folder=str(claim.folder.parent),
            study=study,
            id=claim.id,
            objectives=tuple(objectives),
            pruner=settings.pruner,
            startup_trials=settings.startup_trials,
            warmup_epochs=settings.warmup_epochs,
            max_epochs=self.cfg.trainer.max_epochs,
        ).announce()

    def run(self, claim: Claim, fixed: Sequence[str]) -> None:
        """As a job of Hydra's; what it raises is raised here."""
        overrides = [*fixed, *(f"{key}={text}" for key, text in claim.overrides.items())]
        config = self.context.config_loader.load_sweep_config(self.cfg, overrides)
        with read_write(config), open_dict(config):
            config.name = self.experiment
            config.run = str(claim.folder.relative_to(Path(config.output_dir, self.experiment)))
            config.resume = "auto"
            config.hydra.sweep.dir, config.hydra.sweep.subdir = str(claim.folder.parent), claim.folder.name
            config.hydra.job.id, config.hydra.job.num = str(claim.number), claim.number
        done = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        _ = done.return_value  # raises what the job raised
