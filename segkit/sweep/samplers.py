"""Who proposes the next trial, and who stops hopeless ones.

TPE: Bergstra et al., 2011. CMA-ES: Hansen and Ostermeier, 2001. ASHA: Li et al., 2018. Hyperband: Li et al., 2017.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from optuna import pruners, samplers

from segkit.errors import SegkitError
from segkit.sweep.settings import Settings
from segkit.sweep.space import Space


class Grid(samplers.GridSampler):
    """How many trials there are, the ledger decides; Optuna's own would stop a loop that is not there."""

    def after_trial(self, *args: Any, **kwargs: Any) -> None:
        pass


def build_sampler(settings: Settings, space: Space, n_before: int) -> samplers.BaseSampler:
    """A function of the seed and of the number of trials before, so that a sweep taken up again does not repeat its draws."""
    seed = int(np.random.SeedSequence((settings.seed, n_before)).generate_state(1)[0])
    match settings.sampler:
        case "tpe":
            return samplers.TPESampler(n_startup_trials=settings.startup_trials, seed=seed)
        case "random":
            return samplers.RandomSampler(seed=seed)
        case "grid":
            return Grid(space.grid(), seed=settings.seed)
        case "cmaes":
            return samplers.CmaEsSampler(n_startup_trials=settings.startup_trials, seed=seed, warn_independent_sampling=False)


def check_sampler(settings: Settings, space: Space) -> None:
    if settings.sampler == "grid":
        space.grid()
    if settings.sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise SegkitError("hydra.sweeper.sampler=cmaes needs the package cmaes;   pip install 'segkit[sweep]'")
    if settings.sampler == "cmaes" and len(settings.objectives or ()) > 1:
        raise SegkitError("hydra.sweeper.sampler=cmaes knows one objective;   use  hydra.sweeper.sampler=tpe")


def build_pruner(name: str, startup_trials: int, warmup_epochs: int, max_epochs: int) -> pruners.BasePruner:
    """Steps are epochs."""
    match name:
        case "median":
            return pruners.MedianPruner(startup_trials, warmup_epochs)
        case "asha":
            return pruners.SuccessiveHalvingPruner(min_resource=warmup_epochs, reduction_factor=3)
        case "hyperband":
            return pruners.HyperbandPruner(min_resource=warmup_epochs, max_resource=max_epochs, reduction_factor=3)
    return pruners.NopPruner()
