"""The door: every mistake in a config is found here, before torch is imported, and all of them are told at once.

Hydra composes, OmegaConf resolves, pydantic checks (`schema.py`), `targets.py` reads the signatures of what is named.
Behind the door there are frozen models and plain dicts: a DictConfig never leaves this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, ClassVar

from hydra import initialize_config_dir, version
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from segkit.config import messages, presets, search, sweeps
from segkit.config import overrides as hydra_overrides
from segkit.config.validate import BEFORE, checked
from segkit.system.errors import Problem, ProblemsFound, raise_errors

PACKAGE = Path(__file__).resolve().parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"

PLACEHOLDERS = {"ckpt": "FILE", "input": "FILE_OR_FOLDER", "output": "FOLDER", "weights": "FILE"}


class UserFolders(SearchPathPlugin):
    """Puts the user's config folders before our own, so that they add options and may replace ours."""

    folders: ClassVar[tuple[Path, ...]] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in reversed(self.folders):
            search_path.prepend("user", folder.as_uri())


def use_folders(config_dirs: Sequence[Path | str] = ()) -> None:
    """Have Hydra look into `config_dirs`, and into ./conf where the working directory has one."""
    local = Path("conf").resolve()
    named = [Path(folder).resolve() for folder in config_dirs]
    missing = [Problem("--config-dir", f"{folder} is no folder") for folder in named if not folder.is_dir()]
    if missing:
        raise ProblemsFound(missing)
    ours = [local] if local.is_dir() and local not in (CONF, *named) else []
    UserFolders.folders = (*named, *ours)
    Plugins.instance().register(UserFolders)


def compose(command: str, overrides: Sequence[str] = (), config_dirs: Sequence[Path | str] = ()) -> BaseModel:
    """The checked config of `command` with Hydra overrides, as on the command line. Raises `ProblemsFound`."""
    with _hydra(config_dirs) as loader:
        return _compose(command, list(overrides), loader)


def check(command: str, overrides: Sequence[str], config_dirs: Sequence[Path | str] = (), multirun: bool = False) -> None:
    """Raise `ProblemsFound` with everything that is wrong. In a multirun, every swept value is tried by itself."""
    problems: list[Problem] = []
    with _hydra(config_dirs) as loader:
        every = list(overrides)
        jobs: Iterable[list[str]] = [every]
        if multirun:
            problems += sweeps.unsteady(command, overrides, loader)
            every = [*sweeps.listed(command, overrides, loader), *overrides]
            jobs = search.possible(sweeps.one_at_a_time(every, loader), search.conditions(command, overrides, loader))
        else:
            check_single(command, overrides)
        for job in jobs:
            try:
                _compose(command, job, loader)
            except ProblemsFound as found:
                problems += search.told_of_intervals(found.problems, every)
    if problems:
        raise ProblemsFound(dict.fromkeys(problems), BEFORE[command])


def check_single(command: str, overrides: Sequence[str]) -> None:
    """Raise `ProblemsFound` where the overrides only make sense in a multirun."""
    raise_errors(search.needs_multirun(overrides), BEFORE[command])


def jobs(command: str, overrides: Sequence[str], typed: Sequence[str] = (), config_dirs: Sequence[Path | str] = ()) -> list[list[str]]:
    """The overrides of each job of a multirun; `typed` replaces the lists that a stage brings, which lie around `overrides`."""
    with _hydra(config_dirs) as loader:
        return sweeps.jobs(command, overrides, typed, loader)


def to_model(command: str, cfg: DictConfig, choices: Mapping[str, str | None]) -> BaseModel:
    """The composed config as a checked model. `choices`: the options taken of each group; they name the experiment."""
    problems: list[Problem] = []
    container = _plain(cfg, (), problems)
    if command == "train" and container.get("name") is None:
        container["name"] = str(choices.get("experiment") or choices.get("data"))
    if command == "plan" and container.get("choice") is None:
        container["choice"] = choices.get("data")
    if command in ("evaluate", "predict", "calibrate") and not choices.get("data") and isinstance(container.get("data"), dict):
        container["data"] = {key: value for key, value in container["data"].items() if value is not None}
    return checked(command, container, problems)


def groups(command: str, config_dirs: Sequence[Path | str] = ()) -> dict[str, tuple[str, list[str]]]:
    """Config groups of a command: the option in use (or '') and all options. Hydra's own groups are left out."""
    with _hydra(config_dirs) as loader:
        chosen = hydra_overrides.choices(hydra_overrides.compose(command, []))
        ours = [group for group in reversed(chosen) if not group.startswith("hydra/")]
        return {group: (chosen[group] or "", _offered(command, group, loader)) for group in ours}


def _offered(command: str, group: str, loader: ConfigLoader) -> list[str]:
    names = hydra_overrides.options(group, loader)
    return names if group != presets.GROUP else [name for name in names if presets.fits(command, name, loader)]


@contextmanager
def _hydra(config_dirs: Sequence[Path | str]) -> Iterator[ConfigLoader]:
    """Hydra with our search path. Its global state, which another Hydra application may be using, is put back."""
    outer, base, job = GlobalHydra.instance().hydra, version.getbase(), copy(JobRuntime.instance().conf)
    folders = UserFolders.folders
    use_folders(config_dirs)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), job_name="segkit", version_base="1.3"):
            yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().hydra = outer
        version.VersionBase.instance().version_base = base
        JobRuntime.instance().conf = job
        UserFolders.folders = folders


def _compose(command: str, overrides: list[str], loader: ConfigLoader) -> BaseModel:
    if stranger := presets.misplaced(command, overrides, loader):
        raise ProblemsFound([stranger], BEFORE[command])
    cfg, problems = hydra_overrides.compose_or_explain(command, overrides, loader)
    if cfg is None:
        raise ProblemsFound(problems, BEFORE[command])
    try:
        model = to_model(command, cfg, hydra_overrides.choices(cfg))
    except ProblemsFound as found:
        unread = {problem.where for problem in problems}  # given, but not understood: they are not missing
        problems += [problem for problem in found.problems if problem.where not in unread]
    if problems:
        raise ProblemsFound(dict.fromkeys(problems), BEFORE[command])
    return model


def _plain(node: DictConfig | ListConfig, path: messages.Path, problems: list[Problem]) -> Any:
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
    return _plain(value, path, problems) if OmegaConf.is_config(value) else value
