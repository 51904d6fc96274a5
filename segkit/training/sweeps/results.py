"""The results of a sweep, running, killed or finished, read from its study and its trials' folders, and the tables made of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from segkit.data.labels import Array
from segkit.metrics.base import known_as
from segkit.system.environment import absolute
from segkit.system.errors import SegkitError
from segkit.system.locks import is_locked
from segkit.system.page import Table
from segkit.system.plain import read_json
from segkit.training.plots import best_row, read_columns
from segkit.training.sweeps.names import short_keys, shown
from segkit.training.sweeps.storage import journal_file, open_storage, quiet
from segkit.training.sweeps.study import first, latest

WORDS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed", TrialState.WAITING: "waiting"}
STATES = ("finished", "pruned", "failed", "running", "interrupted", "waiting")
REPEATS = ("seed", "split.fold", "split.seed")
"""Keys that repeat a setting instead of changing it."""


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep; numbers follow the order in which trials were drawn."""

    number: int
    state: str
    keys: Mapping[str, str]
    home: Path
    """The sweep's folder."""
    folder: str = ""
    """The trial's own folder in it; empty before it has one."""
    values: tuple[float, ...] = ()
    """In the order of the sweep's objectives; empty unless it has finished."""
    reason: str = ""
    """Why it failed."""
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.home / self.folder

    @cached_property
    def columns(self) -> Mapping[str, Array]:
        """metrics.csv by column; empty where no epoch has ended."""
        try:
            return read_columns(self.path / "metrics.csv")
        except SegkitError:
            return {}

    @property
    def seconds(self) -> float:
        return float(np.nansum(self.columns.get("seconds", 0)))

    @property
    def epochs(self) -> int:
        return len(self.columns.get("epoch", ()))

    def best(self, metric: str, mode: str) -> float:
        """Its best value so far; NaN where it was not measured."""
        row = best_row(self.columns, f"val/{metric}", mode)
        return math.nan if row is None else float(self.columns[known_as(f"val/{metric}", self.columns)][row])

    def curve(self, metric: str) -> dict[int, float]:
        """Epoch -> validation metric."""
        values = self.columns.get(known_as(f"val/{metric}", self.columns), np.empty(0))
        return {int(self.columns["epoch"][i]): float(values[i]) for i in np.flatnonzero(np.isfinite(values))}


@dataclass(frozen=True)
class Sweep:
    """A sweep as it stands: its objectives (name -> max or min), the description of each key's values, and the trials as drawn."""

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

    @property
    def counts(self) -> str:
        return ", ".join(f"{len(self.of(state))} {state}" for state in STATES if self.of(state)) or "no trial yet"

    def score(self, trial: Trial, objective: int = 0) -> float:
        """Its value; of an unfinished trial its best epoch so far, NaN where there is none."""
        return trial.values[objective] if trial.values else trial.best(*list(self.objectives.items())[objective])

    def _costs(self, trial: Trial) -> tuple[float, ...]:
        """Smaller is better."""
        scores = [self.score(trial, i) * (-1 if mode == "max" else 1) for i, mode in enumerate(self.objectives.values())]
        return tuple(math.inf if math.isnan(score) else score for score in scores)

    @cached_property
    def front(self) -> list[Trial]:
        """The Pareto front: trials that no other one beats; with one objective the best trial and its equals."""
        finished = self.of("finished")
        costs = np.array([self._costs(trial) for trial in finished])  # (n, objectives)
        beaten = [bool(((costs <= own).all(1) & (costs < own).any(1)).any()) for own in costs]
        return [trial for trial, is_beaten in zip(finished, beaten, strict=True) if not is_beaten]

    @cached_property
    def in_order(self) -> list[Trial]:
        """All trials: finished ones best first, those on the front before the others; then unfinished ones by their best epochs."""
        return sorted(self.trials, key=lambda trial: (STATES.index(trial.state), trial not in self.front, *self._costs(trial)))

    @property
    def ranked(self) -> list[Trial]:
        """Finished trials, best first."""
        return [trial for trial in self.in_order if trial.state == "finished"]

    def place(self, trial: Trial, rank: int) -> str:
        """Its rank; with several objectives only whether it is on the front."""
        if len(self.objectives) > 1:
            return "front" if trial in self.front else ""
        return str(rank) if trial.values else ""

    @property
    def metrics(self) -> list[str]:
        """Objectives that are validation metrics, and that were measured."""
        return [name for name in self.objectives if any(trial.curve(name) for trial in self.trials)]


# --- reading ----------------------------------------------------------------------------------------------------------


def read_sweep(folder: Path, storage: str | None = None) -> Sweep:
    """Read a sweep. `storage`: the address of its study, where sweep.json lacks it or its password. Raises `SegkitError` without one."""
    known = read_json(folder / "sweep.json")
    trials = [_trial(frozen, folder) for frozen in latest(_frozen(folder, known, storage))]
    return Sweep(folder, known.get("objectives", {}), known.get("space", {}), trials)


