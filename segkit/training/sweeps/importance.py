"""Which keys matter: PED-ANOVA, Watanabe et al., IJCAI 2023 (fANOVA would need scikit-learn)."""

from __future__ import annotations

import math
import warnings

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from segkit.training.sweeps.results import Sweep, Trial

FEWEST = 10
"""Finished trials below which the order of the keys would be chance."""
TOP = 5
"""Best trials whose values are compared with those of all; more where these are less than a tenth."""


def importance(sweep: Sweep, objective: int) -> dict[str, float]:
    """Key -> share, the greatest first, of the finished trials alone. Empty where it would mean nothing: few trials, one key, all equal."""
    finished = [trial for trial in sweep.of("finished") if len(trial.values) > objective and math.isfinite(trial.values[objective])]
    varied = [key for key in sweep.keys if len({trial.keys.get(key) for trial in finished}) > 1]
    if len(finished) < FEWEST or len(varied) < 2 or len({trial.values[objective] for trial in finished}) < 2:
        return {}
    mode = list(sweep.objectives.values())[objective]
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    axes = {key: _distribution(sweep, key) for key in varied}
    for trial in finished:
        chosen = {key: axis for key, axis in axes.items() if key in trial.keys}
        params = {key: _param(trial, key, axis) for key, axis in chosen.items()}
        study.add_trial(create_trial(params=params, distributions=chosen, value=trial.values[objective]))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, n_top(len(finished)) / len(finished)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = get_param_importances(study, evaluator=evaluator)
    return dict(sorted(shares.items(), key=lambda item: -item[1])) if any(shares.values()) else {}


def n_top(n: int) -> int:
    return max(TOP, math.ceil(n / 10))


def _distribution(sweep: Sweep, key: str) -> BaseDistribution:
    """As searched; the texts where a study does not say."""
    known = {trial.distributions.get(key) for trial in sweep.trials if key in trial.keys}
    one = known.pop() if len(known) == 1 else None
    if one is None or isinstance(one, CategoricalDistribution):
        return CategoricalDistribution(sorted({trial.keys[key] for trial in sweep.trials if key in trial.keys}))
    return one


def _param(trial: Trial, key: str, axis: BaseDistribution) -> str | float:
    return trial.keys[key] if isinstance(axis, CategoricalDistribution) else float(trial.keys[key])


def importances(sweep: Sweep) -> dict[str, dict[str, float]]:
    """Objective -> key -> share; without objectives of which there is nothing to say."""
    found = {name: importance(sweep, i) for i, name in enumerate(sweep.objectives)}
    return {name: shares for name, shares in found.items() if shares}
