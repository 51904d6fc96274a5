"""Means over seeds and folds: what a setting of the other keys is worth, and how much of it is chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from segkit.training.sweeps.results import Sweep, Trial

REPEATS = ("seed", "split.fold", "split.seed")
"""Keys that repeat a setting instead of changing it."""


@dataclass(frozen=True)
class Setting:
    """The other keys of some finished trials; per objective their mean and standard deviation (n - 1; NaN of a single trial)."""

    keys: Mapping[str, str]
    means: tuple[float, ...]
    sds: tuple[float, ...]
    n: int


def repeats(sweep: Sweep) -> list[str]:
    return [key for key in REPEATS if key in sweep.keys]


def settings(sweep: Sweep) -> list[Setting]:
    """Best mean of the first objective first. Empty where no seeds or folds are among the keys, or none has repeated a setting yet."""
    if not repeats(sweep) or not sweep.objectives:
        return []
    groups: dict[tuple[str, ...], list[Trial]] = {}
    others = [key for key in sweep.keys if key not in REPEATS]
    for trial in sweep.of("finished"):
        groups.setdefault(tuple(trial.keys.get(key, "") for key in others), []).append(trial)
    found = [_setting(dict(zip(others, texts, strict=True)), trials) for texts, trials in groups.items()]
    if all(setting.n == 1 for setting in found):
        return []
    sign = -1 if next(iter(sweep.objectives.values())) == "max" else 1
    return sorted(found, key=lambda setting: sign * setting.means[0])


def _setting(keys: Mapping[str, str], trials: list[Trial]) -> Setting:
    values = np.array([trial.values for trial in trials])  # (n, objectives)
    sds = values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
    return Setting(keys, tuple(values.mean(0).tolist()), tuple(sds.tolist()), len(values))
