"""The command line: `segkit COMMAND …`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.cli.commands import BY_NAME, COMMANDS, FLAGS, PLAIN, Command, usage

if TYPE_CHECKING:
    from argparse import Namespace

    from omegaconf import DictConfig


def main(argv: Sequence[str] | None = None) -> int:
    first, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if first in ("-h", "--help", "help"):
        print(usage())
        return 0
    if first == "--version":
        import segkit

        print(f"segkit {segkit.__version__}")
        return 0
    if first in ("-sc", "--shell-completion"):
        return complete(rest)
    if first not in BY_NAME:
        from segkit.system.errors import nearest

        known = ", ".join(BY_NAME)
        hint = nearest(first, BY_NAME, "segkit ")
        print(f"segkit: no such command {first}; {hint or f'there are {known}'}", file=sys.stderr)
        return 2
    command = BY_NAME[first]
    return _load(command)(rest) if command.name in PLAIN else run(command, rest)


class Stopped(KeyboardInterrupt):
    """The job was interrupted and has told the user how to go on. Passes Hydra, so a multirun ends as well."""


@dataclass
class Application:
    """One command as a Hydra application. `codes`: the exit code of each job that has run."""

    command: Command
    argv: Sequence[str]
    codes: list[int] = field(default_factory=list)

    def __call__(self) -> int:
        args = self.parse()
        folders = [args.config_dir] if args.config_dir else []
        if args.help:
            return self.explain(folders)
        only_shown = args.cfg or args.info or args.shell_completion or args.hydra_help
        own_config = args.config_path or args.config_name or args.experimental_rerun
        if self.command.name == "train" and not only_shown:
            from segkit.config.folds import spelled_out

            self.argv = spelled_out(self.argv, args.overrides, folders)
            args = self.parse()
        multirun = args.multirun or "hydra.mode=MULTIRUN" in args.overrides
        if not only_shown and not own_config:
            from segkit.config import compose

            compose.check(self.command.name, args.overrides, folders, multirun)
        self.start_hydra(folders)
        failed = sum(map(bool, self.codes))
        if multirun and failed:
            self.say(f"{failed} of {len(self.codes)} jobs failed")
        return max(self.codes, default=0)

    def parse(self) -> Namespace:
        from hydra._internal.utils import get_args_parser

        parser = get_args_parser()
        parser.prog = f"segkit {self.command.name}"
        return parser.parse_args(list(self.argv))

    def start_hydra(self, folders: list[str]) -> None:
        import hydra

        from segkit.config import compose

        compose.use_folders(folders)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # it hands exceptions on instead of printing its own version of them
        with arguments([f"segkit {self.command.name}", *self.argv]):
            hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name=self.command.name)(self.job)()

    def job(self, cfg: DictConfig) -> None:
        """Errors end here: Hydra would tell them in its own words, and in a multirun only the first of them."""
        from hydra.core.hydra_config import HydraConfig

        from segkit.training import trial as sweep_trial

        node = HydraConfig.get()
        overrides = list(node.overrides.task)
        multirun = node.mode is not None and node.mode.name == "MULTIRUN"
        if multirun:
            print(f"job {node.job.num}: {' '.join(overrides)}", flush=True)
        try:
            self.codes.append(self.work(cfg, overrides, Path(node.runtime.output_dir) if multirun else None))
        except Exception as error:
            self.codes.append(self.tell(error))
            if multirun and self.codes[-1] and sweep_trial.current():
                raise  # the sweep keeps account of its trials

    def work(self, cfg: DictConfig, overrides: list[str], run_dir: Path | None) -> int:
        from hydra.core.hydra_config import HydraConfig

        from segkit.config import compose

        config = compose.to_model(self.command.name, cfg, HydraConfig.get().runtime.choices)
        more = {"overrides": overrides, "run_dir": run_dir} if self.command.name == "train" else {}
        with arguments([ORIGINAL_ARGV[0], self.command.name, *self.argv]):
            result = _load(self.command)(config, **more)
        return result if isinstance(result, int) else 0

    def tell(self, error: Exception) -> int:
        from hydra.errors import HydraException

        from segkit.system.errors import SegkitError
        from segkit.training.run_folder import Interrupted, Pruned

        if isinstance(error, Interrupted):
            self.say(str(error) or "interrupted")
            raise Stopped from error
        if isinstance(error, Pruned):
            self.say(str(error))
            return 0
        if isinstance(error, SegkitError | HydraException):
            self.say_error(error)
            return 2
        traceback.print_exception(error)
        return 1

    def explain(self, folders: list[str]) -> int:
        from segkit.config import compose

        name = self.command.name
        print(f"segkit {name}: {self.command.help}\n\nGroups, group=choice (in brackets what is used now)")
        for group, (chosen, options) in compose.groups(name, folders).items():
            print(f"  {group:<12}", *(f"[{option}]" if option == chosen else option for option in options))
        print(f"\nKeys, key=value: segkit {name} --cfg job   prints them all; {compose.CONF} explains each\n\nFlags\n{FLAGS}")
        print("\nExamples", *self.command.examples, sep="\n  ")
        return 0

    def say(self, text: str) -> None:
        print(f"segkit {self.command.name}: {text}", file=sys.stderr, flush=True)

    def say_error(self, error: Exception) -> None:
        """Headline red, keys bold; plain where stderr is no terminal."""
        from rich.console import Console
        from rich.text import Text

        headline, *lines = str(error).splitlines() or [type(error).__name__]
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(Text.assemble((f"segkit {self.command.name}: ", "bold"), (headline, "bold red")))
        for line in lines:
            where, gap, rest = line.partition("   ")
            console.print(Text.assemble((where, "bold"), gap, rest))


def run(command: Command, argv: Sequence[str]) -> int:
    """The exit code: 0, 1 after a crash (traceback on stderr), 2 for mistakes of input, 130 when interrupted."""
    from segkit.system.errors import SegkitError

    application = Application(command, argv)
    try:
        return application()
    except SegkitError as error:
        application.say_error(error)
        return getattr(error, "exit_code", 2)
    except Stopped:
        return 130
    except KeyboardInterrupt:
        application.say("interrupted")
        return 130
    except Exception as error:
        return refused(application, error)


def refused(application: Application, error: Exception) -> int:
    """Hydra's complaint about a config that is only shown (--cfg, --info): the door says it better, if it sees it."""
    from segkit.config import compose
    from segkit.system.errors import SegkitError

    args = application.parse()
    try:
        compose.check(application.command.name, args.overrides, [args.config_dir] if args.config_dir else [], args.multirun)
    except SegkitError as explained:
        application.say_error(explained)
        return 2
    return application.tell(error)


