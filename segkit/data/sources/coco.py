"""COCO instances: one table of outlines for all images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from segkit.data.case import Case, Pixels
from segkit.data.io.base import Array, File, read_json
from segkit.data.io.images import ImageFile, image_shape
from segkit.data.io.polygons import Shape, ShapeError
from segkit.data.phantoms import chest
from segkit.data.phantoms.base import write_bytes, write_png
from segkit.data.slices import Blank
from segkit.data.sources.base import Source, Unusable, places_of
from segkit.data.sources.files import all_files
from segkit.system.errors import Severity
from segkit.system.shell import override

Code = dict[str, Any]
"""An RLE of pycocotools: size [rows, columns], counts in bytes."""


@dataclass(frozen=True)
class PackedRle(File):
    """A mask (rows, columns) of 0 and 1 as COCO packs it; `path` is the table it came from."""

    counts: str
    rows: int
    columns: int

    def decode(self) -> Array:
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
        with self.reporting("export it again"):
            table = self._read()
            names = self._categories(table["categories"])
            listed = self._images(table["images"])
            self._add_annotations(table["annotations"], listed, names)
            classes = self._classes(names, listed)
            yield from (self._case(image, classes, self.group_of(image.name)) for image in listed.values() if image is not None)

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

    def _read(self) -> dict[str, list[Any]]:
        if not self.table.is_file():
            there = sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*.json"))
            fix = override("data.source.annotations", there[0]) if there else "data.root = the folder that holds it"
            raise Unusable(self.table, "is missing", fix)
        table = read_json(self.table)
        content: dict[str, Any] = table if isinstance(table, dict) else {}
        lacking = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
        if lacking:
            what = f"is not a table of COCO instances: it has no list of {', '.join(lacking)}"
            raise Unusable(self.table, what, "export it as COCO instances")
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
        for name in self.categories or ():
            self.check_choice("categories", name, names.values())
        return names

    def _images(self, entries: Sequence[Any]) -> dict[Any, Listed | None]:
        """By id; None for images whose problem has been reported."""
        self._check_place(next((entry.get("file_name") for entry in entries if isinstance(entry, dict)), None))
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

    def _check_place(self, name: Any) -> None:
        """Raise `Unusable` where the first image lies in another folder below root, as all of an export then do."""
        if not isinstance(name, str) or not name or "\0" in name or any(path.is_file() for path in places_of(name, self.images)):
            return
        end = f"/{PureWindowsPath(name).as_posix()}"
        place = next((path for path in all_files(self.root) if path.as_posix().endswith(end)), None)
        if place:
            folder = place.as_posix().removesuffix(end)
            what = f"names {name}, which lies in {self.shown(Path(folder))}"
            raise Unusable(self.table, what, override("data.source.images", Path(folder).relative_to(self.root).as_posix()))

    def _image(self, where: str, entry: Mapping[str, Any], files: dict[Path, str]) -> Listed | None:
        path = self.file_named(f"{self.shown(self.table)} {where}", entry.get("file_name"), self.images)
        if path is None:
            return None
        other = files.setdefault(path.resolve(), where)
        if other != where:
            self._report(where, f"names {entry['file_name']}, as {other} does", "remove one of them")
            return None
        with self.reporting("replace the file, or remove its entry"):
            rows, columns, _ = image_shape(path)
            self.check_size(f"{self.shown(self.table)} {where}", (entry.get("height"), entry.get("width")), (rows, columns), path.name)
            inside = path.relative_to(self.images) if path.is_relative_to(self.images) else Path(path.name)
            return Listed(path, inside.with_suffix("").as_posix(), rows, columns, {})
        return None

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
        image_id, category_id = (id_ if isinstance(id_, int | str) else str(id_) for id_ in map(entry.get, ("image_id", "category_id")))
        if image_id not in listed:
            self._report(where, f"image_id {image_id!r} is that of no image", "add the image, or remove the annotation")
        if category_id not in names:
            self._report(where, f"category_id {category_id!r} is that of no category", "add the category, or fix the annotation")
        image, name = listed.get(image_id), names.get(category_id)
        if image is None or name is None or (self.categories is not None and name not in self.categories):
            return
        try:
            image.codes.setdefault(name, []).append(self._code(where, entry.get("segmentation"), image))
        except ShapeError as error:
            self._report(where, f"({name} of {image.path.name}) {error}", "fix or remove it")

    def _code(self, where: str, segmentation: Any, image: Listed) -> Code:
        if isinstance(segmentation, dict):
            return rle(segmentation, image.rows, image.columns)
        if not isinstance(segmentation, list):
            raise ShapeError("has no segmentation")
        if not segmentation:
            raise ShapeError("its segmentation is empty: a box has no outline")
        beyond = max(_slip(polygon, image.rows, image.columns) for polygon in segmentation)
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
    """A run-length code, packed or plain, as pycocotools has it. Raises `ShapeError`.

    The C code of pycocotools trusts what it is given, so runs are counted here first.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [rows, columns]:
        raise ShapeError(f"its run-length code is for size {size}, the image is [{rows}, {columns}]")
    runs = unpack(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ShapeError("its run-length code holds something else than lengths of runs")
    if sum(runs) != rows * columns:
        raise ShapeError(f"its run-length code has {sum(runs)} pixels, the image {rows} x {columns} = {rows * columns}")
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
            raise ShapeError(f"its run-length code holds {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ShapeError("its run-length code is truncated")
    return runs


def _slip(numbers: Any, rows: int, columns: int) -> float:
    """How many pixels a polygon slips over the edge. Raises `ShapeError`."""
    try:
        points = np.asarray(numbers, float)
    except (TypeError, ValueError, OverflowError):
        points = np.empty((0, 0))
    if points.ndim != 1 or len(points) % 2 or not np.isfinite(points).all():
        raise ShapeError("a polygon is not a list of numbers x, y, x, y, …")
    if len(points) < 6:
        raise ShapeError(f"a polygon of {len(points) // 2} points; 3 or more are expected")
    try:
        return Shape("", "polygon", tuple((x, y) for x, y in points.reshape(-1, 2).tolist())).slip(rows, columns)
    except ShapeError as error:
        raise ShapeError(f"a polygon {error}") from None


def _segmentation(bone: chest.Outline, rows: int, columns: int, form: int) -> Any:
    """1: polygons; 2: a packed code; 0: a plain one."""
    polygon = [[number for point in bone.points for number in point]]
    if form == 1:
        return polygon
    (code,) = coco_mask.frPyObjects(polygon, rows, columns)
    packed = code["counts"].decode()
    return {"size": [rows, columns], "counts": packed if form == 2 else unpack(packed)}
