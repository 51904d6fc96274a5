"""Stomach and bowel on abdominal MR."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segkit.data.case import Case, Pixels, exclude_line, grouped
from segkit.data.io import rle
from segkit.data.io.base import ReadError, read_table
from segkit.data.io.images import ImageFile
from segkit.data.phantoms import tomography
from segkit.data.phantoms.base import write_png
from segkit.data.sources.base import Source
from segkit.data.sources.files import files_in

CLASSES = tomography.HOLLOW
COLUMNS = ("id", "class", "segmentation")
KNOWN_BAD = ("case7_day0", "case81_day30")
"""Days whose masks lie beside the organs; nearly everyone in the competition left them out."""
DAY = re.compile(r"(?P<case>case\d+)_day\d+")
SLICE = re.compile(r"slice_(?P<z>\d+)_(?P<width>\d+)_(?P<height>\d+)_(?P<sx>\d+\.?\d*)_(?P<sy>\d+\.?\d*)\.png", re.IGNORECASE)
NAMED = "slice_ZZZZ_WIDTH_HEIGHT_sx_sy.png"
CHECKED = 20
"""Codes by which the order of pixels is checked."""


class SliceFile(NamedTuple):
    """A slice as its file name describes it; `mm` is slices, rows, columns."""

    path: Path
    volume: str
    group: str
    position: int
    rows: int
    columns: int
    mm: tuple[float, float, float]


class Coded(NamedTuple):
    """A line of the table."""

    line: int
    code: str


Table = Mapping[str, Mapping[str, Coded]]
"""Id of a slice -> class -> its line."""


class UWMadison(Source):
    """UW-Madison GI tract: stomach and bowel on abdominal MR, a case a slice.

        ROOT/train.csv                                                              id,class,segmentation
        ROOT/train/case{C}/case{C}_day{D}/scans/slice_{ZZZZ}_{W}_{H}_{sx}_{sy}.png  16 bit, H rows x W columns

    W and H are pixels, sx and sy millimeters: width stands first. A case is called case{C}_day{D}_slice_{ZZZZ} as in the table;
    a day is a volume, case{C} the group. The structures overlap, so each has a plane of its own, from a run-length code.
    Kaggle's text says that pixels are counted along columns; the table counts them along rows. test/ is not part of the cases.

    Reference: Lee et al., Med. Phys. 51, 2024; kaggle.com/c/uw-madison-gi-tract-image-segmentation.

    Args:
        root: folder that holds train.csv and train/.
        table: the table, below root; None takes the images as unlabeled.
        images: folder of the cases, below root.
        order: whether the table counts pixels along rows, as the one of the competition, or along columns.
        exclude_days: days to leave out, such as case7_day0.
        slice_mm: distance of slices, which file names do not tell.
    """

    def __init__(
        self,
        root: Path,
        table: str | None = "train.csv",
        images: str = "train",
        order: rle.Order = "rows",
        exclude_days: Sequence[str] = KNOWN_BAD,
        slice_mm: float = 3.0,
    ) -> None:
        super().__init__(root, {name: name for name in CLASSES})
        self.table_name, self.images_name = table, images
        self.order, self.exclude_days, self.slice_mm = order, tuple(exclude_days), slice_mm

    def cases(self) -> Iterator[Case]:
        if self.slice_mm <= 0:
            self.report("data.source.slice_mm", f"{self.slice_mm:g} is not a distance", "data.source.slice_mm=3.0")
        found = self._without_days(self._slices())
        table = self._table(found) if found and self.table_name is not None else {}
        if table is None:
            return
        if table:
            self._check_ids(found, table)
            self._check_order(found, table)
        self._note_gaps(found)
        for id_, one in found.items():
            if id_ in table or self.table_name is None:
                mask = self._planes(one, table[id_]) if table else None
                yield Case(id_, ImageFile(one.path), mask, one.group, spacing_mm=one.mm, volume=one.volume, position=one.position)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        lines = [",".join(COLUMNS)]
        for scan in tomography.mr_scans(n, seed):
            folder = root / self.images_name / f"case{scan.case}" / f"case{scan.case}_day{scan.day}" / "scans"
            for z, image, masks in zip(scan.positions, scan.images, scan.masks, strict=True):
                rows, columns = image.shape
                mm = f"{scan.pixel_mm:.2f}_{scan.pixel_mm:.2f}"
                write_png(folder / f"slice_{z:04d}_{columns}_{rows}_{mm}.png", image)
                id_ = f"case{scan.case}_day{scan.day}_slice_{z:04d}"
                lines += [f"{id_},{name},{rle.encode(mask, self.order)}" for name, mask in zip(CLASSES, masks, strict=True)]
        (root / (self.table_name or "train.csv")).write_bytes(("\n".join(lines) + "\n").encode())

    # files

    def _slices(self) -> dict[str, SliceFile]:
        folder = self.root / self.images_name
        days = sorted(path for path in folder.glob("case*/case*_day*") if path.is_dir())
        if not days:
            what = "holds no folders caseC/caseC_dayD/scans"
            self.report_root(what, f"{self.images_name}/case*", "train.csv and train/", folder)
        found: dict[str, SliceFile] = {}
        for day in days:
            for path in files_in(day / "scans", ".png"):
                self._add(found, path, day.name)
        return found

    def _add(self, found: dict[str, SliceFile], path: Path, volume: str) -> None:
        day, name = DAY.fullmatch(volume), SLICE.fullmatch(path.name)
        if day is None or name is None or 0 in (float(name[part]) for part in ("width", "height", "sx", "sy")):
            self.report(path, f"is not called caseC_dayD/scans/{NAMED}", "rename it, or move it away")
            return
        id_ = f"{volume}_slice_{name['z']}"
        if id_ in found:
            self.report(path, f"is the second file of slice {name['z']}, beside {found[id_].path.name}", "keep one of them")
            return
        mm = (self.slice_mm, float(name["sy"]), float(name["sx"]))
        found[id_] = SliceFile(path, volume, day["case"], int(name["z"]), int(name["height"]), int(name["width"]), mm)

    def _without_days(self, found: dict[str, SliceFile]) -> dict[str, SliceFile]:
        slices = Counter(one.volume for one in found.values())
        for day in self.exclude_days:
            if day in slices:
                what = f"{slices[day]} slices left out, as data.source.exclude_days says"
                known = "its masks are known to lie beside the organs" if day in KNOWN_BAD else ""
                self.report(day, what, known, "note")
            elif day not in KNOWN_BAD:
                self.report("data.source.exclude_days", f"{day!r} is not a day of this data set", "a day is called  caseC_dayD", "warning")
        return {id_: one for id_, one in found.items() if one.volume not in self.exclude_days}

    def _note_gaps(self, found: Mapping[str, SliceFile]) -> None:
        positions = grouped((one.volume, one.position) for one in found.values())
        gaps = sum(max(of_one) - min(of_one) + 1 > len(of_one) for of_one in positions.values())
        if gaps:
            what = f"{gaps} of {len(positions)} volumes lack slices in between: slices are further apart there than {self.slice_mm:g} mm"
            self.report(self.images_name, what, severity="note")

    # the table

    def _table(self, found: Mapping[str, SliceFile]) -> Table | None:
        """None, and reported, where there is no usable table."""
        assert self.table_name is not None
        path = self.root / self.table_name
        table: dict[str, dict[str, Coded]] = {}
        excluded = tuple(f"{day}_" for day in self.exclude_days)
        try:
            for line, row in read_table(path, COLUMNS)[1]:
                if not (id_ := row["id"]).startswith(excluded):
                    self._add_line(table, found.get(id_), id_, row["class"], Coded(line, row["segmentation"]))
        except ReadError as error:
            missing = "put it there, or  data.source.table=null  for images without masks"
            fix = missing if error.reason == "is missing" else f"its first line is  {','.join(COLUMNS)}"
            self.report(self.table_name, error.reason, fix)
            return None
        if not table:
            self.report(self.table_name, "holds no slices", "add a line for each slice and class")
        return table or None

    def _add_line(self, table: dict[str, dict[str, Coded]], image: SliceFile | None, id_: str, name: str, coded: Coded) -> None:
        where, of_slice = f"{self.table_name} line {coded.line}", table.setdefault(id_, {})
        if name not in CLASSES:
            self.report(where, f"class {name!r} is not a valid option; available: {', '.join(CLASSES)}")
        elif name in of_slice:
            self.report(where, f"{name} of {id_} stands in line {of_slice[name].line} already", "keep one of them")
        else:
            of_slice[name] = coded
            try:
                if image is not None:
                    rle.runs(coded.code, image.rows, image.columns)
            except rle.RunLengthError as error:
                self.report(where, f"{name} of {id_}: {error}", f"fix the line, or  {exclude_line([id_])}")
                of_slice[name] = Coded(coded.line, "")  # reported once is enough

    def _check_ids(self, found: Mapping[str, SliceFile], table: Table) -> None:
        if not found.keys() & table.keys():
            what = f"none of its ids is that of an image: ids are called {next(iter(table))!r}, images {next(iter(found))!r}"
            self.report(str(self.table_name), what, "use the table of these images")
            return
        for id_ in (id_ for id_ in found if id_ not in table):
            self.report(found[id_].path, f"has no line in {self.table_name}", "add its three lines, or move the image away")
        for id_, lines in table.items():
            if id_ not in found and lines:
                line = min(coded.line for coded in lines.values())
                fix = "add the image, or remove the lines"
                self.report(f"{self.table_name} line {line}", f"{id_} is an id without a file in {self.images_name}/", fix)
        short = [id_ for id_ in found if id_ in table and len(table[id_]) < len(CLASSES)]
        if short:
            absent = [name for name in CLASSES if name not in table[short[0]]]
            what = f"lacks lines of {len(short)} of {len(found)} slices, which count as empty there, e.g. {short[0]}: {', '.join(absent)}"
            self.report(str(self.table_name), what, "add a line with an empty segmentation where that is right", "warning")

    def _check_order(self, found: Mapping[str, SliceFile], table: Table) -> None:
        """Decodes a few of the longest codes; square images do not tell."""
        codes = [
            (coded.code, found[id_].rows, found[id_].columns)
            for id_, lines in table.items()
            if id_ in found and found[id_].rows != found[id_].columns
            for coded in lines.values()
            if coded.code
        ]
        longest = sorted(codes, key=lambda code: -len(code[0]))[:CHECKED]
        try:
            order = rle.order_by_components(longest)
        except rle.RunLengthError:
            return  # reported already
        if order is not None and order != self.order:
            what = f"its pixels are counted along {order}, not {self.order}: read along {self.order}, the structures fall to pieces"
            self.report(str(self.table_name), what, f"data.source.order={order}")

    def _planes(self, image: SliceFile, lines: Mapping[str, Coded]) -> dict[str, Pixels]:
        where = self.root / str(self.table_name)
        codes = {name: lines[name].code if name in lines else "" for name in CLASSES}
        return {name: rle.RunLength(code, image.rows, image.columns, self.order, where) for name, code in codes.items()}
