"""COCO instances: one table of outlines for all images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from segkit.data.case import Case, Pixels
from segkit.data.io.base import Array, File, ReadError, as_read_error, read_json
from segkit.data.io.images import ImageFile, image_size
from segkit.data.io.polygons import Shape
from segkit.data.phantoms import chest
from segkit.data.phantoms.base import write_bytes, write_png
from segkit.data.slices import Blank
from segkit.data.sources.base import SLIGHT, Source, tidy
from segkit.system.errors import Severity, nearest

Code = dict[str, Any]
"""An RLE of pycocotools: size [rows, columns], counts in bytes."""


class SegmentationError(ValueError):
    """A segmentation that cannot be, and why."""


@dataclass(frozen=True)
class PackedRle(File):
    """A mask (rows, columns) of 0 and 1 as COCO packs it; `path` is the table it came from."""

    counts: str
    rows: int
    columns: int

    def read(self) -> Array:
        with as_read_error(self.path):
            code = {"size": [self.rows, self.columns], "counts": self.counts.encode()}
            return np.ascontiguousarray(coco_mask.decode(code), np.uint8)


class Listed(NamedTuple):
    """An entry of `images` and its file."""

    path: Path
    name: str
    rows: int
    columns: int
    codes: dict[str, list[Code]]
    """Instances by category."""


class Coco(Source):
    """COCO instances: images with polygons or run-length codes in one table.

        ROOT/annotations.json    images, annotations, categories
        ROOT/FILE_NAME           the images

    A segmentation is a list of polygons or a run-length code, plain or packed into text; all become masks through pycocotools,
    so they are those of every COCO tool. Each category is a plane of its own, its instances joined; categories may overlap.
    Images without annotations are images without structures. Facts of a case: `n_instances`.

    Reference: Lin et al., ECCV 2014; cocodataset.org.

    Args:
        root: folder of the data set.
        annotations: the table, below root.
        images: folder below root that file names are relative to.
        categories: names of the categories to take; None takes all that have annotations.
        group: regular expression searched in the id; its first group, or the whole match, is the patient.
    """

    def __init__(
        self,
        root: Path,
        annotations: str = "annotations.json",
        images: str = ".",
        categories: Sequence[str] | None = None,
        group: str | None = None,
    ) -> None:
        super().__init__(root, group=group)
        self.table_name, self.images_name = annotations, images
        self.table, self.images = self.root / annotations, self.root / images
        self.categories = tuple(categories) if categories is not None else None

    def cases(self) -> Iterator[Case]:
        table = self._read()
        if table is None:
            return
        names = self._categories(table["categories"])
        listed = self._images(table["images"])
        self._add_annotations(table["annotations"], listed, names)
        classes = self._classes(names, listed)
        for image in listed.values():
            if image is not None:
                yield self._case(image, classes, self.group_of(image.name))

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        """In turn an image has plain codes, polygons, packed codes."""
        table: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
        table["categories"] = [{"id": id_, "name": name} for id_, name in enumerate(chest.LABELS, 1)]
        for image_id, (name, drawing) in enumerate(chest.chests(n, seed), 1):
            rows, columns = drawing.image.shape
            write_png(root / self.images_name / f"{name}.png", drawing.image)
            table["images"].append({"id": image_id, "file_name": f"{name}.png", "height": rows, "width": columns})
            for bone in drawing.bones:
                entry = {"id": len(table["annotations"]) + 1, "image_id": image_id, "category_id": chest.LABELS.index(bone.label) + 1}
                entry |= {"segmentation": _segmentation(bone, rows, columns, image_id % 3), "iscrowd": int(image_id % 3 != 1)}
                table["annotations"].append(entry)
        write_bytes(root / self.table_name, json.dumps(table).encode())

    # the table

    def _read(self) -> dict[str, list[Any]] | None:
        try:
            table = read_json(self.table)
        except ReadError as error:
            fix = "export it again"
            if error.reason == "is missing":
                there = sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*.json")) if self.root.is_dir() else []
                fix = f"data.source.annotations={there[0]}" if there else "data.root = the folder that holds it"
            self.report(self.table, error.reason, fix)
            return None
        content: dict[str, Any] = table if isinstance(table, dict) else {}
        lacking = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
        if lacking:
            what = f"is not a table of COCO instances: it has no list of {', '.join(lacking)}"
            self.report(self.table, what, "export it as COCO instances")
            return None
        return content

    def _categories(self, entries: Sequence[Any]) -> dict[Any, str]:
        """Names by id, of those that are taken and those that are not."""
        names: dict[Any, str] = {}
        for number, entry in enumerate(entries, 1):
            id_, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
            if not isinstance(id_, int | str) or not isinstance(name, str) or not name:
                self._report(f"category {number}", "has no id or no name", "give it both")
            elif id_ in names:
                self._report(f"category {id_}", f"is there twice: {names[id_]} and {name}", "keep one of them")
            else:
                names[id_] = name
        for name in (name for name in self.categories or () if name not in names.values()):
            fix = nearest(name, names.values()) or f"there are: {', '.join(names.values())}"
            self.report("data.source.categories", f"{name!r} is not a category", fix)
        return names

    def _images(self, entries: Sequence[Any]) -> dict[Any, Listed | None]:
        """By id; None for images whose problem has been reported."""
        listed: dict[Any, Listed | None] = {}
        files: dict[Path, str] = {}
        for number, entry in enumerate(entries, 1):
            id_ = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(id_, int | str):
                self._report(f"image {number} of the list", "has no id", "give it one")
            elif id_ in listed:
                self._report(f"image {id_}", "is an id that two images have", "give each its own")
            else:
                listed[id_] = self._image(f"image {id_}", entry, files)
        return listed

    def _image(self, where: str, entry: Mapping[str, Any], files: dict[Path, str]) -> Listed | None:
        path = self.file_named(f"{self.shown(self.table)} {where}", entry.get("file_name"), self.images)
        if path is None:
            return None
        path = tidy(path)
        other = files.setdefault(path.resolve(), where)
        if other != where:
            self._report(where, f"names {entry['file_name']}, as {other} does", "remove one of them")
            return None
        try:
            size = image_size(path)
        except ReadError as error:
            self.report(path, error.reason, "replace the file, or remove its entry")
            return None
        self.check_size(f"{self.shown(self.table)} {where}", (entry.get("height"), entry.get("width")), size, path.name)
        return Listed(path, _id(path, self.images), *size, {})

    def _add_annotations(self, entries: Sequence[Any], listed: Mapping[Any, Listed | None], names: Mapping[Any, str]) -> None:
        seen: set[Any] = set()
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict):
                self._report(f"annotation {number} of the list", "is not an entry with image_id, category_id and segmentation", "remove it")
                continue
            id_ = entry.get("id", f"{number} of the list")
            if str(id_) in seen:
                self._report(f"annotation {id_}", "is an id that two annotations have", "remove one of them, if they are the same")
            seen.add(str(id_))
            self._add(f"annotation {id_}", entry, listed, names)

    def _add(self, where: str, entry: Mapping[str, Any], listed: Mapping[Any, Listed | None], names: Mapping[Any, str]) -> None:
        image_id, category_id = (_hashable(entry.get(key)) for key in ("image_id", "category_id"))
        if image_id not in listed:
            self._report(where, f"image_id {image_id!r} is that of no image", "add the image, or remove the annotation")
        if category_id not in names:
            self._report(where, f"category_id {category_id!r} is that of no category", "add the category, or fix the annotation")
        image, name = listed.get(image_id), names.get(category_id)
        if image is None or name is None or (self.categories is not None and name not in self.categories):
            return
        try:
            image.codes.setdefault(name, []).append(self._code(where, entry.get("segmentation"), image))
        except SegmentationError as error:
            self._report(where, f"({name} of {image.path.name}) {error}", "fix or remove it")

    def _code(self, where: str, segmentation: Any, image: Listed) -> Code:
        if isinstance(segmentation, dict):
            return rle(segmentation, image.rows, image.columns)
        beyond = _check_polygons(segmentation, image.rows, image.columns)
        if beyond > 0:
            what = f"reaches {beyond:.1f} pixels beyond {image.path.name} of {image.rows} x {image.columns}: it is clipped"
            self.warn("beyond", f"{self.shown(self.table)} {where}", what)
        parts = coco_mask.frPyObjects([[float(number) for number in polygon] for polygon in segmentation], image.rows, image.columns)
        merged: Code = coco_mask.merge(parts)
        return merged

    # cases

    def _classes(self, names: Mapping[Any, str], listed: Mapping[Any, Listed | None]) -> list[str]:
        """The categories taken; those of the table that no annotation has are none, unless they are asked for."""
        drawn = {name for image in listed.values() if image is not None for name in image.codes}
        wanted = drawn if self.categories is None else self.categories
        classes = [name for name in dict.fromkeys(names.values()) if name in wanted]
        unused = [name for name in dict.fromkeys(names.values()) if name not in drawn] if self.categories is None else []
        if unused:
            self._report("categories", f"{', '.join(unused)}: no annotation has them, so they are left out", "", "note")
        if not classes:
            what = "there is nothing to learn: no annotation of a category that is taken"
            self._report("annotations", what, "export the annotations with the images")
        self.default_labels = {name: name for name in classes}
        return classes

    def _case(self, image: Listed, classes: Sequence[str], group: str) -> Case:
        planes: dict[str, Pixels] = {}
        for name, codes in image.codes.items():
            merged = coco_mask.merge(codes)
            planes[name] = PackedRle(self.table, merged["counts"].decode(), image.rows, image.columns)
        pixels = ImageFile(image.path)
        facts = {"n_instances": float(sum(map(len, image.codes.values())))}
        return Case(image.name, pixels, planes or {name: Blank(pixels) for name in classes[:1]}, group, facts=facts)

    def _report(self, where: str, what: str, fix: str, severity: Severity = "error") -> None:
        """Add a problem of the table."""
        self.report(f"{self.shown(self.table)} {where}", what, fix, severity)


def rle(segmentation: Mapping[str, Any], rows: int, columns: int) -> Code:
    """A run-length code, packed or plain, as pycocotools has it. Raises `SegmentationError`.

    The C code of pycocotools trusts what it is given, so runs are counted here first.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [rows, columns]:
        raise SegmentationError(f"its run-length code is for size {size}, the image is [{rows}, {columns}]")
    runs = unpack(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise SegmentationError("its run-length code holds something else than lengths of runs")
    if sum(runs) != rows * columns:
        raise SegmentationError(f"its run-length code has {sum(runs)} pixels, the image {rows} x {columns} = {rows * columns}")
    code: Code = coco_mask.frPyObjects({"size": size, "counts": runs}, rows, columns)
    return code


def unpack(text: str) -> list[int]:
    """Lengths of runs from their packed form: six bits a character from '0' on, of which five are the number's, lowest first,
    and one says that more follow; from the fourth run on, the difference to the last run but one."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise SegmentationError(f"its run-length code holds {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise SegmentationError("its run-length code is truncated")
    return runs


def _check_polygons(segmentation: Any, rows: int, columns: int) -> float:
    """How many pixels they slip over the edge. Raises `SegmentationError`."""
    if not isinstance(segmentation, list):
        raise SegmentationError("has no segmentation")
    if not segmentation:
        raise SegmentationError("its segmentation is empty: a box has no outline")
    shapes = [_polygon(numbers) for numbers in segmentation]
    beyond = max(shape.beyond(rows, columns) for shape in shapes)
    if any(shape.is_outside(rows, columns) for shape in shapes):
        raise SegmentationError(f"a polygon lies outside the image of {rows} x {columns}")
    if beyond > SLIGHT:
        raise SegmentationError(f"a polygon reaches {beyond:.1f} pixels beyond the image of {rows} x {columns}")
    return beyond


def _polygon(numbers: Any) -> Shape:
    try:
        points = np.asarray(numbers, float)
    except (TypeError, ValueError, OverflowError):
        points = np.empty((0, 0))
    if points.ndim != 1 or len(points) % 2 or not np.isfinite(points).all():
        raise SegmentationError("a polygon is not a list of numbers x, y, x, y, …")
    if len(points) < 6:
        raise SegmentationError(f"a polygon of {len(points) // 2} points; 3 or more are wanted")
    return Shape("", "polygon", tuple((float(x), float(y)) for x, y in points.reshape(-1, 2)))


def _id(path: Path, folder: Path) -> str:
    inside = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
    return inside.with_suffix("").as_posix()


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int | str) else str(value)


def _segmentation(bone: chest.Outline, rows: int, columns: int, form: int) -> Any:
    """1: polygons; 2: a packed code; 0: a plain one."""
    polygon = [[number for point in bone.points for number in point]]
    if form == 1:
        return polygon
    (code,) = coco_mask.frPyObjects(polygon, rows, columns)
    packed = code["counts"].decode()
    return {"size": [rows, columns], "counts": packed if form == 2 else unpack(packed)}
