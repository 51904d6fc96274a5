"""What a user types behind a command, sorted into what Hydra can apply and problems in plain words.

Hydra stops at the first mistake and speaks of its own machinery. So it is asked first, and only when it refuses, each
override is looked at by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, Transformer, ValueType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from segkit.config.aliases import keyword_hint
from segkit.config.commands import COMMANDS
from segkit.config.groups import CONF
from segkit.config.messages import section
from segkit.config.presets import GROUP, fits
from segkit.config.ranges import CKPT_PATH, RESUME
from segkit.config.search_path import primary_of
from segkit.config.targets import keywords_of
from segkit.config.validate import only_training
from segkit.system.errors import Problem, first_line, nearest
from segkit.system.shell import argument
from segkit.system.shell import override as typed

REFUSALS = (HydraException, OmegaConfBaseException, YAMLError, ValueError, AssertionError)
LAUNCHERS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
}
"""Hydra's own, each a package."""
COMPOSED: dict[tuple[str, ...], DictConfig] = {}
"""What has been composed since Hydra was initialized: it takes half a second each, and a multirun is looked at from several sides."""
SMALL = 1e-4
"""Tried around 0, times the factors."""


def around(value: float, *factors: float) -> str:
    """`${around:${optimizer.lr}, 0.3, 1, 3}` in a stage's list: values around the preset's own. 0 and small ones around 0."""
    values = [factor * (value or SMALL) for factor in factors]
    return ",".join(dict.fromkeys(f"{one:g}" for one in (values if value else [0.0, *values[1:]])))


OmegaConf.register_new_resolver("around", around, replace=True)


