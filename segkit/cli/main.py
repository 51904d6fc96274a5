"""The command line: `segkit COMMAND …`. Nothing heavy is imported before a command needs it.

help.yaml lists the commands, and explains how to add one. Every command is typed by the same rule, `segkit NAME group=choice key=value`;
bare words are the value of the key that `positional` names: with `positional: runs`, `segkit compare A B` is `segkit compare runs=[A,B]`.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import yaml

import segkit
from segkit.system import streams
from segkit.system.errors import ProblemsFound, SegkitError, nearest, of_machine
from segkit.system.text import one_line, readable

if TYPE_CHECKING:
    from argparse import Namespace

    from hydra.conf import HydraConf
    from omegaconf import DictConfig

ORIGINAL_ARGV = tuple(sys.argv) or ("segkit",)


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


HELP = yaml.safe_load(Path(__file__).with_name("help.yaml").read_text(encoding="utf-8"))
BY_NAME = {name: Command(name, **keys) for name, keys in HELP["commands"].items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: The words after `segkit`; None: those of this process.

    Returns:
        The exit code: 0, 1 after a crash (traceback on stderr) or where the command found errors, 2 for mistakes of input,
        130 when interrupted.
    """
    if argv is not None:
        return dispatch(argv)
    streams.prepare()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # says at length that there is no home folder for its cache
    code = dispatch(sys.argv[1:])
    sys.stdout.flush()
    return max(code, 1) if streams.UNWRITABLE else code


def dispatch(argv: Sequence[str]) -> int:
    """Run the command that the first word names; the exit code."""
    first, *rest = list(argv) or ["--help"]
    if odd := next((word for word in rest if readable(word) != word), None):
        print(f"segkit {first}: {one_line(odd)} is not UTF-8 text, so no config can hold it;   rename the file or folder", file=sys.stderr)
        return 2
    if first in ("-h", "--help", "help"):
        print(HELP["usage"].format(commands="\n".join(f"  {command.name:<11} {command.help}" for command in BY_NAME.values())))
        return 0
    if first == "--version":
        print(f"segkit {segkit.__version__}")
        return 0
    if first in ("-sc", "--shell-completion"):
        return complete(rest)
    if first not in BY_NAME:
        hint = nearest(first, BY_NAME, "segkit ") or f"available: {', '.join(BY_NAME)}"
        print(f"segkit: no such command {first}; {hint}", file=sys.stderr)
        return 2
    if not streams.has_folder():
        print(f"segkit {first}: the current folder has been deleted;   cd  to one that exists, and type the line again", file=sys.stderr)
        return 2
    return run(BY_NAME[first], rest)


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

    def __post_init__(self) -> None:
        self.take(self.argv)

    def take(self, argv: Sequence[str]) -> None:
        """Make `argv` the command line."""
        from hydra._internal.utils import get_args_parser

        from segkit.config.groups import present_words

        parser = get_args_parser()
        parser.prog = f"segkit {self.command.name}"
        self.argv = present_words(argv)
        self.args = parser.parse_args(self.argv)

    def __call__(self) -> int:
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
            if not self.has_own_config:
                compose.check_leftovers(self.command.name, self.args.overrides, self.folders)
        elif not self.has_own_config:
            compose.check(self.command.name, self.args.overrides, self.folders, multirun=True)

    @property
    def folders(self) -> list[str]:
        return [self.args.config_dir] if self.args.config_dir else []

    @property
    def is_multirun(self) -> bool:
        return bool(self.args.multirun) or "hydra.mode=MULTIRUN" in self.args.overrides

    @property
    def has_own_config(self) -> bool:
        return bool(self.args.config_path or self.args.config_name or self.args.experimental_rerun)

    def start_hydra(self) -> None:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # it hands exceptions on instead of printing its own version of them
        start_hydra(self.command.name, [f"segkit {self.command.name}", *self.argv], self.job, self.folders)

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

        try:
            config = compose.to_model(self.command.name, cfg, node.runtime.choices)
        except ProblemsFound as error:
            raise (error if self.is_multirun else self.explained(error)) from None
        run_dir = Path(node.runtime.output_dir) if self.is_multirun else None
        more = {"overrides": list(node.overrides.task), "run_dir": run_dir} if self.command.name == "train" else {}
        with arguments([ORIGINAL_ARGV[0], self.command.name, *self.argv]):
            result = resolve_name(self.command.runs)(config, **more)
        return result if isinstance(result, int) else 0

    def explained(self, error: Exception) -> Exception:
        """Everything that is wrong with the command line, where a check finds it; Hydra stops at the first mistake."""
        from segkit.config import compose

        if not self.has_own_config:
            try:
                compose.check(self.command.name, self.args.overrides, self.folders, self.is_multirun)
            except SegkitError as better:
                return better
        return error

    def explain(self) -> int:
        from segkit.config import compose

        name = self.command.name
        print(self.title)
        if groups := compose.groups(name, self.folders):
            print("\nGroups, group=choice (in brackets what is used now)")
        for group, (chosen, options) in groups.items():
            print(f"  {group:<12}", *(f"[{option}]" if option == chosen else option for option in options))
        print(f"\nKeys, key=value: segkit {name} --cfg job   prints them all; {compose.CONF} explains each\n\nFlags\n{HELP['flags']}")
        print("\nExamples", *self.command.examples, sep="\n  ")
        return 0


def run(command: Command, argv: Sequence[str]) -> int:
    """The exit code of a command, whatever it raises."""
    application = (Application if command.has_config else Plain)(command, argv)
    try:
        try:
            return application()
        except Exception as error:  # also Hydra's own, about a config that does not compose
            return application.report(error if isinstance(error, SegkitError) else application.explained(error))
    except Stopped:
        return 130
    except KeyboardInterrupt:
        application.say("interrupted")
        return 130


def as_keys(command: Command, argv: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """`argv` with the bare words among its `overrides` as the value of the command's positional key."""
    words = [word for word in overrides if "=" not in word or os.path.exists(word)]  # noqa: PTH110 (False of what no name can be)
    if not (words and command.positional):
        return list(argv)
    from segkit.config.overrides import assignment

    return [*(word for word in argv if word not in words), assignment(command.positional, *words)]


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

    from segkit.config import compose
    from segkit.system.environment import is_child

    compose.use_folders(folders)
    for line in compose.shadows() if not is_child() and "--shell-completion" not in argv else ():
        print(f"segkit {name}: note: {line}", file=sys.stderr, flush=True)
    with arguments(argv):
        hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name=name)(job)()


def complete(argv: Sequence[str]) -> int:
    """Shell completion: command names by ourselves, then groups, keys and choices by Hydra's plugin for the shell."""
    line = os.environ.get("COMP_LINE", "")
    program, *words = line.split() or [""]
    typing = words[0] if words else ""
    if any(word.startswith("query=") for word in argv):
        if not words or (len(words) == 1 and not line.endswith(" ")):
            print(" ".join(name for name in BY_NAME if name.startswith(typing)))
            return 0
        if typing not in BY_NAME or not BY_NAME[typing].has_config:
            return 0
        os.environ["COMP_LINE"] = f"{program} {line.split(typing, 1)[1].lstrip()}"
    command = BY_NAME.get(typing, BY_NAME["train"])
    start_hydra(command.name, [program or "segkit", "--shell-completion", *argv], lambda cfg: None)
    return 0
