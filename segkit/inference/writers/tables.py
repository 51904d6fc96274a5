"""CSV tables beside predicted masks: a few rows an image, identified by their first column, in natural order.

In a prediction in shards (`part=1/4`) each process has tables of its own, in the folder .parts/1-of-4 of the output, so that
no process writes the file of another. The shard that ends last merges them, and so does a prediction without shards. Shards
may be divided further: 1/2 over two GPUs is 1/4 and 3/4.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from segkit.system.environment import Shard, is_whole
from segkit.system.errors import SegkitError
from segkit.system.files import natural, write_csv_atomic, write_text_atomic

PARTS, ENDED = ".parts", "ended"
SECONDS, SHARE = 30.0, 0.05
"""Seconds between two writes of a table, the most that a kill can lose; longer where writing would take more than this share."""
Row = tuple[str, ...]
Rows = dict[str, list[Row]]


class Table:
    """A table that grows. Rows of an older file stay for images that are not predicted again."""

    def __init__(self, output: Path, file: str, header: Row, shard: Shard | None = None) -> None:
        self.output, self.header = output, header
        self.path = output / file if shard is None else folder_of(output, shard) / file
        self._new: Rows = {}
        self._due = time.monotonic() + SECONDS

    @cached_property
    def known(self) -> set[str]:
        """The images that have rows, in any shard. SegkitError where a file has another header."""
        return {key for path in versions(self.output, self.path.name) for key in read_rows(path, self.header)}

    def add(self, rows: Mapping[str, Sequence[Row]]) -> None:
        self._new |= {key: list(of_image) for key, of_image in rows.items()}
        if time.monotonic() > self._due:
            self.write()

    def write(self) -> None:
        began = time.monotonic()
        if self._new:
            write_rows(self.path, self.header, {**read_rows(self.path, self.header), **self._new})
        self._new, now = {}, time.monotonic()
        self._due = now + max(SECONDS, (now - began) / SHARE)


def folder_of(output: Path, shard: Shard) -> Path:
    return output / PARTS / f"{shard.number}-of-{shard.of}"


def versions(output: Path, file: str) -> list[Path]:
    """Return the files of the whole table and of the shards that exist, the newest last."""
    found = [path for path in (output / file, *output.glob(f"{PARTS}/*/{file}")) if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def read_rows(path: Path, header: Row) -> Rows:
    rows: Rows = {}
    if not path.is_file():
        return rows
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        if tuple(next(reader, ())) != header:
            raise SegkitError(f"{path}: its first line is not  {','.join(header)};   move it away, or choose another output")
        for row in reader:
            rows.setdefault(row[0], []).append(tuple(row))
    return rows


def write_rows(path: Path, header: Row, rows: Rows) -> None:
    write_csv_atomic(path, [header, *(row for key in sorted(rows, key=natural) for row in rows[key])])


# shards


def begin(output: Path, shard: Shard | None, overwrite: bool = False) -> None:
    """Remove the marks of ended shards that share images with this one.

    To overwrite, remove all marks if one of these exists: then this shard is the first of a new prediction.
    """
    if shard is None:
        return
    marks = ended(output)
    again = [mark for mark, other in marks.items() if shard.overlaps(other)]
    for mark in marks if overwrite and again else again:
        mark.unlink(missing_ok=True)


def end(output: Path, shard: Shard | None) -> bool:
    """Merge the tables unless other shards are running. Two shards that end at the same moment write the same."""
    if shard is not None:
        write_text_atomic(folder_of(output, shard) / ENDED, "")
        if not is_whole(ended(output).values()):
            return False
    for file in sorted({path.name for path in output.glob(f"{PARTS}/*/*.csv")}):
        merge(output, file)
    return True


def ended(output: Path) -> dict[Path, Shard]:
    """Return the shards that have ended, by their marks. None overlaps another, see `begin`."""
    marks = output.glob(f"{PARTS}/*-of-*/{ENDED}")
    return {mark: Shard(*map(int, mark.parent.name.split("-of-"))) for mark in marks}


def merge(output: Path, file: str) -> None:
    """Merge the tables of all shards; rows that were written later replace earlier ones."""
    paths = versions(output, file)
    with paths[-1].open(newline="", encoding="utf-8") as newest:
        header = tuple(next(csv.reader(newest), ()))
    rows: Rows = {}
    for path in paths:
        rows |= read_rows(path, header)
    write_rows(output / file, header, rows)
