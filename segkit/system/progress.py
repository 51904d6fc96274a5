"""Progress of anything that takes longer than two seconds: a rich bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

T = TypeVar("T")
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}
"""Control characters, as they are printed: a name must not move the cursor or rewrite what stands there."""


class SafeConsole(Console):
    """Prints control characters of names and messages as text. Those that rich makes itself for colors are none of these."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else text.translate(CONTROL), style, control)


console = SafeConsole(stderr=False, highlight=False, soft_wrap=True)
SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, showing how far it is. Nothing is shown for what ends within two seconds."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    return _bar(items, description, total) if sys.stdout.isatty() else _lines(items, description, total)


def _bar(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    due = time.monotonic() + 2.0
    for done, item in enumerate(items):
        if time.monotonic() >= due:
            console.print(f"{description} {done}/{total if total is not None else '?'}")
            due = time.monotonic() + SECONDS_BETWEEN_LINES
        yield item
