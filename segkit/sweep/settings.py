"""What `hydra.sweeper` may say with `hydra/sweeper=optuna`; conf/hydra/sweeper/optuna.yaml explains each key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from segkit.config import words
from segkit.config.schema import Positive, Strict
from segkit.errors import Problem, ProblemsFound

SAMPLERS = ("tpe", "random", "grid", "cmaes")


class Settings(Strict):
    params: dict[str, Any] | None
    when: dict[str, str] | None
    objectives: Annotated[dict[str, Literal["max", "min"]], Field(min_length=1)] | None
    sampler: Literal["tpe", "random", "grid", "cmaes"]
    n_trials: Positive
    n_jobs: Positive
    startup_trials: Annotated[int, Field(ge=0)]
    pruner: Literal["none", "median", "asha", "hyperband"]
    warmup_epochs: Positive
    storage: str | None
    seed: Annotated[int, Field(ge=0)]


def read_settings(node: Mapping[str, Any]) -> Settings:
    """Raises `ProblemsFound`."""
    settings, problems = words.fit(Settings, {key: value for key, value in node.items() if key != "_target_"})
    if settings is None:
        raise ProblemsFound(replace(problem, where=f"hydra.sweeper.{problem.where}") for problem in problems)
    if settings.pruner != "none" and len(settings.objectives or ()) > 1:
        what = "judges one objective, and there are several"
        raise ProblemsFound([Problem("hydra.sweeper.pruner", what, "write  hydra.sweeper.pruner=none")])
    return settings
