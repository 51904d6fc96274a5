"""Samplers, which propose the next trial, and pruners, which stop unpromising ones.

TPE: Bergstra et al., 2011. CMA-ES: Hansen and Ostermeier, 2001. ASHA: Li et al., 2018. Hyperband: Li et al., 2017.
"""

from __future__ import annotations

import numpy as np
from optuna import pruners, samplers

from segkit.training.sweeps.space import Settings, Space


def build_sampler(settings: Settings, space: Space, n_before: int) -> samplers.BaseSampler:
    """The sampler for one draw, seeded by the sweep's seed and `n_before`, the number of earlier trials: a resumed sweep repeats none."""
    seed = int(np.random.SeedSequence((settings.seed, n_before)).generate_state(1)[0])
    match settings.sampler:
        case "tpe":
            return samplers.TPESampler(n_startup_trials=settings.startup_trials, seed=seed)
        case "random":
            return samplers.RandomSampler(seed=seed)
        case "grid":
            grid = space.combinations()
            # Optuna's grid sampler takes combinations in random order. Beyond the last: requeued trials, which have their values
            return samplers.PartialFixedSampler(grid[n_before % len(grid)], samplers.RandomSampler(seed=seed))
        case "cmaes":
            return samplers.CmaEsSampler(n_startup_trials=settings.startup_trials, seed=seed, warn_independent_sampling=False)
    raise ValueError(settings.sampler)


def build_pruner(name: str, startup_trials: int, warmup_epochs: int, max_epochs: int) -> pruners.BasePruner:
    """The pruner of a name, with steps in epochs; see conf/hydra/sweeper/optuna.yaml."""
    match name:
        case "median":
            return pruners.MedianPruner(startup_trials, warmup_epochs)
        case "asha":
            return pruners.SuccessiveHalvingPruner(min_resource=warmup_epochs, reduction_factor=3)
        case "hyperband":
            return pruners.HyperbandPruner(min_resource=warmup_epochs, max_resource=max_epochs, reduction_factor=3)
    return pruners.NopPruner()
