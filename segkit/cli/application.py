"""One command that is being run: one that takes words, or one that is a Hydra application."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from segkit.cli.places import anchor, own_folder
from segkit.system.errors import ProblemsFound, SegkitError, of_machine

if TYPE_CHECKING:
    from argparse import Namespace

    from hydra.conf import HydraConf
    from omegaconf import DictConfig

ORIGINAL_ARGV = tuple(sys.argv) or ("segkit",)
HELP = yaml.safe_load(Path(__file__).with_name("help.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    Attributes:
        name: As typed; also the name of its YAML in conf, and of its model in `config.commands`.
        help: One line for `segkit --help`.
        runs: `module:function`, called with the checked config (without `has_config` with the words typed), imported only then.
        examples: Lines for `segkit NAME --help`.
        about: Further text for `segkit NAME --help`, between the first line and the keys.
        positional: The key that bare words are the value of: one word as text, several as a list. Empty: the command takes none.
        has_config: False: takes words and no keys, works without Hydra.
    """

    name: str
    help: str
    runs: str
    examples: Sequence[str] = ()
    about: str = ""
    positional: str = ""
    has_config: bool = True


class Stopped(KeyboardInterrupt):
    """The job was interrupted and has printed how to resume it. Passes Hydra, so a multirun ends as well."""


@dataclass
class Plain:
    """One command that takes words instead of a config."""

    command: Command
    argv: Sequence[str]

    def __call__(self) -> int:
        """Run the command; the exit code."""
        if {*self.argv} & {"-h", "--help"}:
            print(self.title, "", "Examples", *(f"  {line}" for line in self.command.examples), sep="\n")
            return 0
        return int(resolve_name(self.command.runs)(self.argv) or 0)

    @property
    def title(self) -> str:
        about = f"\n\n{self.command.about}" if self.command.about else ""
        return f"segkit {self.command.name}: {self.command.help}{about}"

    def explained(self, error: Exception) -> Exception:
        """`error`, or a better description of it."""
        return error

    def say(self, text: str) -> None:
        print(f"segkit {self.command.name}: {text}", file=sys.stderr, flush=True)

    def say_error(self, error: Exception) -> None:
        """Headline red, keys bold; plain where stderr is no terminal."""
        from rich.text import Text

        from segkit.system.progress import SafeConsole

        headline, *lines = str(error).splitlines() or [type(error).__name__]
        console = SafeConsole(stderr=True, highlight=False, soft_wrap=True)
        console.print(Text.assemble((f"segkit {self.command.name}: ", "bold"), (headline, "bold red")))
        for line in lines:
            where, gap, rest = line.partition("   ")
            console.print(Text.assemble((where, "bold"), gap, rest))

    def report(self, error: Exception) -> int:
        """Print what went wrong; the exit code."""
        from hydra.errors import HydraException

        from segkit.training.status import Interrupted, Pruned

        if isinstance(error, Interrupted):
            self.say(str(error) or "interrupted")
            raise Stopped from error
        if isinstance(error, Pruned):
            self.say(str(error))
            return 0
        if isinstance(error, SegkitError | HydraException):
            self.say_error(error)
            return int(getattr(error, "exit_code", 2))
        if line := of_machine(error):
            self.say(line)
            return 2
        traceback.print_exception(error)
        return 1


