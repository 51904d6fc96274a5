"""The search space: Hydra's sweep overrides as Optuna's distributions, and the values of a trial as overrides again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from segkit.config import sweeps
from segkit.errors import Problem, ProblemsFound, nearest

Value = str | int | float
OWN = ("run", "resume", "name", "output_dir", "sweep.name", "sweep.fail_fast")
"""Keys by which a sweep arranges its trials."""


@dataclass(frozen=True)
class Parameter:
    """`texts`: how a choice is typed. `when`: the parameter, and its text, without which this one is left alone."""

    key: str
    distribution: BaseDistribution
    texts: Mapping[Value, str] = field(default_factory=dict)
    when: tuple[str, str] | None = None

    def suggest(self, trial: Trial) -> str:
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return self.texts[trial.suggest_categorical(self.key, choices)]  # type: ignore[index]
            case IntDistribution(low=low, high=high, step=step, log=log):
                return str(trial.suggest_int(self.key, low, high, step=step, log=log))
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return repr(trial.suggest_float(self.key, low, high, step=step, log=log))
        raise TypeError(self.distribution)

    def grid(self) -> list[Value]:
        """All its values, smallest first. Raises ValueError for an interval, which has too many."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)  # type: ignore[arg-type]
            case IntDistribution(low=low, high=high, step=step, log=False):
                return list(range(low, high + 1, step))
            case FloatDistribution(low=low, high=high, step=float() as step):
                return [low + i * step for i in range(round((high - low) / step) + 1)]
        raise ValueError("an interval has no grid")


@dataclass(frozen=True)
class Space:
    """`fixed`: the overrides that all trials share."""

    parameters: tuple[Parameter, ...]
    fixed: tuple[str, ...]

    def suggest(self, trial: Trial) -> dict[str, str]:
        """Key -> text of this trial. What it has been given before (a trial taken up again) it keeps."""
        chosen: dict[str, str] = {}
        for parameter in self.parameters:
            if parameter.when is None or chosen.get(parameter.when[0]) == parameter.when[1]:
                chosen[parameter.key] = parameter.suggest(trial)
        return chosen

    def combinations(self) -> list[dict[str, Value]]:
        """The grid, the last key fastest. Raises `ProblemsFound` where it has no end."""
        problems, grid = [], {}
        for parameter in self.parameters:
            try:
                grid[parameter.key] = parameter.grid()
            except ValueError as error:
                problems.append(Problem(parameter.key, str(error), f"write  {parameter.key}=range(START,STOP,STEP)  or  choice(…)"))
            if parameter.when:
                problems.append(Problem(parameter.key, "a grid has no conditions", "use  hydra.sweeper.sampler=tpe"))
        if problems:
            raise ProblemsFound(problems)
        return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]

    def is_listed(self) -> bool:
        """Whether it is a list of combinations: no interval, no condition."""
        try:
            return bool(self.combinations())
        except ProblemsFound:
            return False

    def as_dict(self) -> dict[str, str]:
        """What makes it this space and no other."""
        return {p.key: described(p) for p in self.parameters}


def described(parameter: Parameter) -> str:
    """In Hydra's words, however it was typed."""
    match parameter.distribution:
        case CategoricalDistribution():
            text = f"choice({', '.join(parameter.texts.values())})"
        case IntDistribution(low=low, high=high, step=step, log=log) | FloatDistribution(low=low, high=high, step=step, log=log):
            stepped = f"{low} to {high}" + (f" by {step}" if step else "")
            text = f"{stepped}, log" if log else stepped
    return text + (f" when {'='.join(parameter.when)}" if parameter.when else "")


def read_space(overrides: Sequence[str], when: Mapping[str, str], loader: ConfigLoader) -> Space:
    """Raises `ProblemsFound`: nothing to search, an empty or impossible range, a condition on what is not searched."""
    parsed = {o.get_key_element(): o for o in OverridesParser.create(loader).parse_overrides(list(overrides))}
    swept = [override for override in parsed.values() if override.is_sweep_override()]
    problems = [Problem(o.get_key_element(), "is the sweep's own, and the same for all trials") for o in swept if o.key_or_group in OWN]
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
        mend = "leave it out, or add  optimizer.lr=1e-3,1e-4  or  'optimizer.lr=tag(log,interval(1e-5,1e-2))'  or  hparams_search=NAME"
        problems.append(Problem("-m", "has nothing to vary", mend))
    ordered = _conditions_first(parameters, problems)
    if problems:
        raise ProblemsFound(problems)
    return Space(tuple(ordered), tuple(str(override.input_line) for override in fixed))


def _parameter(override: Override, when: tuple[str, str] | None, loader: ConfigLoader) -> Parameter:
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return Parameter(key, _interval(value), when=when)
    if isinstance(value, RangeSweep):
        return Parameter(key, _range(value), when=when)
    texts: dict[Value, str] = {}
    for choice in sweeps.swept(override, loader, Transformer.identity):
        text = str(choice).lower() if isinstance(choice, bool) else Transformer.str(choice)
        texts[choice if isinstance(choice, int | float) and not isinstance(choice, bool) else text] = text  # True would be 1
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
    """As Hydra counts: the stop is left out."""
    values = sorted(sweep.range())
    if not values or not math.isfinite(sum(values)):
        raise ValueError(f"range({sweep.start}, {sweep.stop}, {sweep.step}) is empty")
    if all(isinstance(value, int) for value in values):
        return IntDistribution(values[0], values[-1], step=abs(int(sweep.step)))
    return FloatDistribution(values[0], values[-1], step=abs(float(sweep.step)))


def _condition(key: str, text: str, swept: Sequence[Override], problems: list[Problem]) -> tuple[str, str] | None:
    where, keys = f"hydra.sweeper.when.{key}", [override.get_key_element() for override in swept]
    other, equals, value = (part.strip() for part in text.partition("="))
    for name in (key, other):
        if name not in keys:
            problems.append(Problem(where, f"{name} is not searched; {nearest(name, keys) or 'there is ' + ', '.join(keys)}"))
            return None
    if not equals or not value:
        problems.append(Problem(where, f"{text!r} is no condition", f"write  {other}=VALUE"))
    return other, value


def _conditions_first(parameters: Sequence[Parameter], problems: list[Problem]) -> list[Parameter]:
    ordered: list[Parameter] = []
    waiting = list(parameters)
    while waiting:
        known = {parameter.key for parameter in ordered}
        ready = [p for p in waiting if p.when is None or p.when[0] in known]
        if not ready:
            problems.append(Problem("hydra.sweeper.when", f"goes round in a circle: {', '.join(p.key for p in waiting)}"))
            break
        ordered += ready
        waiting = [p for p in waiting if p not in ready]
    return ordered
