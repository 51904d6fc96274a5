"""Errors of input or environment, each with its place, its cause and the line to type."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from segkit.system.text import one_line

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One problem to fix: the file, case or key; what is wrong with it; the line to type."""

    where: str
    what: str
    fix: str = ""
    severity: Severity = "error"

    def __post_init__(self) -> None:
        for name in ("where", "what", "fix"):
            object.__setattr__(self, name, one_line(getattr(self, name)))

    def as_dict(self) -> dict[str, str]:
        """As in audit.json, whose key for the fix is older than this class."""
        return {"where": self.where, "what": self.what, "mend": self.fix, "severity": self.severity}


class SegkitError(Exception):
    """A mistake of input or environment. The command line prints it without a traceback and exits with 2."""


class DiskFull(SegkitError):
    """A file could not be written for want of space: nothing else will be, so the command ends here."""

    @classmethod
    def in_sweep(cls, folder: Path) -> DiskFull:
        """Of a sweep, or of the folder of one of its trials."""
        return cls(f"disk full while writing {folder};   free some space, and the same command continues the sweep")


class ProblemsFound(SegkitError):
    """Several problems, found together and reported together.

    Args:
        problems: In the order in which they are printed.
        before: What cannot start before they are fixed; the end of the headline.
    """

    def __init__(self, problems: Iterable[Problem], before: str = "training starts") -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.before = before
        super().__init__(describe(self.problems, before))


def raise_errors(problems: Iterable[Problem], before: str = "training starts") -> None:
    """Raise `ProblemsFound` with those of severity error, if there are any."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise ProblemsFound(errors, before)


def of_file(path: Path, what: str, error: SegkitError, most: int = 10) -> SegkitError:
    """The error again, as what is wrong with a file: the first problem in the line, and a line for each of the others."""
    lines = [str(error).replace("\n", " ")]
    if isinstance(error, ProblemsFound):
        lines = [f"{one.where} {one.what}".strip() + (f";   {one.fix}" if one.fix else "") for one in error.problems]
    lines[most:] = [f"... and {len(lines) - most} more"] if len(lines) > most else []
    return SegkitError("\n  ".join([f"{path} {what}: {lines[0]}", *lines[1:]]))


def first_line(error: BaseException | str, default: str = "") -> str:
    """The first line of an error's message; where it has none, `default` or the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else default or type(error).__name__


OF_MACHINE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
)
"""Errors of files and disks, of which a traceback says no more than one line."""


CHOOSE = ";   choose"
"""Start of a note on an error of too little memory, from whoever knows what to make smaller."""
SMALLER = "a smaller  data.batch_size, sampling.patch or preprocess.size  to train,  inference.batch_size or inference.window  to predict"


def of_machine(error: Exception) -> str:
    """One line about an error of the machine; empty of any other."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"{error.strerror}: this shell allows too few;   type  ulimit -n 4096  and the line again"
    if isinstance(error, OSError) and error.errno in OF_MACHINE:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # of pathlib
        return "~ stands for a home folder, and this process has none;   set HOME, or type the whole path"
    if is_out_of_memory(error):
        said = first_line(error).rpartition("DefaultCPUAllocator: ")[2]
        noted = next((note for note in getattr(error, "__notes__", ()) if note.startswith(CHOOSE)), f"{CHOOSE} {SMALLER}")
        return f"out of memory ({said}){noted}"
    return ""


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory of the processor or of a GPU did not suffice, as Python, NumPy or torch says it."""
    of_torch = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(text in str(error) for text in of_torch))


def describe(problems: Sequence[Problem], before: str, most: int = 40) -> str:
    """The problems as aligned lines under a headline that counts them."""
    noun = "problem" if len(problems) == 1 else "problems"
    lines = [f"{len(problems)} {noun} to fix before {before}"]
    width = min(max((len(p.where) for p in problems), default=0), 44)
    for problem in problems[:most]:
        fix = f";   {problem.fix}" if problem.fix else ""
        lines.append(f"  {problem.where:<{width}}   {problem.what}{fix}")
    if len(problems) > most:
        lines.append(f"  ... and {len(problems) - most} more")
    return "\n".join(lines)


def nearest(word: str, choices: Iterable[str], prefix: str = "") -> str:
    """'did you mean optimizer.lr?' for the right name closest to `word`, or '' where none is close; first one of the same letters."""
    names = [str(c) for c in choices]
    same_letters = [name for name in names if word.isalpha() and sorted(name) == sorted(word)]
    close = same_letters or get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]}?" if close else ""


def few(names: Sequence[str], most: int = 6) -> str:
    """The first names of a list, and how many more there are; `nothing` of an empty list."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"
