"""The results of a sweep, running, killed or finished: read from its study and its trials' folders, which are left unchanged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import optuna
import yaml
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from segkit.data.labels import Array
from segkit.system.addresses import absolute
from segkit.system.errors import SegkitError
from segkit.system.files import read_json
from segkit.training.plots import best_row, read_columns
from segkit.training.sweeps.names import short_keys
from segkit.training.sweeps.storage import open_storage, quiet, try_lock
from segkit.training.sweeps.study import first, latest

WORDS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed", TrialState.WAITING: "waiting"}
STATES = ("finished", "pruned", "failed", "running", "interrupted", "waiting")
FRONT = "front"
REPEATS = ("seed", "split.fold", "split.seed")
"""Keys that repeat a setting instead of changing it."""


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Args:
        number: In the order in which trials were drawn.
        state: One of `STATES`.
        keys: What the sweep varies: key -> text.
        home: The sweep's folder.
        folder: Name of the trial's own folder in it; empty before it has one.
        values: In the order of the sweep's objectives; empty unless it has finished.
        reason: Why it failed.
        distributions: Key -> distribution that its value was drawn from.
        monitor: Metric and mode of the training itself, where the sweep has no objective.
    """

    number: int
    state: str
    keys: Mapping[str, str]
    home: Path
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
        """metrics.csv by column; empty where no epoch has ended."""
        try:
            return read_columns(self.path / "metrics.csv") if self.folder else {}
        except SegkitError:
            return {}

    @property
    def own_score(self) -> str:
        """Its own metric and value, where the trials of a sweep have no metric in common."""
        return f"{self.monitor[0]} {self.best(*self.monitor):.4g}" if self.monitor else ""

    @property
    def seconds(self) -> float:
        return float(np.nansum(self.columns["seconds"])) if "seconds" in self.columns else 0.0

    @property
    def epochs(self) -> int:
        return len(self.columns["epoch"]) if self.columns else 0

    def best(self, metric: str, mode: str) -> float:
        """Its best value so far; NaN where it was not measured."""
        row = best_row(self.columns, f"val/{metric}", mode)
        return math.nan if row is None else float(self.columns[f"val/{metric}"][row])

    def curve(self, metric: str) -> dict[int, float]:
        """Epoch -> validation metric."""
        values = self.columns.get(f"val/{metric}", np.empty(0))
        return {int(self.columns["epoch"][i]): float(values[i]) for i in np.flatnonzero(np.isfinite(values))}


@dataclass(frozen=True)
class Sweep:
    """A sweep as it stands.

    Args:
        folder: Of the sweep.
        objectives: Name -> max or min; empty where the trials have none in common.
        space: Key -> description of its values.
        trials: In the order in which they were drawn.
    """

    folder: Path
    objectives: Mapping[str, str]
    space: Mapping[str, str]
    trials: Sequence[Trial]

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
        """Finished trials, best first: the front first where there are several objectives; as drawn where there is none."""
        finished = self.of("finished")
        if not self.objectives:
            return finished
        front = {trial.number for trial in self.front}
        return sorted(finished, key=lambda trial: (trial.number not in front, *self._costs(trial)))

    @cached_property
    def front(self) -> list[Trial]:
        """The Pareto front: trials that no other one beats; with one objective the best trial and its equals."""
        finished = [trial for trial in self.of("finished") if trial.values]
        if not finished:
            return []
        costs = np.array([self._costs(trial) for trial in finished])  # (n, objectives)
        beaten = [bool(((costs <= own).all(1) & (costs < own).any(1)).any()) for own in costs]
        return [trial for trial, is_beaten in zip(finished, beaten, strict=True) if not is_beaten]

    def place(self, trial: Trial, rank: int) -> str:
        """Its rank; with several objectives only whether it is on the front."""
        if not trial.values or not self.objectives:
            return ""
        return str(rank) if len(self.objectives) == 1 else FRONT * (trial in self.front)

    @property
    def in_order(self) -> list[Trial]:
        """All trials: finished ones best first, then the others by their best epochs."""
        others = [trial for state in STATES[1:] for trial in sorted(self.of(state), key=self._promise)]
        return [*self.ranked, *others]

    def _promise(self, trial: Trial) -> tuple[float, int]:
        """NaN comes last."""
        value, mode = self.score(trial, 0)[0], next(iter(self.objectives.values()), "min")
        return (math.inf if math.isnan(value) else -value if mode == "max" else value), trial.number

    def score(self, trial: Trial, objective: int) -> tuple[float, bool]:
        """Its value and True; of an unfinished trial its best epoch so far (NaN where there is none) and False."""
        if trial.values:
            return trial.values[objective], True
        name, mode = list(self.objectives.items())[objective] if self.objectives else ("", "")
        return trial.best(name, mode), False

    @property
    def counts(self) -> str:
        return ", ".join(f"{len(self.of(state))} {state}" for state in STATES if self.of(state)) or "no trial yet"

    def _costs(self, trial: Trial) -> tuple[float, ...]:
        """Smaller is better."""
        return tuple(-v if mode == "max" else v for v, mode in zip(trial.values, self.objectives.values(), strict=True))

    @cached_property
    def metrics(self) -> list[str]:
        """Validation metrics that the trials are compared by, and that were measured."""
        own = [trial.monitor[0] for trial in self.trials if trial.monitor]
        return [name for name in dict.fromkeys([*own, *self.objectives]) if any(trial.curve(name) for trial in self.trials)]


# --- reading ----------------------------------------------------------------------------------------------------------


def read_sweep(folder: Path, storage: str | None = None) -> Sweep:
    """Read a sweep.

    Args:
        folder: Of the sweep.
        storage: Address of its study, where sweep.json lacks it or its password.

    Raises:
        SegkitError: The study is missing.
    """
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
    state = WORDS.get(frozen.state) or ("running" if _is_locked(home / folder) else "interrupted")
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


def _is_locked(folder: Path) -> bool:
    """Whether a process works on the trial; assumed of one on another machine, whose folder is not here."""
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
    """Metric and mode that a training selects its best epoch by."""
    if not (run / "config.yaml").exists():
        return None
    metric = yaml.load((run / "config.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["metric"]
    return metric["monitor"], metric["mode"]


# --- means over seeds and folds ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """Finished trials that share all keys but `REPEATS`: per objective their mean and standard deviation (n - 1; NaN of one trial)."""

    keys: Mapping[str, str]
    means: tuple[float, ...]
    sds: tuple[float, ...]
    n: int


def repeats(sweep: Sweep) -> list[str]:
    return [key for key in REPEATS if key in sweep.keys]


def settings(sweep: Sweep) -> list[Setting]:
    """Settings, best mean of the first objective first; empty where no setting has been repeated over seeds or folds."""
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
