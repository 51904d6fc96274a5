"""Compose and validate: every mistake in a config is found here and all of them are reported at once.

Hydra composes, OmegaConf resolves, pydantic checks (`schema.py`), and `targets.py` checks the keywords of what is named. What leaves
this file are frozen models and plain dicts, never a DictConfig. A multirun is checked whole before its first job: every swept value,
the lists that a stage brings (`hydra.sweeper.params`), and keys that are searched only where another one has a certain value
(`hydra.sweeper.when`). `folds=all` is one word for a multirun over all folds of a split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir, version
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel
from yaml import YAMLError

from segkit.config import messages
from segkit.config import overrides as hydra_overrides
from segkit.config.groups import CONF as CONF
from segkit.config.groups import present_words
from segkit.config.overrides import REFUSALS, alternatives, as_typed, key_of, options
from segkit.config.presets import GROUP, fits, misplaced
from segkit.config.ranges import FOLD, KEY, fold_numbers
from segkit.config.schema import Train
from segkit.config.search_path import UserFolders, use_folders
from segkit.config.validate import before, checked
from segkit.system.errors import Problem, ProblemsFound, raise_errors
from segkit.system.shell import argument

PLACEHOLDERS = {"ckpt": "FILE", "input": "FILE_OR_FOLDER", "output": "FOLDER", "weights": "FILE"}
When = Mapping[str, str]
"""Key -> the override, such as `optimizer=sgd`, without which it is left alone."""


def compose(command: str, overrides: Sequence[str] = (), config_dirs: Sequence[Path | str] = ()) -> BaseModel:
    """The checked config of `command` with Hydra overrides, as on the command line. Raises `ProblemsFound`."""
    with _hydra(config_dirs) as loader:
        return _compose(command, present_words(overrides), loader)


def check(command: str, overrides: Sequence[str], config_dirs: Sequence[Path | str] = (), multirun: bool = False) -> None:
    """Raise `ProblemsFound` with everything that is wrong. In a multirun, every swept value is tried by itself."""
    problems: list[Problem] = []
    with _hydra(config_dirs) as loader:
        every = list(overrides)
        jobs: Iterable[list[str]] = [every]
        if multirun:
            problems += unsteady(command, overrides, loader)
            every = [*listed(command, overrides, loader), *overrides]
            when, wrong = conditions(command, overrides, loader)
            problems += wrong
            jobs = possible(one_at_a_time(every, loader), {key: str(text).replace(" ", "") for key, text in when.items()})
        else:
            check_single(command, overrides)
        for job in jobs:
            try:
                _compose(command, job, loader)
            except ProblemsFound as found:
                problems += about_intervals(about_conditions(command, found.problems, every, loader), every)
    if problems:
        raise ProblemsFound(dict.fromkeys(problems), before(command))


def check_single(command: str, overrides: Sequence[str]) -> None:
    """Raise `ProblemsFound` where the overrides only make sense in a multirun."""
    given = [text for text in overrides if key_of(text) in ("hparams_search", "hydra/sweeper") and not text.endswith(("=null", "=basic"))]
    problems = [Problem(key_of(text), "is a search of many trainings", f"write  segkit train -m {text} …") for text in given]
    raise_errors(problems, before(command))


def check_leftovers(command: str, overrides: Sequence[str], config_dirs: Sequence[Path | str] = ()) -> None:
    """Raise `ProblemsFound` with the keys that a preset sets for an option in whose place another one is typed (see `leftovers`)."""
    if GROUP in (typed := set(map(key_of, overrides))) and any(key in Train.model_fields and (CONF / key).is_dir() for key in typed):
        with _hydra(config_dirs) as loader, suppress(*REFUSALS):  # what does not compose is reported when it starts
            raise_errors(leftovers(command, overrides, hydra_overrides.compose(command, overrides), loader), before(command))


def sweep_words(command: str, overrides: Sequence[str], typed: Sequence[str] = (), config_dirs: Sequence[Path | str] = ()) -> list[str]:
    """The overrides of a multirun: `overrides`, the lists around them, and what is `typed` in place of these; each key once."""
    rest = [text for text in overrides if key_of(text) not in {key_of(own) for own in typed}]
    with _hydra(config_dirs) as loader:
        texts = [*rest, *listed(command, [*rest, *typed], loader, typed), *typed]
    return list({key_of(text): text for text in texts}.values())


def to_model(
    command: str, cfg: DictConfig, choices: Mapping[str, str | None], known: Sequence[Problem] = (), overrides: Sequence[str] = ()
) -> BaseModel:
    """Check a composed config. `choices` of groups name the experiment; `known` problems refuse the config in any case.

    Keys that the user has added (see `own_keys`), by `overrides` or otherwise, are kept under `own`.
    """
    problems = list(known)
    container = plain(cfg, (), problems)
    if command == "train" and (own := own_keys(container, choices, overrides)):
        container = {key: value for key, value in container.items() if key not in own} | {"own": {key: container[key] for key in own}}
    if command == "train" and container.get("name") is None:
        container["name"] = str(choices.get("experiment") or choices.get("data"))
    if command == "plan" and container.get("choice") is None:
        container["choice"] = choices.get("data")
    if command in ("evaluate", "predict", "calibrate", "export") and not choices.get("data") and isinstance(container.get("data"), dict):
        container["data"] = {key: value for key, value in container["data"].items() if value is not None}
    try:
        return checked(command, container, problems)
    except ProblemsFound as found:
        raise ProblemsFound(hydra_overrides.about_environment(found.problems, cfg), found.before) from None


def own_keys(container: Mapping[str, Any], choices: Mapping[str, str | None], overrides: Sequence[str]) -> list[str]:
    """Top-level keys that segkit does not know and the user has added: groups of their own, what a `+` has added, and further keys of
    a primary config of their own. What looks like a misspelled key of segkit's is none of them.
    """
    groups = {name.rpartition("@")[2].split("/")[0] for name in choices if "@" in name or not (CONF / name).is_dir()}
    typed = {key_of(text).split(".")[0] for text in overrides if text.startswith("+")}
    added = {*typed, *(container if UserFolders.primary else ())}
    unknown = [key for key in container if key not in Train.model_fields]
    return [key for key in unknown if key in groups or (key in added and not get_close_matches(key, Train.model_fields, cutoff=0.7))]


def groups(command: str, config_dirs: Sequence[Path | str] = ()) -> dict[str, tuple[str, list[str]]]:
    """Config groups of a command: the option in use (or '') and all options. Hydra's own groups are left out."""
    with _hydra(config_dirs) as loader:
        chosen = hydra_overrides.choices(hydra_overrides.compose(command, []))
        ours = [group for group in reversed(chosen) if not group.startswith("hydra/")]
        offered = {group: [name for name in options(group, loader) if group != GROUP or fits(command, name, loader)] for group in ours}
        return {group: (chosen[group] or "", names) for group, names in offered.items()}


