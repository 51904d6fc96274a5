"""`segkit guide`: the Markdown guides that come with segkit, in `segkit/cli/guides`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markdown import Markdown

from segkit.system.errors import SegkitError, nearest
from segkit.system.progress import console

FOLDER = Path(__file__).with_name("guides")


def command(words: Sequence[str] = ()) -> None:
    """Print the guide on a topic; without one, the topics. Raises `SegkitError` for a topic that does not exist."""
    topics = {path.stem: path for path in sorted(FOLDER.glob("*.md"))}
    if not words:
        for name, path in topics.items():
            console.print(f"  segkit guide {name:<18} {title(path)}", markup=False)
        return
    name = words[0]
    if len(words) > 1 or name not in topics:
        hint = nearest(name, topics, "segkit guide ") or f"available: {', '.join(topics)}"
        raise SegkitError(f"no guide is called {' '.join(words)};   {hint}")
    console.print(Markdown(topics[name].read_text(encoding="utf-8")), soft_wrap=False)


def title(path: Path) -> str:
    """The first line of a guide, without the mark of a heading."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
