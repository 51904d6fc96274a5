"""The search space: Hydra's sweep overrides as Optuna's distributions, and the values of a trial as overrides again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice, product

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from segkit.config import sweeps
from segkit.system.errors import Problem, ProblemsFound, nearest

Value = str | int | float
OWN = ("run", "resume", "name", "output_dir", "sweep.name", "sweep.fail_fast")
"""Keys by which a sweep arranges its trials."""
MOST = 100_000
"""Combinations of a grid."""


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
                drawn = trial.suggest_float(self.key, low, high, step=step, log=log)
                return repr(drawn if step is None else _steps(low, step, [round((drawn - low) / step)])[0])
        raise TypeError(self.distribution)

    def grid(self) -> Sequence[Value]:
        """All its values, smallest first. Raises ValueError for an interval, which has too many."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)  # type: ignore[arg-type]
            case IntDistribution(low=low, high=high, step=step, log=False):
                return range(low, high + 1, step)
            case FloatDistribution(low=low, high=high, step=float() as step):
                return _steps(low, step, range(round((high - low) / step) + 1))
        raise ValueError("an interval has no grid")


def _steps(start: float, step: float, numbers: Iterable[int]) -> list[float]:
    """In decimals, as people count: 0.3, and not 0.30000000000000004."""
    return [float(Decimal(str(start)) + i * Decimal(str(step))) for i in numbers]


@dataclass(frozen=True)
class Space:
    """`fixed`: the overrides that all trials share; `shared`: what these and the config files come to, see `opening.shared`."""

    parameters: tuple[Parameter, ...]
    fixed: tuple[str, ...]
    shared: Mapping[str, str] = field(default_factory=dict)

    def suggest(self, trial: Trial) -> dict[str, str]:
        """Key -> text of this trial. What it has been given before (a trial taken up again) it keeps."""
        chosen: dict[str, str] = {}
        for parameter in self.parameters:
            if parameter.when is None or chosen.get(parameter.when[0]) == parameter.when[1]:
                chosen[parameter.key] = parameter.suggest(trial)
        return chosen

    def combinations(self) -> list[dict[str, Value]]:
        """The grid, the last key fastest. Raises as `size`."""
        self.size()
        grid = self._grid()
        return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]

    def size(self) -> int:
        """Of the grid. Raises `ProblemsFound` where it has no end, or more than `MOST` combinations."""
        n = math.prod(len(values) for values in self._grid().values())
        if n > MOST:
            fix = "search them:  hydra.sweeper.sampler=tpe hydra.sweeper.n_trials=100"
            raise ProblemsFound([Problem("-m", f"has {n:,} combinations, more than the {MOST:,} of the longest grid", fix)])
        return n

    def _grid(self) -> dict[str, Sequence[Value]]:
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
        return grid

    def is_listed(self) -> bool:
        """Whether it is a list of combinations: no interval, no condition."""
        try:
            return bool(self._grid())
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
        fix = "leave it out, or add  optimizer.lr=1e-3,1e-4  or  'optimizer.lr=tag(log,interval(1e-5,1e-2))'  or  hparams_search=NAME"
        problems.append(Problem("-m", "has nothing to vary", fix))
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
        is_number = isinstance(choice, int | float) and not isinstance(choice, bool)  # True would be 1
        texts.setdefault(choice if is_number else text, text)  # of 1 and 1.0, which are one, as it is typed first
    if isinstance(value, ChoiceSweep) and value.shuffle:  # anew at each start, where a sweep has to be the same
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
    """As Hydra counts: the stop is left out."""
    start, step, text = sweep.start, sweep.step, f"range({sweep.start}, {sweep.stop}, {sweep.step})"
    if not step:
        raise ValueError(f"{text} has no step")
    assert start is not None
    values = sweep.range()
    n = len(values) if isinstance(values, range) else sum(1 for _ in islice(values, MOST + 1))
    if not n:
        raise ValueError(f"{text} is empty")
    if isinstance(values, range):
        return IntDistribution(min(values[0], values[-1]), max(values[0], values[-1]), step=abs(values.step))
    if n > MOST:
        raise ValueError(f"{text} has more than {MOST:,} numbers;   write  interval(START,STOP)")
    low, high = sorted(_steps(start, step, [0, n - 1]))
    return FloatDistribution(low, high, step=abs(step))


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