ORIGINAL_ARGV = tuple(sys.argv) or ("segkit",)


@contextmanager
def arguments(argv: list[str]) -> Iterator[None]:
    """`sys.argv` for the length of a block: Hydra must not see the command's name, while a job may repeat the real line."""
    before = sys.argv
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = before


def complete(argv: Sequence[str]) -> int:
    """Shell completion: command names by ourselves, then groups, keys and choices by Hydra's plugin for the shell."""
    line = os.environ.get("COMP_LINE", "")
    program, *words = line.split() or [""]
    typing = words[0] if words else ""
    if any(word.startswith("query=") for word in argv):
        if not words or (len(words) == 1 and not line.endswith(" ")):
            print(" ".join(name for name in BY_NAME if name.startswith(typing)))
            return 0
        if typing not in BY_NAME or typing in PLAIN:
            return 0
        os.environ["COMP_LINE"] = f"{program} {line.split(typing, 1)[1].lstrip()}"
    command = BY_NAME.get(typing, COMMANDS[0])
    with arguments([program or "segkit", "--shell-completion", *argv]):
        import hydra

        from segkit.config import compose

        compose.use_folders()
        hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name=command.name)(lambda cfg: None)()
    return 0


def _load(command: Command) -> Callable[..., Any]:
    module, _, function = command.runs.partition(":")
    loaded: Callable[..., Any] = getattr(import_module(module), function)
    return loaded
