"""Where Hydra looks for configs: the user's folders, then segkit's own; and which file is the primary config of a command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from segkit.config.groups import CONF
from segkit.system.errors import Problem, ProblemsFound, SegkitError, few

COMMANDS = frozenset(path.stem for path in CONF.glob("*.yaml"))


class UserOptions(FileConfigSource):
    """A user's config folder. It adds options and may replace ours, but never the config of a command: ./conf may be another program's."""

    @staticmethod
    def scheme() -> str:
        return "segkit-user"

    def is_config(self, config_path: str) -> bool:
        return config_path.removesuffix(".yaml") not in COMMANDS and super().is_config(config_path)


class OwnOptions(FileConfigSource):
    """segkit's own configs: parsed in C, and once in a process, since half of a command's start would be spent on reading them."""

    @staticmethod
    def scheme() -> str:
        return "segkit"

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path))
        if not file.is_file():
            raise ConfigLoadError(f"Config not found : {file}")
        header, content = parsed(file)
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", OmegaConf.create(content), dict(header))


@cache
def parsed(file: Path) -> tuple[dict[str, str | None], Any]:
    """The header (`# @package …`) of one of segkit's own configs, and its content."""
    text = file.read_text(encoding="utf-8")
    return ConfigSource._get_header_dict(text[:512]), yaml.load(text, own_loader()) or {}


@cache
def own_loader() -> Any:
    """The rules of OmegaConf's loader, which is one in Python, upon the parser in C where PyYAML has it."""
    ours = type("Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})
    ours.yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers  # type: ignore[attr-defined]
    return ours


class UserFolders(SearchPathPlugin):
    """Puts the user's config folders before our own.

    Attributes:
        folders: Whose options count before ours.
        primary: The name of the user's own primary config (`--config-name`), in place of the command's.
        path: The folder in which even configs named like our commands count (`--config-path`).
        local: Whether ./conf counts.
    """

    folders: ClassVar[tuple[Path, ...]] = ()
    primary: ClassVar[str | None] = None
    path: ClassVar[Path | None] = None
    local: ClassVar[bool] = True

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path():
            if (element.path or "").removeprefix("file://") == str(CONF):
                element.path = f"{OwnOptions.scheme()}://{CONF}"
        for folder in reversed(self.folders):
            search_path.prepend("user", f"{UserOptions.scheme()}://{folder}")
        if self.path:
            search_path.prepend("user", f"file://{self.path}")


def use_folders(config_dirs: Sequence[Path | str] = ()) -> None:
    """Have Hydra look into `config_dirs`, and into ./conf where the working directory has one."""
    local = Path("conf").resolve()
    named = [Path(folder).resolve() for folder in config_dirs]
    missing = [Problem("--config-dir", f"{folder} is no folder") for folder in named if not folder.is_dir()]
    if missing:
        raise ProblemsFound(missing)
    ours = [local] if UserFolders.local and local.is_dir() and local not in (CONF, *named) else []
    UserFolders.folders = (*named, *ours)
    for plugin in (UserFolders, UserOptions, OwnOptions):
        Plugins.instance().register(plugin)


def shadows() -> list[str]:
    """A line for each of the user's folders that holds files named like ours: which of these are replaced, and which are not."""
    lines = []
    for folder in UserFolders.folders:
        names = [file.relative_to(folder) for file in sorted(folder.rglob("*.yaml"))]
        replaced = [str(name.with_suffix("")) for name in names if len(name.parts) > 1 and (CONF / name).exists()]
        unused = [str(name) for name in names if len(name.parts) == 1 and name.stem in COMMANDS]
        what = [f"replaces segkit's own {few(replaced)}"] if replaced else []
        what += [f"holds {few(unused)} of another program, which segkit leaves out"] if unused else []
        lines += [f"{folder} {' and '.join(what)}"] if what else []
    return lines


@contextmanager
def primary_config(command: str, name: str | None, path: str | None, config_dirs: Sequence[Path | str]) -> Iterator[None]:
    """Have `--config-name` and `--config-path`, as typed, count for the length of a block.

    Raises:
        SegkitError: There is no such config, or it is that of another command.
    """
    name, folder = (name or command).removesuffix(".yaml"), Path(path).resolve() if path else None
    if folder and not folder.is_dir():
        raise SegkitError(f"--config-path: {folder} is no folder")
    if name in COMMANDS - {command} and not (folder and (folder / f"{name}.yaml").is_file()):
        raise SegkitError(f"--config-name={name} is the config of another command;   type  segkit {name} …")
    places = [*([folder] if folder else []), *map(Path, config_dirs), Path("conf"), CONF]
    if not any((place / f"{name}.yaml").is_file() for place in places):
        raise SegkitError(f"--config-name={name}: there is no {name}.yaml in {few([str(place) for place in places])}")
    before = UserFolders.primary, UserFolders.path
    UserFolders.primary, UserFolders.path = (name if name != command or folder else None), folder
    try:
        yield
    finally:
        UserFolders.primary, UserFolders.path = before


@contextmanager
def without_user() -> Iterator[None]:
    """Have segkit's own configs alone count for the length of a block."""
    before = UserFolders.primary, UserFolders.path, UserFolders.local
    UserFolders.primary, UserFolders.path, UserFolders.local = None, None, False
    try:
        yield
    finally:
        UserFolders.primary, UserFolders.path, UserFolders.local = before


def primary_of(command: str) -> str:
    """The name of the config that a command starts from."""
    return UserFolders.primary or command