@dataclass
class Application(Plain):
    """One command as a Hydra application. `codes`: the exit code of each job that has run."""

    codes: list[int] = field(default_factory=list)
    args: Namespace = field(init=False)
    flags: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.take(self.argv)

    def take(self, argv: Sequence[str]) -> None:
        """Make `argv` the command line: overrides, on either side of flags and between them, then the flags."""
        from hydra._internal.utils import get_args_parser

        from segkit.config.groups import present_words

        argv = present_words(argv)
        parser = get_args_parser()
        parser.prog, parser.allow_abbrev = f"segkit {self.command.name}", False
        parser.error = self.refuse  # type: ignore[method-assign]
        self.args = parser.parse_intermixed_args(argv)
        self.flags, left = [], list(self.args.overrides)
        for word in argv:
            if word in left:
                left.remove(word)
            else:
                self.flags.append(word)
        self.argv = [*self.args.overrides, *self.flags]

    def refuse(self, message: str) -> NoReturn:
        """Instead of argparse's usage of fifteen lines."""
        self.say(f"{message};   segkit {self.command.name} --help  shows the flags")
        raise SystemExit(2)

    def __call__(self) -> int:
        with self.primary_config():
            return self.run()

    def primary_config(self) -> AbstractContextManager[None]:
        from segkit.config import search_path

        return search_path.primary_config(self.command.name, self.args.config_name, self.args.config_path, self.folders)

    def run(self) -> int:
        args = self.args
        if args.help:
            return self.explain()
        self.take(as_keys(self.command, self.argv, args.overrides))
        if not (args.cfg or args.info or args.shell_completion or args.hydra_help):
            self.check()
        self.start_hydra()
        failed = sum(map(bool, self.codes))
        if self.is_multirun and failed:
            self.say(f"{failed} of {len(self.codes)} jobs failed")
        return max(self.codes, default=0)

    def check(self) -> None:
        """Find what can only be found before Hydra starts: every mistake of a multirun, and what needs one."""
        from segkit.config import compose

        if self.command.name == "train":
            self.take(compose.spelled_out(self.argv, self.args.overrides, self.folders))
        if not self.is_multirun:
            compose.check_single(self.command.name, self.args.overrides)
            if not self.args.experimental_rerun:
                compose.check_leftovers(self.command.name, self.args.overrides, self.folders)
        elif not self.args.experimental_rerun:
            compose.check(self.command.name, self.args.overrides, self.folders, multirun=True)

    @property
    def folders(self) -> list[str]:
        return [self.args.config_dir] if self.args.config_dir else []

    @property
    def is_multirun(self) -> bool:
        return bool(self.args.multirun) or "hydra.mode=MULTIRUN" in self.args.overrides

    def start_hydra(self) -> None:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # it hands exceptions on instead of printing its own version of them
        flags = without_options(self.flags, "--config-path", "-cp", "--config-name", "-cn")  # see search_path.py
        if self.args.cfg or self.args.info:
            flags = [flag for flag in flags if flag not in ("-m", "--multirun")]  # Hydra prints one config or runs many jobs
        start_hydra(self.command.name, [f"segkit {self.command.name}", *self.args.overrides, *flags], self.job, self.folders)

    def job(self, cfg: DictConfig) -> None:
        """Errors end here: Hydra would print them in its own way, and in a multirun only the first of them."""
        from hydra.core.hydra_config import HydraConfig

        from segkit.system.environment import TRIAL

        node = HydraConfig.get()
        if self.is_multirun:
            print(f"job {node.job.num}: {' '.join(node.overrides.task)}", flush=True)
        try:
            self.codes.append(self.work(cfg, node))
        except Exception as error:
            self.codes.append(self.report(error))
            if self.is_multirun and self.codes[-1] and TRIAL in os.environ:
                raise  # the sweep keeps account of its trials

    def work(self, cfg: DictConfig, node: HydraConf) -> int:
        """Check the config of a job and run the command with it; the exit code."""
        from segkit.config import compose

        with ExitStack() as stack:
            stack.enter_context(arguments([ORIGINAL_ARGV[0], self.command.name, *self.argv]))
            if node.verbose:
                logging.basicConfig(format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s")
            if node.job.chdir:
                anchor(cfg, node.runtime.cwd)
            try:
                config = compose.to_model(self.command.name, cfg, node.runtime.choices, overrides=node.overrides.task)
            except ProblemsFound as error:
                raise (error if self.is_multirun else self.explained(error)) from None
            more = self.of_training(config, node, stack) if self.command.name == "train" else {}
            result = resolve_name(self.command.runs)(config, **more)
        return result if isinstance(result, int) else 0

    def of_training(self, config: Any, node: HydraConf, stack: ExitStack) -> dict[str, Any]:
        """What a training gets besides its config. `config.extras` and `hydra.job.chdir` hold until the `stack` is closed."""
        if config.extras.ignore_warnings:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        if config.extras.print_config:
            print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), flush=True)
        run_dir = own_folder(config, node, self.is_multirun)
        if run_dir and node.job.chdir:
            stack.enter_context(chdir(run_dir))
        return {"overrides": list(node.overrides.task), "run_dir": run_dir}

    def explained(self, error: Exception) -> Exception:
        """Everything that is wrong with the command line, where a check finds it; Hydra stops at the first mistake."""
        from segkit.config import compose

        if not self.args.experimental_rerun:
            try:
                with self.primary_config():
                    compose.check(self.command.name, self.args.overrides, self.folders, self.is_multirun)
            except SegkitError as better:
                return better
            except RecursionError:
                return SegkitError("the defaults of a config lead back to itself")
        return error

    def explain(self) -> int:
        from segkit.config import compose
        from segkit.config.groups import CONF

        name = self.command.name
        print(self.title)
        if groups := compose.groups(name, self.folders):
            print("\nGroups, group=choice (in brackets what is used now)")
        for group, (chosen, options) in groups.items():
            print(f"  {group:<12}", *(f"[{option}]" if option == chosen else option for option in options))
        print(f"\nKeys, key=value: segkit {name} --cfg job   prints them all; {CONF} explains each\n\nFlags\n{HELP['flags']}")
        print("\nExamples", *self.command.examples, sep="\n  ")
        return 0


