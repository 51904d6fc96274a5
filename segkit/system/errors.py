"""What goes wrong, said so that the reader knows what to type next."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import wraps
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One thing to mend: the file, case or key; what is wrong with it; the line to type."""

    where: str
    what: str
    mend: str = ""
    severity: Severity = "error"

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


class SegkitError(Exception):
    """A mistake of input or environment. The command line prints it without a traceback and exits with 2."""


class ProblemsFound(SegkitError):
    """Several mistakes, found together and told together."""

    def __init__(self, problems: Iterable[Problem], before: str = "training starts") -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.before = before
        super().__init__(describe(self.problems, before))


def describe(problems: Sequence[Problem], before: str, most: int = 40) -> str:
    """The problems as aligned lines under a headline that counts them."""
    noun = "thing" if len(problems) == 1 else "things"
    lines = [f"{len(problems)} {noun} to mend before {before}"]
    width = min(max((len(p.where) for p in problems), default=0), 44)
    for problem in problems[:most]:
        mend = f";   {problem.mend}" if problem.mend else ""
        lines.append(f"  {problem.where:<{width}}   {problem.what}{mend}")
    if len(problems) > most:
        lines.append(f"  ... and {len(problems) - most} more")
    return "\n".join(lines)


def nearest(word: str, choices: Iterable[str], prefix: str = "") -> str:
    """'did you mean optimizer.lr?' for the right name closest to `word`, or '' where none is close."""
    close = get_close_matches(word, [str(c) for c in choices], n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]}?" if close else ""


def plain_command(name: str, usage: str) -> Callable[[Callable[[Sequence[str]], int]], Callable[[Sequence[str]], int]]:
    """Makes the main function of a command without config: --help prints `usage`, a mistake of input is one line and exit code 2."""

    def decorate(work: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
        @wraps(work)
        def main(argv: Sequence[str] = ()) -> int:
            if set(argv) & {"-h", "--help"}:
                print(usage)
                return 0
            try:
                return work(argv)
            except SegkitError as error:
                print(f"segkit {name}: {error}", file=sys.stderr)
                return 2

        return main

    return decorate
