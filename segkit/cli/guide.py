"""`segkit guide`: the Markdown guides that come with segkit, in `segkit/cli/guides`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from rich.markdown import Markdown

from segkit.system.errors import SegkitError, nearest
from segkit.system.progress import console

FOLDER = Path(__file__).with_name("guides")


def command(words: Sequence[str] = ()) -> None:
    """Print the guide on a topic; without one, the topics. Raises `SegkitError` for a topic that does not exist."""
    first = "first_project"
    topics = {path.stem: path for path in sorted(FOLDER.glob("*.md"), key=lambda path: (path.stem != first, path.stem))}
    if not words:
        for name, path in topics.items():
            console.print(f"  segkit guide {name:<18} {title(path)}", markup=False)
        return
    name = words[0]
    if len(words) > 1 or name not in topics:
        hint = nearest(name, topics, "segkit guide ") or f"available: {', '.join(topics)}"
        raise SegkitError(f"no guide is called {' '.join(words)};   {hint}")
    show(topics[name].read_text(encoding="utf-8"))


def show(text: str) -> None:
    """Print Markdown; lines of code are never wrapped, so that they can be copied."""
    for i, part in enumerate(re.split(r"^```\w*\n(.*?)^```\n", text, flags=re.M | re.S)):
        if i % 2:
            console.print(indent(part, "    "), soft_wrap=True, markup=False, highlight=False)
        else:
            console.print(Markdown(part), soft_wrap=False)


def title(path: Path) -> str:
    """The first line of a guide, without the mark of a heading."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