def _frozen(folder: Path, known: Mapping[str, str | None], storage: str | None) -> list[FrozenTrial]:
    quiet()
    url, name = absolute(storage or known.get("storage")), known.get("study") or f"{folder.absolute().parents[1].name}/{folder.name}"
    again = f"segkit sweep show {folder} storage=URL"
    if url and "***" in url:
        raise SegkitError(f"the study of {folder} is at {url}, whose password is not kept;   {again}")
    journal = journal_file(url, folder)
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


def _trial(frozen: FrozenTrial, home: Path) -> Trial:
    own = frozen.user_attrs
    lock = home / own.get("folder", "") / ".lock"
    # a trial without a lock here runs on another machine
    state = WORDS.get(frozen.state) or ("running" if not lock.exists() or is_locked(lock) else "interrupted")
    return Trial(
        number=first(frozen),
        state=state,
        keys=own.get("overrides") or {key: str(value) for key, value in frozen.params.items()},
        home=home,
        folder=own.get("folder", ""),
        values=tuple(frozen.values or ()) if state == "finished" else (),
        reason=own.get("reason", "") if state == "failed" else "",
        distributions=frozen.distributions,
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def trials_table(sweep: Sweep) -> Table:
    """One row a trial in the order of `Sweep.in_order`, best first; scores that are not final in brackets."""
    objectives = [f"{name} ({mode})" for name, mode in sweep.objectives.items()]
    rows = []
    for rank, trial in enumerate(sweep.in_order, 1):
        scores = [sweep.score(trial, i) for i in range(len(objectives))]
        texts = ["" if math.isnan(score) else f"{score:.4g}" if trial.values else f"({score:.4g})" for score in scores]
        keys = [shown(trial.keys.get(key, "")) for key in sweep.keys]
        cost = [f"{trial.seconds:.0f}", str(trial.epochs)]
        rows.append([sweep.place(trial, rank), str(trial.number), *texts, *keys, trial.state, *cost, trial.folder])
    notes = ["in brackets: the best epoch of a trial that has not finished"] if any(row[2].startswith("(") for row in rows) else []
    notes += ["front: no other trial is better in all objectives"] if len(objectives) > 1 else []
    headings = ["rank", "trial", *objectives, *sweep.keys.values(), "state", "seconds", "epochs", "folder"]
    return Table(headings, ["rank", "trial", *objectives, "seconds", "epochs"], rows, notes)


def trials_csv(sweep: Sweep) -> str:
    """One row a trial, best first, with the values in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", *sweep.objectives, *sweep.keys, "seconds", "epochs", "folder", "reason"])
    for trial in sweep.in_order:
        values = trial.values or [""] * len(sweep.objectives)
        keys = [trial.keys.get(key, "") for key in sweep.keys]
        writer.writerow([trial.number, trial.state, *values, *keys, round(trial.seconds, 2), trial.epochs, trial.folder, trial.reason])
    return text.getvalue()


@dataclass(frozen=True)
class Setting:
    """Finished trials that share all keys but `REPEATS`: per objective their mean and standard deviation (n - 1; NaN of one trial)."""

    keys: Mapping[str, str]
    means: Sequence[float]
    sds: Sequence[float]
    n: int


def settings(sweep: Sweep) -> list[Setting]:
    """Settings, best mean of the first objective first; empty where no setting has been repeated over seeds or folds."""
    groups: dict[tuple[tuple[str, str], ...], list[tuple[float, ...]]] = {}
    for trial in sweep.of("finished"):
        setting = tuple((key, trial.keys.get(key, "")) for key in sweep.keys if key not in REPEATS)
        groups.setdefault(setting, []).append(trial.values)
    found = []
    for keys, listed in groups.items():
        values = np.array(listed)  # (n, objectives)
        sds = values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
        found.append(Setting(dict(keys), values.mean(0).tolist(), sds.tolist(), len(values)))
    if set(REPEATS).isdisjoint(sweep.keys) or all(setting.n == 1 for setting in found):
        return []
    sign = -1 if next(iter(sweep.objectives.values())) == "max" else 1
    return sorted(found, key=lambda setting: sign * setting.means[0])


def means_table(sweep: Sweep) -> Table | None:
    """Means over seeds and folds, the best setting first; None where no setting has been repeated."""
    found = settings(sweep)
    if not found:
        return None
    rows = []
    for setting in found:
        pairs = zip(setting.means, setting.sds, strict=True)
        values = [text for mean, sd in pairs for text in (f"{mean:.4g}", "-" if math.isnan(sd) else f"{sd:.2g}")]
        rows.append([*map(shown, setting.keys.values()), *values, str(setting.n)])
    labels = [sweep.keys[key] for key in found[0].keys]
    numbers = [*(f"{name} {what}" for name in sweep.objectives for what in ("mean", "SD")), "n"]
    repeated = " and ".join(key for key in REPEATS if key in sweep.keys)
    return Table([*labels, *numbers], numbers, rows, [f"means over {repeated}, of finished trials; SD between them, n - 1"])
