"""A table of cases."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from segkit.data.case import Case
from segkit.data.io.base import ReadError, read_table, stem
from segkit.data.io.masks import MaskRules
from segkit.data.phantoms import ultrasound
from segkit.data.phantoms.base import write_bytes, write_png
from segkit.data.sources.base import Source, pair, places_of, unreadable
from segkit.data.sources.pairing import SPLITS
from segkit.data.sources.proposals import speaks_of_masks
from segkit.system.errors import few, nearest
from segkit.system.shell import override

_MASK_WORDS = ("label", "labels", "target", "annotation", "seg", "segmentation", "gt", "truth")
_KNOWN = ("image", "mask", "id", "group", "split", "fold", "spacing")
Row = dict[str, str]


class Csv(Source):
    """A table that says which mask, patient or split an image has, for where file names alone do not.

        ROOT/cases.csv       image,mask,group,split,spacing
                             scans/a.png,masks/a.png,patient1,train,0.2 0.3

    Columns: `image`; `mask`, or `mask_NAME` for each plane of overlapping structures (an empty cell: no such structure); and
    where known `id` (else the image's name without extension), `group`, `split` (train, val, test), `fold` (used by
    split=kfold), `spacing` (mm: one number; rows and columns; or slices, rows and columns of a volume, where its header does
    not say or is wrong). Paths are relative to ROOT and lead to files below it.

    Args:
        root: folder of the data set.
        table: the table, below root; comma, semicolon or tab, in any encoding of spreadsheets.
        missing_masks: what a row is whose mask is missing: an error, or left out of training and evaluation (skip), as with an empty cell.
        columns: what the table calls these columns, where it has other names: {image: img_path, mask: label_path}.
        orient: axes that volumes are turned to, such as LPS; None leaves them as stored, whatever the affines say.
        threshold: mask values from this number on are the structure (255), all others background (0); None: values are labels.
        resize_masks: bring masks of another size than their image to its size (nearest neighbor).
    """

    def __init__(
        self,
        root: Path,
        table: str = "cases.csv",
        orient: str | None = "LPS",
        threshold: float | None = None,
        resize_masks: bool = False,
        columns: Mapping[str, str] | None = None,
        missing_masks: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__(root)
        self.mask_rules = MaskRules(threshold, resize_masks)
        self.missing_masks, self._missing = missing_masks, list[tuple[str, str]]()
        self.check_choice("missing_masks", missing_masks, ("error", "skip"))
        self.called = {name.lower(): ours for ours, name in (columns or {}).items()}
        self.orient, self.table_name, self.table = orient, table, self.root / table

    def cases(self) -> Iterator[Case]:
        columns, rows = self._read()
        if not self._columns_are_right(columns, rows):
            return
        if not rows:
            self.report(self._line(1), "names columns, but no case follows", "add a line for each image")
        seen: dict[str, int] = {}
        for line, row in rows:
            case = self._case(self._line(line), row, columns)
            if case is not None and case.id in seen:
                fix = "make the column id unique" if "id" in columns else "remove one of them, or add a column id"
                self.report(self._line(line), f"the id {case.id!r} is that of line {seen[case.id]} already", fix)
            elif case is not None:
                seen[case.id] = line
                yield case
        self._report_missing()

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        lines = ["id,image,mask,group,spacing"]
        for exam, k, drawing in ultrasound.exams(n, seed):
            name = f"{exam:03d}_{k}"
            write_png(root / "images" / f"{name}.png", drawing.image)
            write_png(root / "masks" / f"{name}.png", drawing.mask)
            lines.append(f"{name},images/{name}.png,masks/{name}.png,{exam:03d},{drawing.pixel_mm:.12g}")
        write_bytes(root / self.table_name, ("\n".join(lines) + "\n").encode())

    def _line(self, number: int) -> str:
        return f"{self.table.name} line {number}"

    def _read(self) -> tuple[list[str], list[tuple[int, Row]]]:
        """Column names (lower case) and rows with their line numbers; empty where there is no readable table."""
        if not self.table.is_file():
            there = sorted(path.name for path in self.root.glob("*.csv")) if self.root.is_dir() else []
            found = f"there are: {', '.join(there)}" if there else "there is no other .csv either"
            fix = override("data.source.table", there[0]) if there else "data.root = the folder that holds the table"
            self.report(str(self.table), f"is missing; {found}", fix)
            return [], []
        with self.reporting("save it as comma-separated values (CSV)"):
            columns, rows = read_table(self.table)
            if not columns:
                self.report(self._line(1), "the table is empty", "its first line names the columns, e.g.  image,mask,group")
            for name in (name for name in self.called if name not in columns):
                what = f"has no column {name!r}; its columns are {', '.join(columns)}"
                self.report(self._line(1), what, f"correct data.source.columns{'; ' * bool(hint := nearest(name, columns))}{hint}")
            ours = {name: self.called.get(name, name) for name in columns}
            return [ours[name] for name in columns], [(line, {ours[name]: cell for name, cell in row.items()}) for line, row in rows]
        return [], []

    def _columns_are_right(self, columns: list[str], rows: Sequence[tuple[int, Row]]) -> bool:
        if not columns:
            return False
        masks = [name for name in columns if name == "mask" or name.startswith("mask_")]
        if "image" not in columns:
            fix = self._mapped(columns, rows) or "its first line names the columns, e.g.  image,mask"
            self.report(self._line(1), f"has no column 'image'; its columns are {few([name[:40] for name in columns], 12)}", fix)
        if "mask" in masks and len(masks) > 1:
            self.report(
                self._line(1), f"has a column mask and also {', '.join(masks[1:])}", "keep mask, or one mask_NAME for each structure"
            )
        repeated = sorted({name for name in columns if columns.count(name) > 1})
        if repeated:
            self.report(self._line(1), f"names {few([name[:40] for name in repeated])} twice", "keep one column of a name")
        for name in (c for c in columns if c and c not in (*_KNOWN, *masks)):
            hint = nearest(name, _KNOWN) or ("is it the mask? then rename it to mask" if not masks and name in _MASK_WORDS else "")
            self.report(self.table.name, f"column {name!r} is not used", hint, "warning" if hint else "note")
        return "image" in columns and not repeated and not ("mask" in masks and len(masks) > 1)

    def _mapped(self, columns: Sequence[str], rows: Sequence[tuple[int, Row]]) -> str:
        """The override that maps the columns of files; empty where the first rows name no files."""
        values = {name: [row[name] for _, row in rows[:20] if row[name]] for name in columns if name}
        files = [name for name, paths in values.items() if any((self.root / path.replace("\\", "/")).is_file() for path in paths)]
        masks = [name for name in files if speaks_of_masks(name)]
        images = [name for name in files if name not in masks]
        ours = {"image": images[0]} if images else {}
        structures = {f"mask_{re.sub('[^a-z0-9]+', '_', name.replace('mask', '')).strip('_')}": name for name in masks}
        ours |= {"mask": masks[0]} if len(masks) == 1 else structures
        return override("data.source.columns", ours) if images else ""

    def _case(self, where: str, row: Row, columns: list[str]) -> Case | None:
        if not row.get("image"):
            self.report(where, "names no image", "fill the column image, or remove the line")
            return None
        image = self.file_named(where, row["image"], self.root)
        named = {name: row[name] for name in columns if name.startswith("mask") and row.get(name)}
        missing = [name for name, file in named.items() if not _exists(file, self.root)]
        if missing and not self.is_excluded(row.get("id", ""), stem(Path(row["image"]))):
            self._missing += [(where, named[name]) for name in missing]
        masks = {name: self.file_named(where, file, self.root) for name, file in named.items() if name not in missing}
        split, spacing = {"": "", **SPLITS}.get(row.get("split", "").lower()), self._spacing(where, row.get("spacing", ""))
        if split is None:
            self.report(where, f"split {row['split']!r} is not a valid option", "use train, val or test")
        if (missing and self.missing_masks == "error") or image is None or None in masks.values() or split is None or spacing is None:
            return None
        try:
            files = pair(image, {name: path for name, path in masks.items() if path is not None}, self.orient, self.mask_rules)
        except ReadError as error:
            problem = unreadable(error, where)
            self.problems.append(replace(problem, what=f"{error.path.name}: {problem.what}"))
            return None
        if len(spacing) == 3 and files.dims == 2:
            what = f"spacing {row['spacing']!r} has three numbers, {row['image']} is one image"
            self.report(where, what, "rows and columns, e.g.  0.2 0.3")
            return None
        fold, name = row.get("fold", ""), Path(row["image"].replace("\\", "/"))
        return Case(
            id=row.get("id") or name.with_name(stem(name)).as_posix(),
            image=files.image,
            mask=files.masks.get("mask") or {name.removeprefix("mask_"): mask for name, mask in files.masks.items()} or None,
            group=row.get("group", ""),
            split=split,
            spacing_mm=spacing or files.spacing_mm,
            facts={"fold": fold} if fold else {},
            dims=files.dims,
        )

    def _report_missing(self) -> None:
        if self._missing and self.missing_masks == "error":
            where, name = self._missing[0]
            more = f" (and {len(self._missing) - 1} more)" if len(self._missing) > 1 else ""
            fix = f"put it there, or leave out what has no mask:  {override('data.source.missing_masks', 'skip')}"
            self.report(where, f"names {name}, which is missing{more}", fix)

    def _spacing(self, where: str, text: str) -> tuple[float, ...] | None:
        """One number stands for rows and columns."""
        if not text:
            return ()
        decimal_comma = "," in text and "." not in text and len(re.findall(r"\d+,\d+", text)) == text.count(",")
        words = (text.replace(",", ".") if decimal_comma else text).replace(",", " ").replace("x", " ").split()
        try:
            numbers = tuple(float(word) for word in words)
        except ValueError:
            numbers = ()
        if len(numbers) not in (1, 2, 3) or not all(0 < number < 1e4 for number in numbers):
            fix = "e.g.  0.2  or  0.2 0.3  (rows, columns; of a volume also  2 0.2 0.3)"
            self.report(where, f"spacing {text!r} is not a pixel size in mm", fix)
            return None
        return numbers * 2 if len(numbers) == 1 else numbers


def _exists(name: str, folder: Path) -> bool:
    """Whether a file is there, or cannot be asked for, which is reported where it is opened."""
    try:
        return any(place.is_file() for place in places_of(name, folder))
    except (OSError, ValueError):
        return True
