"""The study of a sweep: hands out trials, records how they ended, and requeues those that were killed or failed.

A requeued trial is a new entry in the study with the parameters, reports and folder of the old one: another attempt at the same trial.
`first` is the number of a trial's first attempt, and only its latest attempt counts.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Literal

from optuna import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from segkit.metrics.base import known_as
from segkit.system.errors import SegkitError, nearest
from segkit.system.locks import is_locked, locked, try_lock
from segkit.system.plain import read_json
from segkit.training.plots import best_row, read_columns
from segkit.training.sweeps.names import trial_name
from segkit.training.sweeps.samplers import build_sampler
from segkit.training.sweeps.space import Settings, Space

STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
NOT_MEASURED = ("epoch", "step", "seconds", "lr")
"""Columns of metrics.csv that are no objective."""
JOB_LOCK = ".job.lock"
"""Held in a trial's folder by the job of a launcher, which may outlive the parent that holds the folder's own lock."""
GRACE_SECONDS = 10
"""After so long a trial in a shared database belongs to this machine, if no other has recorded that it is its own."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a trial, to be run by this process, which holds its folder's lock together with the process forked to run it.

    `number` and `id` are those of this attempt in study and storage, `first` is the number that people see.
    """

    number: int
    first: int
    id: int
    overrides: dict[str, str]
    folder: Path
    lock: IO[str]

    @property
    def values(self) -> list[str]:
        """Its values as overrides."""
        return [f"{key}={text}" for key, text in self.overrides.items()]


def first(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("first", trial.number))


def latest(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The latest attempt at each trial, in the order of the first ones."""
    return sorted({first(t): t for t in sorted(trials, key=lambda t: t.number)}.values(), key=first)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: its values in the order of the objectives, or the reason of its failure in one line."""

    state: Literal["finished", "pruned", "failed"]
    values: tuple[float, ...] = ()
    reason: str = ""


def read_outcome(run: Path, objectives: Mapping[str, str]) -> Outcome | None:
    """The outcome that a run folder shows; None where the run has not ended.

    Objectives are columns of metrics.csv without `val/`, `seconds` (of training), or keys of costs.json.
    """
    status = read_json(run / "status.json")
    if reason := status.get("diverged"):
        return Outcome("failed", reason=str(reason))  # it would end the same once more
    match status.get("state"):
        case "pruned":
            return Outcome("pruned")
        case "finished":
            try:
                return Outcome("finished", _values(run, objectives))
            except (ValueError, SegkitError) as error:
                return Outcome("failed", reason=str(error))
    return None


def _values(run: Path, objectives: Mapping[str, str]) -> tuple[float, ...]:
    """Values at the epoch where the first measured objective is best. `ValueError` names an objective that is missing or NaN."""
    columns = read_columns(run / "metrics.csv")
    totals = {**read_json(run / "costs.json"), "seconds": float(sum(columns["seconds"]))}
    measured_as = {name.removeprefix("val/"): name for name in columns if name not in NOT_MEASURED and not name.startswith("train/")}
    known = {*measured_as, *totals}
    for name in objectives:
        if known_as(name, known) not in known:
            raise ValueError(f"objective {name} is not logged; {nearest(name, known) or 'available: ' + ', '.join(sorted(known))}")
    measured = next((name for name in objectives if name not in totals), None)
    row = best_row(columns, f"val/{measured}", objectives[measured]) if measured else None
    if measured and row is None:
        raise ValueError(f"objective {measured} is NaN in every epoch")
    found = tuple(float(totals[name] if name in totals else columns[measured_as[known_as(name, known)]][row]) for name in objectives)
    for name, value in zip(objectives, found, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"objective {name} is {value}")
    return found


# --- the study --------------------------------------------------------------------------------------------------------


@dataclass
class SweepStudy:
    """The study as one process sees it; Optuna's is shared by all processes that work on the sweep.

    `folder_id` is the folder's unique name (see `open_folder`), as machines may share a database but not the folder.
    """

    study: Study
    folder: Path
    folder_id: str
    space: Space
    settings: Settings
    objectives: Mapping[str, str]

    @property
    def n_trials(self) -> int:
        assert self.settings.n_trials is not None
        return self.settings.n_trials

    def trials(self) -> list[FrozenTrial]:
        return latest(self.study.get_trials(deepcopy=False))

    def requeue_failed(self) -> int:
        """Requeue failed trials and return their number; none while another process is at work, as both would requeue them."""
        with locked(self.folder / "lock"):
            self._settle_dead()
            ours = [t for t in self.trials() if self._is_ours(t)]
            if any(t.state is TrialState.RUNNING for t in ours):
                return 0
            failed = [t for t in ours if t.state is TrialState.FAIL]
            again = {t.user_attrs.get("folder", t.number): t for t in failed if self._outcome(t) is None}  # equal trials share a folder
            settled = [t for t in failed if (outcome := self._outcome(t)) and outcome.state != "failed"]
            for trial in [*again.values(), *settled]:
                self._enqueue(trial)
            return len(again)

    def next_attempt(self) -> Attempt | None:
        """The next trial to run, its folder locked; None where none is left."""
        with locked(self.folder / "lock"):
            self._settle_dead()
            trials = self.study.get_trials(deepcopy=False)
            if len(latest(trials)) >= self.n_trials and not any(t.state is TrialState.WAITING for t in trials):
                return None
            return self._ask(latest(trials))

    def n_running(self) -> int:
        """Number of trials in this folder that processes on this machine are running."""
        here = (t for t in self.trials() if t.state is TrialState.RUNNING and t.user_attrs.get("host") in (None, socket.gethostname()))
        return sum(self._is_ours(t) for t in here)

    def record(self, number: int, outcome: Outcome) -> None:
        """Record how an attempt ended."""
        if outcome.reason:
            storage_id = self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
            self.study._storage.set_trial_user_attr(storage_id, "reason", outcome.reason)
        self.study.tell(number, outcome.values or None, STATES[outcome.state])

    # --- inside the lock ----------------------------------------------------------------------------------------------

    def _ask(self, before: Sequence[FrozenTrial]) -> Attempt:
        self.study.sampler = build_sampler(self.settings, self.space, len(before))
        trial = self.study.ask()
        own = trial.user_attrs.get("first", trial.number)
        # seeded by the trial itself: the same values whoever asks at the same time, or asks again after a kill
        n_before = len({first(t) for t in self.study.get_trials(deepcopy=False) if first(t) < own})
        self.study.sampler = build_sampler(self.settings, self.space, n_before)
        overrides = self.space.suggest(trial)
        known = trial.user_attrs.get("folder")
        name = known or self._free_name(overrides, trial.number, before)
        (self.folder / name).mkdir(exist_ok=True)
        # the loader processes of a killed training outlive it by a few seconds
        lock = try_lock(self.folder / name / ".lock", seconds=15 if known else 1)
        if lock is None:  # another trial of the same values is running
            name = f"{name}_trial{trial.number}"
            (self.folder / name).mkdir(exist_ok=True)
            lock = try_lock(self.folder / name / ".lock")
        assert lock is not None
        for key, value in {"folder": name, "place": self.folder_id, "host": socket.gethostname(), "overrides": overrides}.items():
            trial.set_user_attr(key, value)
        return Attempt(trial.number, own, trial._trial_id, overrides, self.folder / name, lock)

    def _free_name(self, overrides: dict[str, str], number: int, others: Sequence[FrozenTrial]) -> str:
        """Trials of exactly the same values share a folder, and so its result."""
        name = trial_name(overrides, number)
        taken = any(t.user_attrs.get("folder") == name and t.user_attrs.get("overrides") != overrides for t in others)
        return f"{name}_trial{number}" if taken else name

    def _settle_dead(self) -> None:
        """Trials whose process is gone: record the outcome that their folder shows, or requeue them."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._is_ours(trial):
                continue
            name = trial.user_attrs.get("folder")
            lock = try_lock(self.folder / name / ".lock") if name else None
            if name and (lock is None or is_locked(self.folder / name / JOB_LOCK)):
                continue
            outcome = self._outcome(trial)
            self.record(trial.number, outcome or Outcome("failed", reason="killed"))
            if outcome is None:
                self._enqueue(trial)
            if lock:
                lock.close()

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """Whether it was made in this folder."""
        place = trial.user_attrs.get("place")
        if place is None and self.settings.storage is not None:
            started = trial.datetime_start
            return started is not None and (datetime.now(started.tzinfo) - started).total_seconds() > GRACE_SECONDS
        return place in (None, self.folder_id)

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
