"""The trial that this process is, as its training sees it: reports its score after each validation, and asks whether to stop.

Handed on in the environment, so that the further processes of a training on several devices know it as well.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna import Trial

from segkit.system.environment import TRIAL


@dataclass(frozen=True)
class RunningTrial:
    """`id` is the storage's own; `objectives` are the names that the sweep asks for. `pruner` none: nothing is reported."""

    storage: str | None
    folder: str
    study: str
    id: int
    objectives: tuple[str, ...]
    pruner: str
    startup_trials: int
    warmup_epochs: int
    max_epochs: int

    def announce(self) -> None:
        os.environ[TRIAL] = json.dumps(asdict(self))

    @property
    def is_judged(self) -> bool:
        return self.pruner != "none"

    def report(self, epochs: int, score: float) -> bool:
        """Whether the pruner gives the trial up after so many epochs. What was reported before, by a process that was killed, stands."""
        trial = self._trial
        if epochs not in trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(score, epochs)
        return trial.should_prune()

    @cached_property
    def _trial(self) -> Trial:
        """Opened in this process: no connection survives a fork. The sampler is one that stores nothing."""
        import optuna

        from segkit.training.sweeps.samplers import build_pruner
        from segkit.training.sweeps.storage import open_storage

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        pruner = build_pruner(self.pruner, self.startup_trials, self.warmup_epochs, self.max_epochs)
        storage = open_storage(self.storage, Path(self.folder))
        study = optuna.load_study(study_name=self.study, storage=storage, sampler=optuna.samplers.RandomSampler(), pruner=pruner)
        return optuna.Trial(study, self.id)


def current() -> RunningTrial | None:
    """None outside of a sweep."""
    text = os.environ.get(TRIAL)
    if text is None:
        return None
    content = json.loads(text)
    return RunningTrial(**{**content, "objectives": tuple(content["objectives"])})