@contextmanager
def _hydra(config_dirs: Sequence[Path | str]) -> Iterator[ConfigLoader]:
    """Hydra with our search path. Its global state, which another Hydra application may be using, is put back."""
    outer, base, job = GlobalHydra.instance().hydra, version.getbase(), copy(JobRuntime.instance().conf)
    folders, known = UserFolders.folders, HydraConfig.instance().cfg
    use_folders(config_dirs)
    hydra_overrides.COMPOSED.clear()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), job_name="segkit", version_base="1.3"):
            yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().hydra = outer
        version.VersionBase.instance().version_base = base
        JobRuntime.instance().conf = job
        UserFolders.folders, HydraConfig.instance().cfg = folders, known


def _compose(command: str, overrides: list[str], loader: ConfigLoader) -> BaseModel:
    if stranger := misplaced(command, overrides, loader):
        raise ProblemsFound([stranger], before(command))
    cfg, problems = hydra_overrides.compose_or_explain(command, overrides, loader)
    if cfg is None:
        raise ProblemsFound(problems, before(command))
    problems += leftovers(command, overrides, cfg, loader) if not problems else []
    return to_model(command, cfg, hydra_overrides.choices(cfg), problems, overrides)


def leftovers(command: str, overrides: Sequence[str], cfg: DictConfig, loader: ConfigLoader) -> list[Problem]:
    """Keys that a preset sets for its own network or optimizer, where another one is typed that has no such keys."""
    chosen, typed = hydra_overrides.choices(cfg), {key_of(text) for text in overrides}
    problems: list[Problem] = []
    # (of a list, such as logger=[csv,tensorboard], Hydra notes no choice)
    groups = [key for key in typed if key not in (GROUP, "scheduler") and key in cfg and isinstance(chosen.get(key), str)]
    for group in (key for key in groups if chosen.get(GROUP) and options(key, loader)):
        what = f"is set by experiment={chosen[GROUP]} for another {group}: {group}={chosen[group]} has no such key"
        with suppress(*REFUSALS):  # without the typed option nothing may compose
            problems += [Problem(key, what, f"add  ~{key}") for key in foreign_keys(command, overrides, cfg, group) if key not in typed]
    return problems


