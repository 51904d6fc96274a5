"""What `hydra.sweeper` may say with `hydra/sweeper=optuna`; conf/hydra/sweeper/optuna.yaml explains each key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from segkit.config import messages
from segkit.config.schema import Positive, Strict
from segkit.system.addresses import absolute
from segkit.system.errors import Problem, ProblemsFound

if TYPE_CHECKING:
    from segkit.training.sweeps.space import Space

N_TRIALS = 20


class Settings(Strict):
    params: dict[str, Any] | None
    when: dict[str, str] | None
    objectives: Annotated[dict[str, Literal["max", "min"]], Field(min_length=1)] | None
    sampler: Literal["auto", "tpe", "random", "grid", "cmaes"]
    n_trials: Positive | None
    n_jobs: Positive
    startup_trials: Annotated[int, Field(ge=0)]
    pruner: Literal["none", "median", "asha", "hyperband"]
    warmup_epochs: Positive
    storage: Annotated[str | None, AfterValidator(absolute)]
    seed: Annotated[int, Field(ge=0)]

    def of(self, space: Space) -> Settings:
        """Sampler and number of trials as they come out for a space: what can be listed is run through, as in any multirun of Hydra's.

        Raises `ProblemsFound` for a grid of what cannot be listed, or is too long to be run through.
        """
        listed = self.sampler == "grid" or (self.sampler == "auto" and self.n_trials is None and space.is_listed())
        most = space.size() if listed else self.n_trials or N_TRIALS
        sampler = "grid" if listed else "tpe" if self.sampler == "auto" else self.sampler
        return self.model_copy(update={"sampler": sampler, "n_trials": min(self.n_trials or most, most)})


def read_settings(node: Mapping[str, Any]) -> Settings:
    """Raises `ProblemsFound`."""
    settings, problems = messages.fit(Settings, {key: value for key, value in node.items() if key != "_target_"})
    if settings is None:
        raise ProblemsFound(replace(problem, where=f"hydra.sweeper.{problem.where}") for problem in problems)
    if settings.pruner != "none" and len(settings.objectives or ()) > 1:
        what = "judges one objective, and there are several"
        raise ProblemsFound([Problem("hydra.sweeper.pruner", what, "write  hydra.sweeper.pruner=none")])
    return settings
