"""The trial of a sweep as its training sees it: it reports the score of each validation, and stops where the pruner gives it up."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L

if TYPE_CHECKING:
    from optuna import Trial

from segkit.metrics.base import known_as
from segkit.system.environment import TRIAL
from segkit.system.progress import console
from segkit.training.callbacks.checkpoints import on_any_process
from segkit.training.callbacks.ending import is_last_epoch
from segkit.training.status import Pruned


@dataclass(frozen=True)
class RunningTrial:
    """Passed on in the environment, so that the further processes of a training on several devices know it as well."""

    storage: str | None
    folder: str
    """The sweep's."""
    study: str
    id: int
    """The storage's own."""
    objectives: Sequence[str]
    pruner: Sequence[Any]
    """The arguments of `build_pruner`, the name first; with `none` nothing is reported."""

    @classmethod
    def current(cls) -> RunningTrial | None:
        """The trial that this process belongs to; None outside of a sweep."""
        text = os.environ.get(TRIAL)
        return None if text is None else cls(**json.loads(text))

    def announce(self) -> None:
        os.environ[TRIAL] = json.dumps(asdict(self))

    def report(self, epochs: int, score: float) -> bool:
        """Whether the pruner gives the trial up after so many epochs. An earlier report, by a process that was killed, stands."""
        trial = self._trial
        if epochs not in trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(score, epochs)
        return trial.should_prune()

    @cached_property
    def _trial(self) -> Trial:
        """Opened in this process: no connection survives a fork. The sampler is one that stores nothing."""
        import optuna

        from segkit.training.sweeps.samplers import build_pruner
        from segkit.training.sweeps.storage import open_storage, quiet

        quiet()
        storage, sampler = open_storage(self.storage, Path(self.folder)), optuna.samplers.RandomSampler()
        study = optuna.load_study(study_name=self.study, storage=storage, sampler=sampler, pruner=build_pruner(*self.pruner))
        return optuna.Trial(study, self.id)


class Pruning(L.Callback):
    """Raises `Pruned` at the end of an epoch, once its row is written, and before its checkpoint is: Lightning runs `Checkpoint`s last.

    The first process asks the pruner, and all stop together. The last epoch is not pruned: there is nothing left to save.
    """

    def __init__(self, monitor: str, trial: RunningTrial) -> None:
        self.monitor, self.trial = monitor, trial
        self._score: float | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._score = float(trainer.callback_metrics[known_as(f"val/{self.monitor}", trainer.callback_metrics)])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        score, self._score = self._score, None
        if score is None:
            return
        pruned = trainer.is_global_zero and self._report(trainer.current_epoch + 1, score)
        if on_any_process(trainer, pruned) and not is_last_epoch(trainer):
            raise Pruned(f"pruned after epoch {trainer.current_epoch}: {self.monitor} {score:.4f}")

    def _report(self, epochs: int, score: float) -> bool:
        """Whether to prune. A storage that cannot be reached for a moment must not end the training."""
        try:
            return self.trial.report(epochs, score)
        except Exception as error:  # whatever a database raises
            console.print(f"epoch {epochs} could not be reported to the study: {error}", markup=False)
            return False