def foreign_keys(command: str, overrides: Sequence[str], cfg: DictConfig, group: str) -> list[str]:
    """Keys of the option that is typed for a group which it does not have by itself; none where the preset's own is of the same class."""
    option = hydra_overrides.choices(cfg)[group]
    without = [text for text in overrides if key_of(text).partition(".")[0] != group]
    planned, plain = (hydra_overrides.compose(command, words)[group] for words in (without, [f"{group}={option}"]))
    if "_target_" not in plain or planned.get("_target_") == plain["_target_"]:
        return []
    return [f"{group}.{key}" for key in cfg[group] if key not in plain]


def plain(node: DictConfig | ListConfig, path: messages.Path, problems: list[Problem]) -> Any:
    """Resolved dicts and lists. What is missing or refers to nothing becomes None and one of `problems`."""
    if isinstance(node, ListConfig):
        return [_value(node, i, (*path, i), problems) for i in range(len(node))]
    return {key: _value(node, key, (*path, str(key)), problems) for key in node if path or key != "hydra"}


def _value(node: Any, key: Any, path: messages.Path, problems: list[Problem]) -> Any:
    where = ".".join(map(str, path))
    if OmegaConf.is_missing(node, key):
        problems.append(Problem(where, "is needed", f"add  {where}={PLACEHOLDERS.get(str(key), 'VALUE')}"))
        return None
    try:
        value = node[key]
    except OmegaConfBaseException:
        raw = OmegaConf.to_container(node, resolve=False)
        problems.append(Problem(where, f"{raw[key]} refers to nothing"))  # type: ignore[index]
        return None
    return plain(value, path, problems) if OmegaConf.is_config(value) else value


def listed(command: str, overrides: Sequence[str], loader: ConfigLoader, typed: Sequence[str] | None = None) -> list[str]:
    """The sweeps that `hydra.sweeper.params` adds; a key that the user types (None: any of `overrides`) is left to the user."""
    keys = {key_of(text) for text in (overrides if typed is None else typed)}
    params = of_sweeper(command, overrides, loader, "params")
    return [] if isinstance(params, str) else [as_typed(key, values) for key, values in params.items() if key not in keys]


def of_sweeper(command: str, overrides: Sequence[str], loader: ConfigLoader, key: str) -> Any:
    """The mapping `hydra.sweeper.KEY` under the overrides that are not swept; as it is where it is text."""
    try:
        fixed = [text for text in overrides if len(alternatives(text, loader)) == 1]
        found = OmegaConf.select(hydra_overrides.compose(command, fixed), f"hydra.sweeper.{key}") or {}
        return found if isinstance(found, str) else {str(name): value for name, value in found.items()}
    except REFUSALS:
        return {}  # what is wrong is reported when the jobs are tried


