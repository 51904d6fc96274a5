"""A sweep as it stands, running, killed or finished: read from its study and the folders of its trials, and left as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from segkit.data.labels import Array
from segkit.system.addresses import absolute
from segkit.system.errors import SegkitError
from segkit.training.plots import best_row, read_columns
from segkit.training.run_folder import read_json
from segkit.training.sweeps.names import short_keys
from segkit.training.sweeps.opening import quiet
from segkit.training.sweeps.storage import open_storage, try_lock
from segkit.training.sweeps.study import first, latest

WORDS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed", TrialState.WAITING: "waiting"}
FRONT = "front"
DECADES = 30
STATES = ("finished", "pruned", "failed", "running", "broken off", "waiting")


@dataclass(frozen=True)
class Trial:
    """`values` in the order of the sweep's objectives, empty unless it has finished. `keys`: what is varied, as text.

    `monitor`: metric and mode that the training itself is judged by, where the sweep has no objective.
    """

    number: int
    state: str
    keys: Mapping[str, str]
    home: Path
    """Folder of the sweep; the trial's own is `folder` in it, empty before it has one."""
    folder: str = ""
    values: tuple[float, ...] = ()
    reason: str = ""
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    monitor: tuple[str, str] | None = None

    @property
    def path(self) -> Path:
        return self.home / self.folder

    @cached_property
    def columns(self) -> Mapping[str, Array]:
        """metrics.csv by column; nothing where no epoch has ended."""
        try:
            return read_columns(self.path / "metrics.csv") if self.folder else {}
        except SegkitError:
            return {}

    @property
    def judged_by(self) -> str:
        """Its own metric and value, where trials have none in common."""
        return f"{self.monitor[0]} {self.best(*self.monitor):.4g}" if self.monitor else ""

    @property
    def seconds(self) -> float:
        return float(np.nansum(self.columns["seconds"])) if "seconds" in self.columns else 0.0

    @property
    def epochs(self) -> int:
        return len(self.columns["epoch"]) if self.columns else 0

    def best(self, metric: str, mode: str) -> float:
        """Of the epochs so far; NaN where it was not measured."""
        row = best_row(self.columns, f"val/{metric}", mode)
        return math.nan if row is None else float(self.columns[f"val/{metric}"][row])


@dataclass(frozen=True)
class Sweep:
    """`objectives`: name -> max or min; none where the trials have none in common."""

    folder: Path
    objectives: Mapping[str, str]
    space: Mapping[str, str]
    trials: Sequence[Trial]
    """In the order in which they were made."""

    @property
    def name(self) -> str:
        return f"{self.folder.absolute().parents[1].name}/{self.folder.name}"

    @cached_property
    def keys(self) -> dict[str, str]:
        """Key -> short name."""
        return short_keys(list(dict.fromkeys([*self.space, *(key for trial in self.trials for key in trial.keys)])))

    def of(self, *states: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.state in states]

    @cached_property
    def ranked(self) -> list[Trial]:
        """What has finished, best first: the front first where there are several objectives; as made where there is none."""
        finished = self.of("finished")
        if not self.objectives:
            return finished
        front = {trial.number for trial in self.front}
        return sorted(finished, key=lambda trial: (trial.number not in front, *self.costs(trial)))

    @cached_property
    def front(self) -> list[Trial]:
        """Trials that no other one beats; with one objective the best, and its equals."""
        finished = [trial for trial in self.of("finished") if trial.values]
        if not finished:
            return []
        costs = np.array([self.costs(trial) for trial in finished])  # (n, objectives)
        beaten = [bool(((costs <= own).all(1) & (costs < own).any(1)).any()) for own in costs]
        return [trial for trial, is_beaten in zip(finished, beaten, strict=True) if not is_beaten]

    def place(self, trial: Trial, rank: int) -> str:
        """Its rank; where there are several objectives only whether it is on the front."""
        if not trial.values or not self.objectives:
            return ""
        return str(rank) if len(self.objectives) == 1 else FRONT * (trial in self.front)

    @property
    def in_order(self) -> list[Trial]:
        """All: the finished ones best first, then the others by their best epochs."""
        others = [trial for state in STATES[1:] for trial in sorted(self.of(state), key=self._promise)]
        return [*self.ranked, *others]

    def _promise(self, trial: Trial) -> tuple[float, int]:
        """NaN comes last."""
        value, mode = self.score(trial, 0)[0], next(iter(self.objectives.values()), "min")
        return (math.inf if math.isnan(value) else -value if mode == "max" else value), trial.number

    def score(self, trial: Trial, objective: int) -> tuple[float, bool]:
        """Its value, and True; of a trial that has not finished that of its best epoch so far (NaN where there is none), and False."""
        if trial.values:
            return trial.values[objective], True
        name, mode = list(self.objectives.items())[objective] if self.objectives else ("", "")
        return trial.best(name, mode), False

    @property
    def counts(self) -> str:
        return ", ".join(f"{len(self.of(state))} {state}" for state in STATES if self.of(state)) or "no trial yet"

    @property
    def summary(self) -> str:
        return f"{self.name}: {self.counts}"

    @cached_property
    def log_keys(self) -> set[str]:
        """Searched on a logarithmic scale, or lists of numbers that span more than a decade and a half."""
        searched = {key: t.distributions[key] for t in self.trials for key in t.keys if key in t.distributions}
        logarithmic = {key for key, axis in searched.items() if getattr(axis, "log", False)}
        listed = [key for key in self.keys if key not in searched or isinstance(searched[key], CategoricalDistribution)]
        return logarithmic | {key for key in listed if _spans_decades([t.keys[key] for t in self.trials if key in t.keys])}

    def costs(self, trial: Trial) -> tuple[float, ...]:
        """Smaller is better."""
        return tuple(-v if mode == "max" else v for v, mode in zip(trial.values, self.objectives.values(), strict=True))

    @cached_property
    def metrics(self) -> dict[str, str]:
        """Validation metrics that the trials are judged by, and their modes: what curves are drawn of."""
        own = dict(trial.monitor for trial in self.trials if trial.monitor)
        return {name: mode for name, mode in {**own, **self.objectives}.items() if any(f"val/{name}" in t.columns for t in self.trials)}


