"""The search space and the settings of a sweep: Hydra's sweep overrides as Optuna distributions, and a trial's values as overrides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from importlib.util import find_spec
from itertools import islice, product
from typing import Annotated, Any, Literal

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import AfterValidator, Field

from segkit.config import messages
from segkit.config.overrides import swept
from segkit.config.schema import Positive, Strict
from segkit.system.environment import absolute
from segkit.system.errors import Problem, ProblemsFound, nearest, raise_errors

Value = str | int | float
RESERVED = ("run", "resume", "name", "output_dir", "sweep.name", "sweep.fail_fast")
"""Keys that a sweep sets for its trials, so that they cannot be searched."""
MAX_COMBINATIONS = 100_000
"""The longest grid."""
N_TRIALS = 20
"""Trials of a search where `n_trials` is not set."""


@dataclass(frozen=True)
class Parameter:
    """One searched key.

    Args:
        key: The config key, as typed.
        distribution: Its values, as Optuna draws them.
        texts: Value of a choice -> how it was typed.
        when: Another key and its text: this one is searched in trials with that value alone.
    """

    key: str
    distribution: BaseDistribution
    texts: Mapping[Value, str] = field(default_factory=dict)
    when: tuple[str, str] | None = None

    def suggest(self, trial: Trial) -> str:
        """The drawn value, as text of an override."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return self.texts[trial.suggest_categorical(self.key, choices)]  # type: ignore[index]
            case IntDistribution(low=low, high=high, step=step, log=log):
                return str(trial.suggest_int(self.key, low, high, step=step, log=log))
            case FloatDistribution(low=low, high=high, step=step, log=log):
                drawn = trial.suggest_float(self.key, low, high, step=step, log=log)
                return repr(drawn if step is None else _steps(low, step, [round((drawn - low) / step)])[0])
        raise TypeError(self.distribution)

    def grid(self) -> Sequence[Value]:
        """All values, smallest first; none of an interval, which has too many."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)  # type: ignore[arg-type]
            case IntDistribution(low=low, high=high, step=step, log=False):
                return range(low, high + 1, step)
            case FloatDistribution(low=low, high=high, step=float() as step):
                return _steps(low, step, range(round((high - low) / step) + 1))
        return ()

    def __str__(self) -> str:
        """Its values, however they were typed: `choice(a, b)` or `0 to 4 by 2` or `1e-5 to 0.1, log`."""
        match self.distribution:
            case CategoricalDistribution():
                text = f"choice({', '.join(self.texts.values())})"
            case IntDistribution(low=low, high=high, step=step, log=log) | FloatDistribution(low=low, high=high, step=step, log=log):
                text = f"{low} to {high}" + (f" by {step}" if step else "") + (", log" if log else "")
        return text + (f" when {'='.join(self.when)}" if self.when else "")


def _steps(start: float, step: float, numbers: Iterable[int]) -> list[float]:
    """Multiples of a step in decimal arithmetic: 0.3, not 0.30000000000000004."""
    return [float(Decimal(str(start)) + i * Decimal(str(step))) for i in numbers]


@dataclass(frozen=True)
class Space:
    """The search space of a sweep.

    Args:
        parameters: The searched keys; one that depends on another comes after it.
        fixed: Overrides that all trials share, as typed.
        shared: The config that all trials share, by dotted key (see `sweeper.shared_config`).
    """

    parameters: tuple[Parameter, ...]
    fixed: tuple[str, ...]
    shared: Mapping[str, str] = field(default_factory=dict)

    def suggest(self, trial: Trial) -> dict[str, str]:
        """Key -> text of this trial. A requeued trial keeps the values that it was given before."""
        chosen: dict[str, str] = {}
        for parameter in self.parameters:
            if parameter.when is None or chosen.get(parameter.when[0]) == parameter.when[1]:
                chosen[parameter.key] = parameter.suggest(trial)
        return chosen

    def combinations(self) -> list[dict[str, Value]]:
        """The grid, the last key varying fastest. Raises as `size`."""
        self.size()
        grid = self._grid()
        return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]

    def size(self) -> int:
        """Number of combinations. Raises `ProblemsFound` where there is no end to them, or more than `MAX_COMBINATIONS`."""
        n = math.prod(len(values) for values in self._grid().values())
        if n > MAX_COMBINATIONS:
            fix = "search them:  hydra.sweeper.sampler=tpe hydra.sweeper.n_trials=100"
            raise ProblemsFound([Problem("-m", f"has {n:,} combinations, more than the {MAX_COMBINATIONS:,} of the longest grid", fix)])
        return n

    def _grid(self) -> dict[str, Sequence[Value]]:
        grid = {parameter.key: parameter.grid() for parameter in self.parameters}
        problems = []
        for parameter in self.parameters:
            if not grid[parameter.key]:
                fix = f"write  {parameter.key}=range(START,STOP,STEP)  or  choice(…)"
                problems.append(Problem(parameter.key, "an interval has no grid", fix))
            if parameter.when:
                problems.append(Problem(parameter.key, "a grid has no conditions", "use  hydra.sweeper.sampler=tpe"))
        raise_errors(problems)
        return grid

    def is_listed(self) -> bool:
        """Whether all combinations can be listed: no interval, no condition."""
        return all(parameter.grid() and not parameter.when for parameter in self.parameters)

    def as_dict(self) -> dict[str, str]:
        """Key -> description of its values: the identity of a space."""
        return {parameter.key: str(parameter) for parameter in self.parameters}


def read_space(overrides: Sequence[str], when: Mapping[str, str], loader: ConfigLoader) -> Space:
    """Parse the overrides of a multirun; of several for one key the last counts.

    Args:
        overrides: As typed.
        when: Key -> condition `OTHER=VALUE` under which it is searched.
        loader: Expands `glob(…)` over the choices of a config group.

    Raises:
        ProblemsFound: Nothing to search, an empty range, or a condition on a key that is not searched.
    """
    parsed = {o.get_key_element(): o for o in OverridesParser.create(loader).parse_overrides(list(overrides))}
    swept = [override for override in parsed.values() if override.is_sweep_override()]
    problems = [Problem(o.get_key_element(), "is set by the sweep and cannot be searched") for o in swept if o.key_or_group in RESERVED]
    fixed = [override for override in parsed.values() if override not in swept]
    problems += [
        Problem(o.get_key_element(), "is set for each trial", "leave it out") for o in fixed if o.key_or_group in ("run", "resume")
    ]
    conditions = {key: _condition(key, text, swept, problems) for key, text in when.items()}
    parameters = []
    for override in swept:
        try:
            parameters.append(_parameter(override, conditions.get(override.get_key_element()), loader))
        except ValueError as error:
            problems.append(Problem(override.get_key_element(), str(error)))
    if not swept:
        fix = "leave it out, or add  optimizer.lr=1e-3,1e-4  or  'optimizer.lr=tag(log,interval(1e-5,1e-2))'  or  hparams_search=NAME"
        problems.append(Problem("-m", "has nothing to vary", fix))
    ordered = _conditions_first(parameters, problems)
    raise_errors(problems)
    return Space(tuple(ordered), tuple(str(override.input_line) for override in fixed))


def _parameter(override: Override, when: tuple[str, str] | None, loader: ConfigLoader) -> Parameter:
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return Parameter(key, _interval(value), when=when)
    if isinstance(value, RangeSweep):
        return Parameter(key, _range(value), when=when)
    texts: dict[Value, str] = {}
    for choice in swept(override, loader, Transformer.identity):
        text = str(choice).lower() if isinstance(choice, bool) else Transformer.str(choice)
        is_number = isinstance(choice, int | float) and not isinstance(choice, bool)  # True would be 1
        texts.setdefault(choice if is_number else text, text)  # 1 and 1.0 are one value: the first spelling counts
    if isinstance(value, ChoiceSweep) and value.shuffle:  # Hydra shuffles at each start, but a sweep has to stay the same
        texts = dict(sorted(texts.items(), key=lambda item: item[1]))
    return Parameter(key, CategoricalDistribution(list(texts)), texts, when)


def _interval(sweep: IntervalSweep) -> IntDistribution | FloatDistribution:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None
    assert high is not None
    if not low < high:
        raise ValueError(f"interval({low}, {high}) is empty: the smaller end comes first")
    if log and low <= 0:
        raise ValueError(f"log needs a lower end above 0, got {low}")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _range(sweep: RangeSweep) -> IntDistribution | FloatDistribution:
    """A range without its stop, as Hydra counts."""
    start, step, text = sweep.start, sweep.step, f"range({sweep.start}, {sweep.stop}, {sweep.step})"
    if not step:
        raise ValueError(f"{text} has no step")
    assert start is not None
    values = sweep.range()
    n = len(values) if isinstance(values, range) else sum(1 for _ in islice(values, MAX_COMBINATIONS + 1))
    if not n:
        raise ValueError(f"{text} is empty")
    if isinstance(values, range):
        return IntDistribution(min(values[0], values[-1]), max(values[0], values[-1]), step=abs(values.step))
    if n > MAX_COMBINATIONS:
        raise ValueError(f"{text} has more than {MAX_COMBINATIONS:,} numbers;   write  interval(START,STOP)")
    low, high = sorted(_steps(start, step, [0, n - 1]))
    return FloatDistribution(low, high, step=abs(step))


def _condition(key: str, text: str, swept: Sequence[Override], problems: list[Problem]) -> tuple[str, str] | None:
    where, keys = f"hydra.sweeper.when.{key}", [override.get_key_element() for override in swept]
    other, equals, value = (part.strip() for part in text.partition("="))
    for name in (key, other):
        if name not in keys:
            problems.append(Problem(where, f"{name} is not searched; {nearest(name, keys) or 'searched are ' + ', '.join(keys)}"))
            return None
    if not equals or not value:
        problems.append(Problem(where, f"{text!r} is not a condition", f"write  {other}=VALUE"))
    return other, value


def _conditions_first(parameters: Sequence[Parameter], problems: list[Problem]) -> list[Parameter]:
    """Each parameter after the one that its condition names."""
    ordered: list[Parameter] = []
    waiting = list(parameters)
    while waiting:
        known = {parameter.key for parameter in ordered}
        ready = [p for p in waiting if p.when is None or p.when[0] in known]
        if not ready:
            problems.append(Problem("hydra.sweeper.when", f"is circular: {', '.join(p.key for p in waiting)}"))
            break
        ordered += ready
        waiting = [p for p in waiting if p not in ready]
    return ordered


# --- settings ---------------------------------------------------------------------------------------------------------


class Settings(Strict):
    """The keys of `hydra.sweeper` with `hydra/sweeper=optuna`; conf/hydra/sweeper/optuna.yaml explains each."""

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

    def resolved(self, space: Space) -> Settings:
        """The settings with `sampler` and `n_trials` chosen for a space: a space that can be listed is run as a grid.

        Raises:
            ProblemsFound: A grid of a space that cannot be listed, or that has too many combinations.
        """
        is_grid = self.sampler == "grid" or (self.sampler == "auto" and self.n_trials is None and space.is_listed())
        most = space.size() if is_grid else self.n_trials or N_TRIALS
        sampler = "grid" if is_grid else "tpe" if self.sampler == "auto" else self.sampler
        return self.model_copy(update={"sampler": sampler, "n_trials": min(self.n_trials or most, most)})


def read_settings(node: Mapping[str, Any]) -> Settings:
    """Validate the node `hydra.sweeper`. Raises `ProblemsFound`."""
    settings, problems = messages.fit(Settings, {key: value for key, value in node.items() if key != "_target_"})
    if settings is None:
        raise ProblemsFound(replace(problem, where=f"hydra.sweeper.{problem.where}") for problem in problems)
    has_several, is_cmaes = len(settings.objectives or ()) > 1, settings.sampler == "cmaes"
    if settings.pruner != "none" and has_several:
        what = "compares trials by one objective, and there are several"
        problems.append(Problem("hydra.sweeper.pruner", what, "write  hydra.sweeper.pruner=none"))
    if is_cmaes and has_several:
        problems.append(Problem("hydra.sweeper.sampler=cmaes", "supports one objective", "use  hydra.sweeper.sampler=tpe"))
    if is_cmaes and find_spec("cmaes") is None:
        problems.append(Problem("hydra.sweeper.sampler=cmaes", "needs the package cmaes", "pip install cmaes"))
    raise_errors(problems)
    return settings
