"""Tables that a prediction keeps beside its masks: a few rows an image, known by their first column, in natural order.

Of a prediction in parts each job has tables of its own, in the folder .parts/1-of-4 of the output, so that no job ever
writes the file of another. The part that ends last puts them together, and so does a prediction that is not one of parts.
Jobs may divide their parts further, each as it likes: 1/2 over two GPUs is 1/4 and 3/4.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from segkit.data.sources.base import natural
from segkit.system.errors import SegkitError
from segkit.system.files import write_text_atomic
from segkit.system.parts import Part, is_whole

PARTS, ENDED = ".parts", "ended"
SECONDS, SHARE = 30.0, 0.05
"""How often a table is written, which is what a kill costs at most; or rarer, so that a long one takes this share of the time."""
Row = tuple[str, ...]
Rows = dict[str, list[Row]]


class Table:
    """Rows of older files stay for the images that are not predicted again."""

    def __init__(self, output: Path, file: str, header: Row, part: Part | None = None) -> None:
        self.output, self.header = output, header
        self.path = output / file if part is None else folder_of(output, part) / file
        self._new: Rows = {}
        self._due = time.monotonic() + SECONDS

    @cached_property
    def known(self) -> set[str]:
        """The images that have rows, in any part. SegkitError where a file is no such table."""
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


def folder_of(output: Path, part: Part) -> Path:
    return output / PARTS / f"{part.number}-of-{part.of}"


def versions(output: Path, file: str) -> list[Path]:
    """The whole table and those of parts, as far as they are there; the newest last."""
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for key in sorted(rows, key=natural):
        writer.writerows(rows[key])
    write_text_atomic(path, text.getvalue())


# parts


def begin(output: Path, part: Part | None, overwrite: bool = False) -> None:
    """Parts that share images with this one have not ended any more. To overwrite, no part has: where a mark of these stands, this
    part is the first of a new prediction, and all marks are of the last one."""
    if part is None:
        return
    marks = ended(output)
    again = [mark for mark, other in marks.items() if part.overlaps(other)]
    for mark in marks if overwrite and again else again:
        mark.unlink(missing_ok=True)


def end(output: Path, part: Part | None) -> bool:
    """Puts the tables together, unless other parts have not ended. Two that end at the same moment write the same."""
    if part is not None:
        write_text_atomic(folder_of(output, part) / ENDED, "")
        if not is_whole(ended(output).values()):
            return False
    for file in sorted({path.name for path in output.glob(f"{PARTS}/*/*.csv")}):
        merge(output, file)
    return True


def ended(output: Path) -> dict[Path, Part]:
    """The parts that have ended, by their marks. None overlaps another, see `begin`."""
    marks = output.glob(f"{PARTS}/*-of-*/{ENDED}")
    return {mark: Part(*map(int, mark.parent.name.split("-of-"))) for mark in marks}


def merge(output: Path, file: str) -> None:
    """What was written later counts."""
    paths = versions(output, file)
    with paths[-1].open(newline="", encoding="utf-8") as newest:
        header = tuple(next(csv.reader(newest), ()))
    rows: Rows = {}
    for path in paths:
        rows |= read_rows(path, header)
    write_rows(output / file, header, rows)
