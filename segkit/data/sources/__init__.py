"""Sources: one small class per on-disk layout. A source finds files and pairs them; it decodes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from segkit.data.case import Case
from segkit.system.errors import Problem


class Source(Protocol):
    """What a data set's own layout needs to say. Any class with these members can be named as `data.source._target_`.

    It is called as `Source(root=Path, **keys of data.source)`. `cases` yields what is well paired and appends one
    `Problem` to `problems` for everything that is not (an orphan, an ambiguous pair), so that all are told at once.
    """

    problems: list[Problem]

    @property
    def default_labels(self) -> Mapping[int | str, str] | None:
        """Used where `data.labels` is not set; asked for after `cases`, so a layout may find it in its own files.

        Raw mask value -> class name; where structures have a mask each, name of the mask -> class name. None: unknown, so
        the audit looks at the values (0/1 and 0/255 need no map).
        """

    def cases(self) -> Iterator[Case]: ...

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        """Write a synthetic data set of `n` images in this layout; byte-identical for equal `n` and `seed`."""