def _spans_decades(texts: Sequence[str]) -> bool:
    try:
        numbers = sorted(map(float, texts))
    except ValueError:
        return False
    return numbers[0] > 0 and numbers[-1] > DECADES * numbers[0]


def read_sweep(folder: Path, storage: str | None = None) -> Sweep:
    """`storage`: address of the study, where sweep.json does not tell it all. Raises `SegkitError` where the study is not there."""
    known = read_json(folder / "sweep.json")
    objectives: dict[str, str] = known.get("objectives", {})
    trials = [_trial(frozen, folder, len(objectives)) for frozen in latest(_frozen(folder, known, storage))]
    if not objectives:
        trials = [replace(trial, monitor=_monitor(trial.path) if trial.folder else None) for trial in trials]
        objectives = dict({trial.monitor for trial in trials if trial.monitor})
        if len(objectives) > 1:
            return Sweep(folder, {}, known.get("space", {}), trials)
        trials = [replace(t, values=(t.best(*t.monitor),)) if t.monitor and t.state == "finished" else t for t in trials]
    return Sweep(folder, objectives, known.get("space", {}), trials)


def _frozen(folder: Path, known: Mapping[str, str | None], storage: str | None) -> list[FrozenTrial]:
    quiet()
    url, name = absolute(storage or known.get("storage")), known.get("study") or f"{folder.absolute().parents[1].name}/{folder.name}"
    again = f"segkit sweep show {folder} storage=URL"
    if url and "***" in url:
        raise SegkitError(f"the study of {folder} is at {url}, whose password is not kept;   {again}")
    journal = (folder / "journal.log" if url is None else Path(url)) if not url or "://" not in url else None
    if journal and not journal.exists():
        if url is None:
            return []  # killed before its first trial
        raise SegkitError(f"the study of {folder} is not at {journal};   {again}")
    try:
        return optuna.load_study(study_name=name, storage=open_storage(url, folder)).get_trials(deepcopy=False)
    except KeyError:
        if url is None:
            return []
        raise SegkitError(f"there is no study {name} at {url};   {again}") from None


def _trial(frozen: FrozenTrial, home: Path, n_objectives: int) -> Trial:
    own = frozen.user_attrs
    folder: str = own.get("folder", "")
    state = WORDS.get(frozen.state) or ("running" if _is_held(home / folder) else "broken off")
    return Trial(
        number=first(frozen),
        state=state,
        keys=own.get("overrides") or {key: str(value) for key, value in frozen.params.items()},
        home=home,
        folder=folder,
        values=tuple((frozen.values or ())[:n_objectives]) if state == "finished" else (),
        reason=own.get("reason", "") if state == "failed" else "",
        distributions=frozen.distributions,
    )


def _is_held(folder: Path) -> bool:
    """Whether a process works on the trial. One on another machine, whose folder is not here, is taken to."""
    if not (folder / ".lock").exists():
        return True
    try:
        lock = try_lock(folder / ".lock")
    except OSError:
        return True
    if lock:
        lock.close()
    return lock is None


def _monitor(run: Path) -> tuple[str, str] | None:
    """By what a training judges itself."""
    if not (run / "config.yaml").exists():
        return None
    metric = yaml.load((run / "config.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["metric"]
    return metric["monitor"], metric["mode"]
