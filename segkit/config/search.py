"""Searches at the door: they need -m, and some keys are tuned only where another one has a certain value (`hydra.sweeper.when`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from hydra.core.config_loader import ConfigLoader
from omegaconf import OmegaConf

from segkit.config.overrides import REFUSALS, compose
from segkit.config.sweeps import alternatives, key_of
from segkit.system.errors import Problem

When = Mapping[str, str]
"""Key -> the override, such as `optimizer=sgd`, without which it is left alone."""


def needs_multirun(overrides: Sequence[str]) -> list[Problem]:
    given = [text for text in overrides if key_of(text) in ("hparams_search", "hydra/sweeper") and not text.endswith(("=null", "=basic"))]
    return [Problem(key_of(text), "is a search of many trainings", f"write  segkit train -m {text} …") for text in given]


def told_of_intervals(problems: Iterable[Problem], overrides: Sequence[str]) -> list[Problem]:
    """An interval is of floats, unless it is written otherwise; its two ends are one mistake."""
    typed = {key: value for key, _, value in (text.partition("=") for text in overrides) if "interval(" in value}
    return [
        replace(problem, what="needs whole numbers", fix=f"write  {problem.where}=int({typed[problem.where]})")
        if problem.where in typed and problem.what.startswith("needs a whole number")
        else problem
        for problem in problems
    ]


def conditions(command: str, overrides: Sequence[str], loader: ConfigLoader) -> dict[str, str]:
    fixed = [text for text in overrides if len(alternatives(text, loader)) == 1]
    try:
        when = OmegaConf.select(compose(command, fixed), "hydra.sweeper.when") or {}
        return {str(key): str(text).replace(" ", "") for key, text in when.items()}
    except REFUSALS:
        return {}  # what is wrong is told when the jobs are tried


def possible(jobs: Iterable[list[str]], when: When) -> Iterator[list[str]]:
    """`jobs` (see `sweeps.one_at_a_time`) as the search would start them: a conditional key is there with its condition, or not at all."""
    first: list[str] | None = None
    for job in jobs:
        if first is None:
            first = job
            yield from (active(meeting(first, key, when), when) for key in when)
        changed = next((key_of(text) for text in job if text not in first), "")
        yield active(meeting(job, changed, when), when)


def meeting(job: list[str], key: str, when: When) -> list[str]:
    """`job` with the condition of `key`, and the conditions of that."""
    for _ in when:  # as deep as they can lie
        if key not in when:
            break
        condition = when[key]
        key = key_of(condition)
        job = [condition if key_of(text) == key else text for text in job]
    return job


def active(job: list[str], when: When) -> list[str]:
    for _ in when:
        job = [text for text in job if when.get(key_of(text), text) in job]
    return job