def conditions(command: str, overrides: Sequence[str], loader: ConfigLoader) -> tuple[When, list[Problem]]:
    """`hydra.sweeper.when`, and what is wrong with it."""
    found = of_sweeper(command, overrides, loader, "when")
    if not isinstance(found, str):
        return found, []
    with suppress(YAMLError):
        if isinstance(meant := yaml.safe_load(found), dict):
            fix = f"write  {conditional({str(key): str(value) for key, value in meant.items()})}"
            return {}, [Problem("hydra.sweeper.when", "is text, and needs a mapping {KEY: CONDITION}", fix)]
    return {}, [Problem("hydra.sweeper.when", f"needs a mapping {{KEY: CONDITION}}, got {found!r}")]


def conditional(when: When) -> str:
    """As typed in a shell."""
    return argument("hydra.sweeper.when", "{" + ", ".join(f'{key}: "{text}"' for key, text in when.items()) + "}")


def about_conditions(command: str, problems: Iterable[Problem], overrides: Sequence[str], loader: ConfigLoader) -> Iterator[Problem]:
    """A searched key that only some of the searched options have is to be searched with one of these."""
    for problem in problems:
        swept = (text for text in overrides if key_of(text) == problem.where.split(".")[0] and options(key_of(text), loader))
        values = [value for text in swept for value in alternatives(text, loader)]
        if problem.what.startswith("no such key") and len(values) > 1:
            with suppress(*REFUSALS):
                having = [one for one in values if problem.where in dotted(hydra_overrides.compose(command, [one]))]
                if having:
                    what = f"exists with {' and '.join(having)} alone"
                    problem = replace(problem, what=what, fix=f"add  {conditional({problem.where: having[0]})}")
        yield problem


def dotted(cfg: DictConfig) -> set[str]:
    return set(hydra_overrides.leaves(OmegaConf.to_container(cfg, resolve=False)))  # type: ignore[arg-type]


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


def about_intervals(problems: Iterable[Problem], overrides: Sequence[str]) -> list[Problem]:
    """An interval is of floats, unless it is written otherwise; its two ends are one mistake."""
    typed = {key: value for key, _, value in (text.partition("=") for text in overrides) if "interval(" in value}
    return [
        replace(problem, what="needs whole numbers", fix=f"write  {problem.where}=int({typed[problem.where]})")
        if problem.where in typed and problem.what.startswith(("needs a whole number", "needs auto or a whole number"))
        else problem
        for problem in problems
    ]


def possible(jobs: Iterable[list[str]], when: When) -> Iterator[list[str]]:
    """`jobs` (see `one_at_a_time`) as the search would start them: a conditional key is there with its condition, or not at all."""
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


def spelled_out(argv: Sequence[str], overrides: Sequence[str], config_dirs: Sequence[Path | str] = ()) -> list[str]:
    """`argv`, with  -m split.fold=0,1,…  in place of  folds=all  or  folds=[0,1,…];  as it is where there is none of these."""
    given = [text for text in overrides if key_of(text) == KEY and not text.endswith("=null")]
    if not given:
        return list(argv)
    others = [text for text in overrides if text not in given]
    if any(key_of(text) == FOLD for text in others):
        raise ProblemsFound([Problem(KEY, f"and {FOLD} exclude each other", f"leave one out: {KEY} or {FOLD}")])
    if search := next((text for text in others if key_of(text) == "hparams_search" and not text.endswith("=null")), None):
        what = "of a search: each trial draws its own values, so no two folds would have the same"
        raise ProblemsFound([Problem(KEY, what, f"leave out {search}, and train the folds of its best values")])
    cfg = compose("train", [text for text in others if not is_swept(text)], config_dirs)
    assert isinstance(cfg, Train)
    folds = ",".join(map(str, fold_numbers(given[-1].partition("=")[2], cfg.split)))
    return ["-m", *(word for word in argv if word not in (*given, "-m", "--multirun")), f"{FOLD}={folds}"]


def is_swept(text: str) -> bool:
    """False for what cannot be read, which is reported with everything else that is wrong."""
    try:
        return OverridesParser.create().parse_override(text).is_sweep_override()
    except HydraException:
        return False
