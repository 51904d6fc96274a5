"""The values of a multirun: those that the user types, and the lists that a stage of tuning brings (`hydra.sweeper.params`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer, ValueType
from hydra.errors import HydraException
from omegaconf import OmegaConf

from segkit.config import presets
from segkit.config.overrides import REFUSALS, compose, options
from segkit.system.errors import Problem, SegkitError

SMALL = 1e-4
"""What is tried around 0, times the factors."""


def around(value: float, *factors: float) -> str:
    """`${around:${optimizer.lr}, 0.3, 1, 3}` in a stage's list: values around the preset's own. 0 and small ones around 0."""
    values = [factor * (value or SMALL) for factor in factors]
    return ",".join(dict.fromkeys(f"{one:g}" for one in (values if value else [0.0, *values[1:]])))


OmegaConf.register_new_resolver("around", around, replace=True)


def listed(command: str, overrides: Sequence[str], loader: ConfigLoader, typed: Sequence[str] | None = None) -> list[str]:
    """The sweeps that `hydra.sweeper.params` adds; a key that the user types (None: any of `overrides`) is left to the user."""
    keys = {key_of(text) for text in (overrides if typed is None else typed)}
    try:
        fixed = [text for text in overrides if len(alternatives(text, loader)) == 1]
        params = OmegaConf.select(compose(command, fixed), "hydra.sweeper.params") or {}
        return [as_typed(str(key), values) for key, values in params.items() if key not in keys]
    except REFUSALS:
        return []  # what is wrong is told when the jobs are tried


def jobs(command: str, overrides: Sequence[str], typed: Sequence[str], loader: ConfigLoader) -> list[list[str]]:
    """Every combination, as in a multirun, of `overrides`, the lists around them, and what is `typed` in place of these."""
    rest = [text for text in overrides if key_of(text) not in {key_of(own) for own in typed}]
    texts = [*rest, *listed(command, [*rest, *typed], loader, typed), *typed]
    try:
        (batch,) = BasicSweeper.split_arguments(OverridesParser.create(loader).parse_overrides(texts), None)
    except HydraException as refusal:
        raise SegkitError(str(refusal)) from refusal
    return batch


def key_of(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")


def unsteady(command: str, overrides: Sequence[str], loader: ConfigLoader) -> list[Problem]:
    """Groups swept together with lists that depend on them: Hydra reads the lists once, before any job."""
    once, problems = listed(command, overrides, loader), []
    for i, text in enumerate(overrides):
        group, values = key_of(text), alternatives(text, loader)
        if len(values) == 1 or not options(group, loader):
            continue
        one_each = ([*overrides[:i], value, *overrides[i + 1 :]] for value in values)
        if others := [sweep for job in one_each for sweep in listed(command, job, loader) if sweep not in once]:
            fix = f"take one {group} at a time, or type the values  {others[0]}"
            problems.append(Problem(group, f"decides which values of {key_of(others[0])} are swept", fix))
    return problems


def one_at_a_time(overrides: Sequence[str], loader: ConfigLoader) -> Iterator[list[str]]:
    """Jobs that together meet every swept value: the first of each, then one value changed at a time."""
    swept = [alternatives(override, loader) for override in overrides]
    first = [values[0] for values in swept]
    yield first
    for i, values in enumerate(swept):
        yield from ([*first[:i], value, *first[i + 1 :]] for value in values[1:])


def alternatives(text: str, loader: ConfigLoader) -> list[str]:
    """`key=a,b` as `key=a` and `key=b`; of a range its first two values, of an interval its ends."""
    try:
        (override,) = OverridesParser.create(loader).parse_overrides([text])
    except HydraException:
        return [text]
    key = override.get_key_element()
    if isinstance(override.value(), IntervalSweep):
        return [f"{key}={override.value().start}", f"{key}={override.value().end}"]  # type: ignore[union-attr]
    if not override.is_sweep_override():
        return [text]
    most = 2 if override.value_type == ValueType.RANGE_SWEEP else None  # numbers of a range are all alike
    values = [f"{key}={value}" for value in islice(swept(override, loader, Transformer.str), most)]
    return values or [text]


def swept(override: Override, loader: ConfigLoader, transform: Callable[[Any], Any]) -> Iterator[Any]:
    """Its values. `experiment=glob(pelvis_*)` means the presets that can be trained."""
    values = override.sweep_iterator(transform)
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP and override.key_or_group == presets.GROUP:
        return (value for value in values if presets.fits("train", str(value), loader))
    return values


def as_typed(key: str, value: Any) -> str:
    """An entry of `hydra.sweeper.params` as on the command line. Text is in Hydra's grammar already: `choice(a, b)`."""
    return f"{key}={value if isinstance(value, str) else Transformer.str(value)}"
