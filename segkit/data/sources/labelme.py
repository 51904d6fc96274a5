"""Polygons and other shapes drawn in LabelMe, one JSON file an image."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from segkit.data.case import Case, Pixels
from segkit.data.io import polygons
from segkit.data.io.base import ReadError
from segkit.data.io.images import ImageFile, image_shape
from segkit.data.io.polygons import EmbeddedImage, Shape, ShapeError, Shapes
from segkit.data.phantoms import chest
from segkit.data.phantoms.base import png_bytes, write_bytes, write_png
from segkit.data.slices import Blank
from segkit.data.sources.base import Source
from segkit.data.sources.files import all_files
from segkit.system.files import natural
from segkit.system.shell import override


class Annotated(NamedTuple):
    """A JSON file and its image."""

    id: str
    split: str
    path: Path
    image: Pixels
    named: Path
    """Where imagePath leads, whether there is a file or not."""
    size: tuple[int, int]
    shapes: tuple[Shape, ...]


class LabelMe(Source):
    """LabelMe: shapes with their labels, one JSON file an image.

        ROOT/**/NAME.json    shapes, and the image in imageData, or its place in imagePath

    Structures may cross, so each label is a plane of its own; shapes of one label are joined. The image is the one inside the
    file where there is one, else the one that imagePath names, relative to the JSON file. Its real size counts, whatever
    imageHeight and imageWidth say. `_background_` is not drawn, pixels of `__ignore__` do not count. Facts: `n_instances`.

    Reference: github.com/wkentaro/labelme.

    Args:
        root: folder of the data set.
        annotations: folder below root that holds the JSON files, in any subfolders.
        benchmark: folder below root whose JSON files are a test set from elsewhere.
        group: regular expression searched in the id; its first group, or the whole match, is the patient.
        paint_order: makes one class a pixel: these labels have the values 1, 2, …, and later shapes of a file cover earlier ones.
        leave_out: labels that are not used.
        phantom: what the phantom shows.
    """

    def __init__(
        self,
        root: Path,
        annotations: str = ".",
        benchmark: str | None = None,
        group: str | None = None,
        paint_order: Sequence[str] | None = None,
        leave_out: Sequence[str] = (),
        phantom: Literal["bones", "organs"] = "bones",
    ) -> None:
        super().__init__(root, {label: label for label in chest.LABELS}, group)  # of other planes data.labels has to say the names
        if paint_order is not None:
            self.default_labels = {0: "background", **dict(enumerate(paint_order, 1)), polygons.IGNORE_VALUE: "ignore"}
        self.annotations_name, self.benchmark, self.phantom = annotations, benchmark, phantom
        self.annotations = self.root / annotations
        self.paint_order = tuple(paint_order) if paint_order is not None else None
        self.leave_out = tuple(leave_out)
        self._seen: set[str] = set()

    def cases(self) -> Iterator[Case]:
        listed = [one for path, id_, split in self._files() for one in self._annotated(path, id_, split)]
        self._check_images(listed)
        labels = self._labels(listed)
        for one in listed:
            facts = {"n_instances": float(_instances(one.shapes))}
            yield Case(one.id, one.image, self._mask(one, labels), self.group_of(one.id), one.split, facts=facts)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        """Every third file holds its image; the others name theirs in images/."""
        folder = root / self.annotations_name
        for i, (name, drawing) in enumerate(chest.chests(n, seed)):
            image, inside = root / "images" / f"{name}.png", i % 3 == 2
            if not inside:
                write_png(image, drawing.image)
            document = {
                "version": "5.4.1",
                "flags": {},
                "shapes": [
                    {"label": one.label, "points": one.points, "group_id": one.group, "shape_type": "polygon", "flags": {}}
                    for one in (drawing.organs if self.phantom == "organs" else drawing.bones)
                ],
                "imagePath": image.name if inside else Path(os.path.relpath(image, folder)).as_posix(),
                "imageData": base64.b64encode(png_bytes(drawing.image)).decode() if inside else None,
                "imageHeight": drawing.image.shape[0],
                "imageWidth": drawing.image.shape[1],
            }
            write_bytes(folder / f"{name}.json", json.dumps(document).encode())

    # files

    def _files(self) -> Iterator[tuple[Path, str, str]]:
        """Path, id and split of each JSON file. Ids are paths below `annotations`; those of the benchmark begin with its folder."""
        benchmark = self.root / self.benchmark if self.benchmark is not None else None
        sets = [(self.annotations, "", self.annotations)] + ([(benchmark, "test", self.root)] if benchmark is not None else [])
        for place, split, base in sets:
            below = [benchmark] if benchmark is not None and not split else []
            found = (path for path in all_files(place, below) if path.suffix == ".json")
            paths = sorted(found, key=lambda path: natural(path.relative_to(place).as_posix()))
            if not paths:
                key = "data.source.benchmark" if split else "data.source.annotations"
                self.report(str(place), "holds no LabelMe files (*.json)", f"{key}=FOLDER  or  data.root=FOLDER")
            for path in paths:
                yield path, path.relative_to(base).with_suffix("").as_posix(), split

    def _annotated(self, path: Path, id_: str, split: str) -> Iterator[Annotated]:
        """Yield the file; nothing, and reported, where it is not sound."""
        where = self.shown(path)
        with self.reporting("replace the file, or move it away"):
            if not self.is_below(path):
                raise ReadError(path, f"leads out of data.root to {path.resolve()}")
            document = polygons.labelme_document(path)
            image, named, size = self._image(where, path, document)
            shapes, faults = polygons.shapes_of(document)
            faults += self._places(where, shapes, size) if size else []
            for fault in faults:
                self.report(where, fault, "fix it in LabelMe, or move the file away")
            if image is not None and size is not None and not faults:
                self.check_size(where, (document.get("imageHeight"), document.get("imageWidth")), size, "its image")
                yield Annotated(id_, split, path, image, named, size, self._drawn(where, shapes.values()))

    def _image(self, where: str, path: Path, document: Mapping[str, Any]) -> tuple[Pixels | None, Path, tuple[int, int] | None]:
        """The image, where imagePath leads, and rows and columns; None, and reported, where the image is missing."""
        name = document.get("imagePath")
        if document.get("imageData") is not None:
            named = path.parent.resolve() / (name.replace("\\", "/") if isinstance(name, str) else f"{path.stem}.*")
            return EmbeddedImage(path), Path(os.path.normpath(named)), polygons.embedded_size(path, document)
        image = self.file_named(where, name, path.parent)
        if image is None:
            return None, path, None
        return ImageFile(image), image.resolve(), image_shape(image)[:2]

    # what is in them

    def _places(self, where: str, shapes: Mapping[int, Shape], size: tuple[int, int]) -> list[str]:
        """Faults of shapes that lie off the image; a slight slip is clipped, with a warning."""
        faults = []
        for number, shape in shapes.items():
            name = f"shape {number} ({shape.label}): a {shape.kind} that"
            try:
                if beyond := shape.slip(*size):
                    what = f"{name} reaches {beyond:.1f} pixels beyond the image of {size[0]} x {size[1]}: it is clipped"
                    self.warn("beyond", where, what)
            except ShapeError as error:
                faults.append(f"{name} {error}")
        return faults

    def _drawn(self, where: str, shapes: Collection[Shape]) -> tuple[Shape, ...]:
        """Without what leaves no pixels."""
        prompts = sum(shape.kind == polygons.PROMPTS for shape in shapes)
        if prompts:
            what = f"{prompts} shapes of type points are clicks for a model, not outlines: they are left out"
            self.warn("prompts", where, what, "draw outlines where some are missing")
        self._seen.update(shape.label for shape in shapes)
        hidden = {polygons.BACKGROUND, *self.leave_out}
        return tuple(shape for shape in shapes if shape.kind != polygons.PROMPTS and shape.label not in hidden)

    def _check_images(self, listed: Sequence[Annotated]) -> None:
        """An image that has two files would stand in both subsets of a split."""
        first: dict[Path, Annotated] = {}
        for one in listed:
            other = first.setdefault(one.named, one)
            if other is not one:
                what = f"annotates {one.named.name}, as {self.shown(other.path)} does"
                self.report(one.path, what, "join their shapes in one file")

    def _labels(self, listed: Sequence[Annotated]) -> list[str]:
        """All labels drawn, in the order of their first shape."""
        labels = list(dict.fromkeys(shape.label for one in listed for shape in one.shapes))
        if listed and not labels:
            self.report(self.annotations, "no file holds a shape that is used", "draw some, or fix data.source.leave_out")
        for label in self.leave_out:
            self.check_choice("leave_out", label, sorted(self._seen), "warning")
        if self.paint_order is not None:
            lost = [label for label in labels if label not in (*self.paint_order, polygons.IGNORE)]
            if lost:
                fix = f"{override('data.source.paint_order', [*self.paint_order, *lost])}  or  {override('data.source.leave_out', lost)}"
                self.report("data.source.paint_order", f"lacks the labels {', '.join(lost)}", fix)
        return labels

    def _mask(self, one: Annotated, labels: Sequence[str]) -> Pixels | dict[str, Pixels] | None:
        """A file without shapes is an image without structures: its one plane is empty."""
        if self.paint_order is not None:
            values = {label: value for value, label in enumerate(self.paint_order, 1)} | {polygons.IGNORE: polygons.IGNORE_VALUE}
            return Shapes(one.path, tuple(values.items()), *one.size)
        own = dict.fromkeys(shape.label for shape in one.shapes)
        planes: dict[str, Pixels] = {label: Shapes(one.path, ((label, 1),), *one.size) for label in own}
        return planes or {label: Blank(one.image) for label in labels[:1]}


def _instances(shapes: Sequence[Shape]) -> int:
    """Shapes of one label and group_id are one."""
    return len({(shape.label, shape.group) for shape in shapes if shape.group}) + sum(not shape.group for shape in shapes)
