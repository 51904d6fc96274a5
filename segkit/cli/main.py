"""The command line: `segkit COMMAND …`. Nothing heavy is imported before a command needs it.

help.yaml lists the commands, and explains how to add one. Every command is typed by the same rule, `segkit NAME group=choice key=value`;
bare words are the value of the key that `positional` names: with `positional: runs`, `segkit compare A B` is `segkit compare runs=[A,B]`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import segkit
from segkit.cli.application import HELP, Application, Command, Plain, Stopped, start_hydra
from segkit.system import streams
from segkit.system.errors import SegkitError, nearest
from segkit.system.text import one_line, readable

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