def as_keys(command: Command, argv: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """`argv` with the bare words among its `overrides` as the value of the command's positional key, and `~group` as its option none."""
    from segkit.config.overrides import as_none, assignment

    words = [word for word in overrides if "=" not in word or os.path.exists(word)]  # noqa: PTH110 (False of what no name can be)
    if not (words and command.positional):
        return [as_none(word) for word in argv]
    return [*(word for word in argv if word not in words), assignment(command.positional, *words)]


def without_options(flags: Sequence[str], *names: str) -> list[str]:
    """`flags` without some that take a value: `--name=VALUE` or `--name VALUE`."""
    values = {i + 1 for i, flag in enumerate(flags) if flag in names}
    return [flag for i, flag in enumerate(flags) if i not in values and flag.partition("=")[0] not in names]


@contextmanager
def arguments(argv: list[str]) -> Iterator[None]:
    """`sys.argv` for the length of a block: Hydra must not see the command's name, while a job may repeat the real line."""
    before = sys.argv
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = before


def start_hydra(name: str, argv: list[str], job: Callable[[DictConfig], None], folders: Sequence[str] = ()) -> None:
    """Have Hydra run `job` with the config of a command, for the command line `argv`."""
    import hydra

    from segkit.config import search_path
    from segkit.config.groups import CONF
    from segkit.system.environment import is_child

    search_path.use_folders(folders)
    for line in search_path.shadows() if not is_child() and "--shell-completion" not in argv else ():
        print(f"segkit {name}: note: {line}", file=sys.stderr, flush=True)
    if any("hydra.callbacks" in word or "hydra/callbacks" in word for word in argv):
        sys.path.append(str(Path.cwd()))  # Hydra imports them itself, and a console script does not look here
    with arguments(argv), without_asking_for_mode(argv):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=search_path.primary_of(name))(job)()


@contextmanager
def without_asking_for_mode(argv: Sequence[str]) -> Iterator[None]:
    """Hydra composes everything twice, the first time for the key hydra.mode, which no config of segkit's sets."""
    from hydra._internal.hydra import Hydra

    from segkit.config.search_path import UserFolders

    ask = Hydra.get_mode
    if not (UserFolders.folders or UserFolders.primary or UserFolders.path or any("hydra" in word.partition("=")[0] for word in argv)):
        Hydra.get_mode = lambda *args, **options: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = ask  # type: ignore[method-assign]
