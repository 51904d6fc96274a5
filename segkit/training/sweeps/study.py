"""The study of a sweep: claims trials, tells how they ended, and takes up again what was killed or failed.

A trial that is taken up again is a new entry in the study with the parameters, reports and folder of the old one; `first` is the
number of the oldest, and only the latest attempt counts.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from optuna import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from segkit.training.sweeps.names import trial_name
from segkit.training.sweeps.outcome import Outcome, read_outcome
from segkit.training.sweeps.samplers import build_sampler
from segkit.training.sweeps.settings import Settings
from segkit.training.sweeps.space import Space
from segkit.training.sweeps.storage import locked, try_lock

STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
JOB_LOCK = ".job.lock"
"""Held in a trial's folder by the job that a launcher runs, which may outlive the parent that holds the folder's own lock."""
GRACE_SECONDS = 10
"""A trial in a shared database may belong to a machine that has not yet said so."""


@dataclass(frozen=True)
class Claim:
    """A trial that this process is to run. Its folder's lock is held by `lock` here, and by the process forked to run it.

    `first` is the number that people see, `number` that of this attempt.
    """

    number: int
    first: int
    id: int
    overrides: dict[str, str]
    folder: Path
    lock: IO[str]


def first(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("first", trial.number))


def latest(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The attempt of each trial that counts, in the order in which they were first made."""
    return sorted({first(t): t for t in sorted(trials, key=lambda t: t.number)}.values(), key=first)


class Ledger:
    """`place` is the name of the folder among all of the world: see `opening.open_folder`."""

    def __init__(self, study: Study, folder: Path, place: str, space: Space, settings: Settings, objectives: dict[str, str]) -> None:
        self.study, self.folder, self.place, self.space, self.settings = study, folder, place, space, settings
        self.objectives = objectives
        assert settings.n_trials is not None  # see Settings.of
        self.n_trials = settings.n_trials

    def trials(self) -> list[FrozenTrial]:
        return latest(self.study.get_trials(deepcopy=False))

    def take_up(self) -> int:
        """What has failed is to run once more; how many these are. None while others are at work: they would all take it up."""
        with locked(self.folder / "lock"):
            self._find_dead()
            ours = [t for t in self.trials() if self._is_ours(t)]
            if any(t.state is TrialState.RUNNING for t in ours):
                return 0
            failed = [t for t in ours if t.state is TrialState.FAIL]
            again = {t.user_attrs.get("folder", t.number): t for t in failed if self._outcome(t) is None}  # equal trials share a folder
            settled = [t for t in failed if (outcome := self._outcome(t)) and outcome.state != "failed"]
            for trial in [*again.values(), *settled]:
                self._enqueue(trial)
            return len(again)

    def claim(self) -> Claim | None:
        """The next trial; None where all have been claimed."""
        with locked(self.folder / "lock"):
            self._find_dead()
            trials = self.study.get_trials(deepcopy=False)
            if len(latest(trials)) >= self.n_trials and not any(t.state is TrialState.WAITING for t in trials):
                return None
            return self._ask(latest(trials))

    def running_beside(self, mine: Sequence[int]) -> int:
        """Trials in our folder that other parents, or their orphans, are running on this machine."""
        here = (t for t in self.trials() if t.state is TrialState.RUNNING and t.user_attrs.get("host") in (None, socket.gethostname()))
        return sum(self._is_ours(t) and t.number not in mine for t in here)

    def settle(self, number: int, outcome: Outcome) -> None:
        if outcome.reason:
            self.study._storage.set_trial_user_attr(self._id(number), "reason", outcome.reason)
        self.study.tell(number, outcome.values or None, STATES[outcome.state])

    # --- inside the lock ----------------------------------------------------------------------------------------------

    def _ask(self, before: Sequence[FrozenTrial]) -> Claim:
        self.study.sampler = build_sampler(self.settings, self.space, len(before))
        trial = self.study.ask()
        own = trial.user_attrs.get("first", trial.number)
        # the draw follows from the trial itself, whoever asks at the same time, or is killed here and drawn again
        place = len({first(t) for t in self.study.get_trials(deepcopy=False) if first(t) < own})
        self.study.sampler = build_sampler(self.settings, self.space, place)
        overrides = self.space.suggest(trial)
        known = trial.user_attrs.get("folder")
        name = known or self._free_name(overrides, trial.number, before)
        (self.folder / name).mkdir(exist_ok=True)
        # the loader processes of a training that was killed outlive it by a few seconds
        lock = try_lock(self.folder / name / ".lock", seconds=15 if known else 1)
        if lock is None:  # the same values again, at the same time
            name = f"{name}_trial{trial.number}"
            (self.folder / name).mkdir(exist_ok=True)
            lock = try_lock(self.folder / name / ".lock")
        assert lock is not None
        for key, value in {"folder": name, "place": self.place, "host": socket.gethostname(), "overrides": overrides}.items():
            trial.set_user_attr(key, value)
        return Claim(trial.number, trial.user_attrs.get("first", trial.number), trial._trial_id, overrides, self.folder / name, lock)

    def _free_name(self, overrides: dict[str, str], number: int, others: Sequence[FrozenTrial]) -> str:
        """Trials of exactly the same values share a folder, and so its result."""
        name = trial_name(overrides, number)
        taken = any(t.user_attrs.get("folder") == name and t.user_attrs.get("overrides") != overrides for t in others)
        return f"{name}_trial{number}" if taken else name

    def _find_dead(self) -> None:
        """Trials that nobody works on any more: their folder says how they ended, or they run once more."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._is_ours(trial):
                continue
            name = trial.user_attrs.get("folder")
            lock = try_lock(self.folder / name / ".lock") if name else None
            if name and (lock is None or self.is_at_work(name)):
                continue
            outcome = self._outcome(trial)
            self.settle(trial.number, outcome or Outcome("failed", reason="killed"))
            if outcome is None:
                self._enqueue(trial)
            if lock:
                lock.close()

    def is_at_work(self, name: str) -> bool:
        """A launcher's job, whose parent is gone."""
        path = self.folder / name / JOB_LOCK
        lock = try_lock(path) if path.exists() else None
        if lock:
            lock.close()
        return path.exists() and lock is None

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """Made in this folder; other machines may share the database but not the folder."""
        place = trial.user_attrs.get("place")
        if place is None and self.settings.storage is not None:
            started = trial.datetime_start
            return started is not None and (datetime.now(started.tzinfo) - started).total_seconds() > GRACE_SECONDS
        return place in (None, self.place)

    def _outcome(self, trial: FrozenTrial) -> Outcome | None:
        name = trial.user_attrs.get("folder")
        return read_outcome(self.folder / name, self.objectives) if name else None

    def _enqueue(self, trial: FrozenTrial) -> None:
        kept = {key: value for key, value in trial.user_attrs.items() if key in ("folder", "overrides", "place")}
        again = create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**kept, "first": first(trial)},
            system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values,
        )
        self.study.add_trial(again)

    def _id(self, number: int) -> int:
        return self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