def key_of(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")


def as_none(text: str) -> str:
    """`~logger` as `logger=none`: without the group the schema's defaults would count. As it is where there is no option `none`."""
    group = text[1:].partition("=")[0]
    return f"{group}=none" if text.startswith("~") and (CONF / group / "none.yaml").is_file() else text


def assignment(key: str, *values: object) -> str:
    """`key=value` in which no character of a value has a meaning in Hydra's grammar; several values make a list."""
    quoted = [QuotedString(str(value), Quote.single).with_quotes() for value in values]
    return f"{key}={quoted[0]}" if len(quoted) == 1 else f"{key}=[{','.join(quoted)}]"


def compose(command: str, overrides: Sequence[str]) -> DictConfig:
    """With the `hydra` node, to which `${hydra:…}` refers. Needs an initialized Hydra (see compose.py)."""
    words = [as_none(text) for text in overrides]
    key = (primary_of(command), *words)
    if key not in COMPOSED:
        cfg = hydra.compose(primary_of(command), words, return_hydra_config=True)
        with read_write(cfg), open_dict(cfg):
            cfg.hydra.job.id, cfg.hydra.job.num = cfg.hydra.job.get("id") or "0", 0  # as Hydra sets them when a job starts
            cfg.hydra.runtime.output_dir = str(Path(cfg.hydra.run.dir).absolute())
        COMPOSED[key] = cfg
    HydraConfig.instance().set_config(COMPOSED[key])
    return COMPOSED[key]


def compose_or_explain(command: str, overrides: Sequence[str], loader: ConfigLoader) -> tuple[DictConfig | None, list[Problem]]:
    """The composed config without the overrides that are wrong, and what is wrong with them. None: nothing composes."""
    try:
        return compose(command, overrides), []
    except REFUSALS as refusal:
        try:
            base = compose(command, [])
        except REFUSALS as worse:
            return None, [_explain(worse, command)]
        parsed, problems = _parse(overrides, loader)
        parsed, wrong = _check_groups(command, parsed, choices(base), loader)
        parsed, unknown = _check_keys(command, parsed, base, choices(base))
        cfg, refused = _apply_each(command, parsed, base)
        problems += [*wrong, *unknown, *refused]
        return cfg, problems or [_explain(refusal, command)]


def choices(cfg: DictConfig) -> dict[str, str | None]:
    """The option taken of each group, Hydra's own included."""
    return {str(group): option for group, option in cfg.hydra.runtime.choices.items()}


def options(group: str, loader: ConfigLoader) -> list[str]:
    return [name for name in loader.get_group_options(group) if not name.startswith("_")]


def _parse(texts: Sequence[str], loader: ConfigLoader) -> tuple[list[Override], list[Problem]]:
    parsed, problems = [], []
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            (override,) = OverridesParser.create(loader).parse_overrides([text])
        except HydraException:
            problems.append(Problem(key or text, "cannot be read" if equals else "has no value", _readable(key, value, loader)))
            continue
        if override.is_sweep_override():
            what = "holds several values: -m runs them one after the other, brackets make a list"
            as_list = "" if "(" in value else f"  or  {argument(key, f'[{value}]')}"
            problems.append(Problem(key, what, f"write  -m {argument(key, value)}{as_list}"))
        else:
            parsed.append(override)
    return parsed, problems


def _readable(key: str, value: str, loader: ConfigLoader) -> str:
    """The line to type: the first spelling that Hydra can read."""
    if "[" in key:
        return "write  " + argument(re.sub(r"\[(\w+)\]", r".\1", key), value)
    if not value:
        return f"write  {key}=VALUE"
    inside = re.sub(r"""(?<=[:\[,])(\s*)([^\s,:"'{}\[\]][^,:"'{}\[\]]*=[^,"'{}\[\]]*)""", r'\1"\2"', value)
    for spelling in (f'"{value}"' if "${" in value else "", inside if inside != value else ""):
        with suppress(HydraException):
            if spelling and OverridesParser.create(loader).parse_overrides([f"{key}={spelling}"]):
                return (
                    f"quote what is inside:  {argument(key, spelling)}" if spelling == inside else f"quote it:  {argument(key, spelling)}"
                )
    return f"quote the value:  {typed(key, value)}"


def about_environment(problems: Sequence[Problem], cfg: DictConfig) -> list[Problem]:
    """Variables of the environment are text; where a number is wanted they have to be decoded."""
    plain, found = OmegaConf.to_container(cfg, resolve=False), []
    for problem in problems:
        value: Any = plain
        for part in problem.where.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if problem.what.startswith("needs ") and isinstance(value, str) and value.startswith("${oc.env:"):
            spelling = f'"${{oc.decode:{value}}}"'
            problem = replace(problem, fix=f"an environment variable is text, so decode it:  {argument(problem.where, spelling)}")
        found.append(problem)
    return found


def _check_groups(
    command: str, parsed: Sequence[Override], groups: dict[str, str | None], loader: ConfigLoader
) -> tuple[list[Override], list[Problem]]:
    good, problems = [], []
    for override in parsed:
        group, value = override.key_or_group, override.value()
        known = options(group, loader)
        if override.is_delete() or isinstance(value, dict) or not known:
            good.append(override)
        elif group not in groups and not override.is_add():
            problems.append(Problem(group, f"segkit {command} has no group {group}"))
        elif value is None:
            problems.append(Problem(group, "null is not a valid option", f"write  ~{group}  to leave it out"))
        else:
            wrong = [str(name) for name in (value if isinstance(value, list) else [value]) if str(name) not in known]
            problems += [_invalid_option(group, name, known) for name in wrong]
            good += [] if wrong else [override]
    return good, problems


def _invalid_option(group: str, name: str, known: Sequence[str]) -> Problem:
    if group == "hydra/launcher" and name in LAUNCHERS:
        return Problem(group, f"{name} needs the package {LAUNCHERS[name]}", f"pip install {LAUNCHERS[name]}")
    hint = nearest(name, known)
    what = f"{name} is not a valid option" + (f"; {hint}" if hint else "")
    return Problem(group, what, f"available: {', '.join(known)}")


def _check_keys(
    command: str, parsed: Sequence[Override], base: DictConfig, groups: dict[str, str | None]
) -> tuple[list[Override], list[Problem]]:
    """Keys must be there, unless a `+` adds them. Groups are composed first: they decide which keys there are."""
    first = {*groups, "allow_targets"}
    settled = [o for o in parsed if o.key_or_group in first or o.is_add() or o.is_force_add()]
    cfg, _ = _apply_each(command, settled, base)
    good, problems = [], []
    for override in parsed:
        problem = None if override in settled else _unknown_key(command, override, cfg, groups)
        if problem:
            problems.append(problem)
        else:
            good.append(override)
    return good, problems


def _unknown_key(command: str, override: Override, cfg: DictConfig, groups: dict[str, str | None]) -> Problem | None:
    tree = plain = OmegaConf.to_container(cfg, resolve=False)
    parts = [part for part in re.split(r"[.\[\]]+", override.key_or_group) if part]
    for depth, part in enumerate(parts):
        if isinstance(plain, list) or (isinstance(plain, str) and "${" in plain):
            return None  # Hydra knows better
        if not isinstance(plain, dict):
            holds = "null" if plain is None else repr(plain)
            section, inner = ".".join(parts[:depth]), ".".join(parts[depth:])
            fix = f"  '{section}={{{inner}: {override.get_value_element_as_str()}}}'" if plain is None and depth == len(parts) - 1 else ""
            return Problem(".".join(parts), f"{section} has no keys: it is {holds}", f"set them together:{fix}" if fix else "")
        keys = {str(key): key for key in plain}
        if part not in keys:
            return _missing(command, str(override.input_line), parts, depth, plain, tree, groups)  # type: ignore[arg-type]
        plain = plain[keys[part]]
    return None


def _missing(
    command: str,
    text: str,
    parts: list[str],
    depth: int,
    node: dict[str, Any],
    tree: dict[str, Any],
    groups: dict[str, str | None],
) -> Problem:
    """The key is not in `node`. Is it misspelt, elsewhere in the tree, or does it only need a `+`?"""
    key, part, parents = ".".join(parts), parts[depth], parts[:depth]
    names = [str(name) for name in node if name != "hydra"]
    if command == "train" and key == CKPT_PATH:
        return Problem(key, *RESUME)
    target = node.get("_target_")
    if target is not None and depth == len(parts) - 1:
        keywords = keywords_of(str(target), tree.get("allow_targets") or (), only_training(tuple(parents)))
        if part in keywords:
            return Problem(key, "is not in the config yet", f"add it with  {_added(text)}")
        names += keywords
    if not parents:
        names += [group for group in groups if not group.startswith("hydra/")]
    prefix = "".join(f"{parent}." for parent in parents)
    close = keyword_hint(str(target), part, prefix) or nearest(part, names, prefix)
    if close:
        rest = "".join(f".{later}" for later in parts[depth + 1 :])
        return Problem(key, f"no such key; {close[:-1]}{rest}?")
    elsewhere = [path for path in leaves(tree) if path.rpartition(".")[2] == parts[-1]]
    if elsewhere:
        return Problem(key, f"no such key; did you mean {' or '.join(elsewhere[:3])}?")
    is_free = section(COMMANDS[command], parents) is None if parents else command == "train"
    free = target is None and is_free and key.split(".")[0] != "hydra"
    return Problem(key, "no such key", f"add it with  {_added(text)}" if free else "")


def _added(text: str) -> str:
    """An override as typed, with a plus before it."""
    key, _, value = text.partition("=")
    return argument(f"+{key}", value)


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.") if key != "hydra" else ()
        else:
            yield f"{prefix}{key}"


def _apply_each(command: str, parsed: Sequence[Override], base: DictConfig) -> tuple[DictConfig, list[Problem]]:
    """All at once where Hydra agrees, else one after the other, leaving out what it refuses."""
    with suppress(*REFUSALS):
        return compose(command, [str(o.input_line) for o in parsed]), []
    cfg, problems = base, []
    taken: list[str] = []
    for override in parsed:
        try:
            cfg = compose(command, [*taken, str(override.input_line)])
            taken.append(str(override.input_line))
        except REFUSALS as refusal:
            problems += _new_in_mapping(override, cfg) or [_explain(refusal, override.key_or_group)]
    return cfg, problems


def _new_in_mapping(override: Override, cfg: DictConfig) -> list[Problem]:
    """Keys of a mapping that are not in the config yet: Hydra merges it with what is there, and adds only what a `+` precedes."""
    key, value = override.key_or_group, override.value()
    known = OmegaConf.select(cfg, key, throw_on_resolution_failure=False, default=None)
    if not isinstance(value, dict) or not OmegaConf.is_dict(known) or override.is_add():
        return []
    text = {str(name): Override._get_value_element_as_str(inner, space_after_sep=True) for name, inner in value.items()}
    lines = [argument(f"{'' if name in known else '+'}{key}.{name}", inner) for name, inner in text.items()]
    new = [name for name in text if name not in known]
    return [Problem(key, f"has no {', '.join(new)} yet", f"add it with  {' '.join(lines)}")] if new else []


def _explain(refusal: Exception, where: str) -> Problem:
    if isinstance(refusal, MissingConfigException) and refusal.missing_cfg_file and refusal.options:
        group, _, name = refusal.missing_cfg_file.rpartition("/")
        return _invalid_option(group, name, [option for option in refusal.options if not option.startswith("_")])
    if isinstance(refusal, MarkedYAMLError) and refusal.problem_mark:
        mark = refusal.problem_mark
        return Problem(str(mark.name).strip(), f"line {mark.line + 1} is no YAML: {refusal.problem}")
    if "Could not append" in str(refusal):
        return Problem(where, "is in the config already", f"write it without +:  {where}=VALUE")
    cause = refusal.__cause__ or refusal
    first_lines = [first_line(error).rstrip(".") for error in (refusal, cause)]
    return Problem(where, "; ".join(dict.fromkeys(first_lines)))


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
    """The values of a swept override. `experiment=glob(pelvis_*)` means the presets that can be trained."""
    values = override.sweep_iterator(transform)
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP and override.key_or_group == GROUP:
        return (value for value in values if fits("train", str(value), loader))
    return values


def as_typed(key: str, value: Any) -> str:
    """An entry of `hydra.sweeper.params` as on the command line. Text is in Hydra's grammar already: `choice(a, b)`."""
    return f"{key}={value if isinstance(value, str) else Transformer.str(value)}"
