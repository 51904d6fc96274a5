"""Polygons and other shapes drawn in LabelMe (github.com/wkentaro/labelme), one JSON file an image.

    ROOT/**/NAME.json    shapes with their labels, and the image in imageData, or its place in imagePath

Structures may cross, so each label is a plane of its own; shapes of one label are joined. The image is the one inside the
file where there is one, else the one that imagePath names, relative to the JSON file. Its real size counts, whatever
imageHeight and imageWidth say. `_background_` is not drawn, pixels of `__ignore__` do not count.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
from PIL import Image

from segkit.data.case import Case, Pixels
from segkit.data.io import polygons
from segkit.data.io.base import ReadError
from segkit.data.io.images import ImageFile, image_size
from segkit.data.io.polygons import EmbeddedImage, Shape, ShapeMap, Shapes
from segkit.data.phantoms import base as phantom
from segkit.data.phantoms import chest
from segkit.data.slices import Blank
from segkit.data.sources.base import natural
from segkit.data.sources.json_files import JsonSource
from segkit.system.errors import nearest

SLIGHT = 2.0
"""Pixels by which a hand may slip over the edge."""
_UPRIGHT, _ORIENTATION = 1, 0x0112
_REDRAW = "fix it in LabelMe, or move the file away"


class Found(NamedTuple):
    """A JSON file and its image."""

    id: str
    split: str
    path: Path
    image: Pixels
    named: Path
    """Where imagePath leads, be there a file or not."""
    size: tuple[int, int]
    shapes: tuple[Shape, ...]


class LabelMe(JsonSource):
    """`annotations` and `benchmark` are folders below root: the cases, and a test set from elsewhere.

    `paint_order` makes one class a pixel: its labels have the values 1, 2, …, and later shapes of a file cover earlier ones.
    Labels of `leave_out` are not used. `group`: see `JsonSource`. `phantom`: what its phantom shows.
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
        super().__init__(root, group)
        self.drawn = phantom
        self.annotations, self.benchmark = annotations, benchmark
        self.paint_order = tuple(paint_order) if paint_order is not None else None
        self.leave_out = tuple(leave_out)
        self._met: set[str] = set()

    @property
    def default_labels(self) -> Mapping[int | str, str] | None:
        """Of planes those of the phantom: for other ones `data.labels` has to say which labels there ought to be."""
        if self.paint_order is None:
            return dict(zip(chest.LABELS, chest.LABELS, strict=True))
        return {0: "background", **dict(enumerate(self.paint_order, 1)), polygons.IGNORE_VALUE: "ignore"}

    def cases(self) -> Iterator[Case]:
        pattern = self._pattern()
        listed = [found for path, id_, split in self._files() for found in self._found(path, id_, split)]
        self._check_images(listed)
        labels = self._labels(listed)
        self._tell_warnings()
        for found in listed:
            mask = self._mask(found, labels)
            facts = {"n_instances": float(_instances(found.shapes))}
            yield Case(found.id, found.image, mask, self._group_of(found.id, pattern), found.split, facts=facts)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        """Every third file holds its image; the others name theirs in images/."""
        phantom.refuse_outside(root, self.annotations)
        folder = root / self.annotations
        folder.mkdir(parents=True, exist_ok=True)
        for i, (name, drawing) in enumerate(chest.drawings(n, seed)):
            image = root / "images" / f"{name}.png"
            inside = i % 3 == 2
            if not inside:
                phantom.write_png(image, drawing.image)
            up = "/".join([".."] * len(folder.relative_to(root).parts))
            document = {
                "version": "5.4.1",
                "flags": {},
                "shapes": [_entry(bone) for bone in (drawing.organs if self.drawn == "organs" else drawing.bones)],
                "imagePath": image.name if inside else f"{up}/images/{name}.png".lstrip("/"),
                "imageData": _encoded(drawing.image) if inside else None,
                "imageHeight": drawing.image.shape[0],
                "imageWidth": drawing.image.shape[1],
            }
            (folder / f"{name}.json").write_bytes(json.dumps(document).encode())

    # files

    def _files(self) -> Iterator[tuple[Path, str, str]]:
        """Path, id and split of each JSON file. Ids are paths below `annotations`; those of the benchmark begin with its folder."""
        benchmark = self.root / self.benchmark if self.benchmark is not None else None
        folder = self.root / self.annotations
        sets = [(folder, "", folder)] + ([(benchmark, "test", self.root)] if benchmark is not None else [])
        for place, split, base in sets:
            paths = _json_files(place)
            if not split and benchmark is not None:
                paths = [path for path in paths if not path.is_relative_to(benchmark)]
            if not paths:
                key = "data.source.benchmark" if split else "data.source.annotations"
                self._say(str(place), "holds no LabelMe files (*.json)", f"{key}=FOLDER  or  data.root=FOLDER")
            for path in paths:
                yield path, path.relative_to(base).with_suffix("").as_posix(), split

    def _found(self, path: Path, id_: str, split: str) -> Iterator[Found]:
        """Nothing, and told, where the file is not sound."""
        where = self._shown(path)
        try:
            if not self._is_below(path):
                raise ReadError(path, f"leads out of data.root to {path.resolve()}")
            document = polygons.labelme_document(path)
            image, named, size = self._image(where, path, document)
        except ReadError as error:
            self._say(self._shown(error.path), error.reason, "replace the file, or move it away")
            return
        shapes, faults = polygons.shapes_of(document)
        faults += self._places(where, shapes, size) if size else []
        for fault in faults:
            self._say(where, fault, _REDRAW)
        if image is not None and size is not None and not faults:
            self._check_size(where, document, size)
            yield Found(id_, split, path, image, named, size, self._drawn(where, shapes.values()))

    def _image(self, where: str, path: Path, document: Mapping[str, Any]) -> tuple[Pixels | None, Path, tuple[int, int] | None]:
        """The image, where imagePath leads, and rows and columns; None, and told, where the image is missing."""
        name = document.get("imagePath")
        if document.get("imageData") is not None:
            named = path.parent.resolve() / (name.replace("\\", "/") if isinstance(name, str) else f"{path.stem}.*")
            return EmbeddedImage(path), Path(os.path.normpath(named)), polygons.embedded_size(path, document)
        image = self._file(where, name, path.parent)
        if image is None:
            return None, path, None
        if _is_turned(image):
            what = "its EXIF says that it is shown turned, as LabelMe does; here pixels are read as they are stored"
            self._say(self._shown(image), what, "save it upright (exiftran -a, or an image editor), and look at its shapes again")
        return ImageFile(image), image.resolve(), image_size(image)

    # what is in them

    def _places(self, where: str, shapes: Mapping[int, Shape], size: tuple[int, int]) -> list[str]:
        """Faults of shapes that lie off the image; a slight slip is clipped, with a warning."""
        faults = []
        for number, shape in shapes.items():
            beyond = shape.beyond(*size) if shape.points else 0.0
            if beyond == 0:
                continue
            name, image = f"shape {number} ({shape.label}): a {shape.kind} that", f"the image of {size[0]} x {size[1]}"
            if shape.is_outside(*size):
                faults.append(f"{name} lies outside {image}")
            elif beyond > SLIGHT:
                faults.append(f"{name} reaches {beyond:.1f} pixels beyond {image}")
            else:
                self._warn("beyond", where, f"{name} reaches {beyond:.1f} pixels beyond {image}: it is clipped", "")
        return faults

    def _check_size(self, where: str, document: Mapping[str, Any], size: tuple[int, int]) -> None:
        said = document.get("imageHeight"), document.get("imageWidth")
        if None not in said and said != size:
            what = f"says {said[0]} x {said[1]}, but its image is {size[0]} x {size[1]}: the shapes are taken as drawn on the latter"
            self._warn("size", where, what, "make sure that it is the image which was annotated")

    def _drawn(self, where: str, shapes: Collection[Shape]) -> tuple[Shape, ...]:
        """Without what leaves no pixels."""
        prompts = sum(shape.kind == polygons.PROMPTS for shape in shapes)
        if prompts:
            what = f"{prompts} shapes of type points are clicks for a model, not outlines: they are left out"
            self._warn("prompts", where, what, "draw outlines where some are missing")
        self._met.update(shape.label for shape in shapes)
        hidden = {polygons.BACKGROUND, *self.leave_out}
        return tuple(shape for shape in shapes if shape.kind != polygons.PROMPTS and shape.label not in hidden)

    def _check_images(self, listed: Sequence[Found]) -> None:
        """An image that has two files would stand on both sides of a split."""
        first: dict[Path, Found] = {}
        for found in listed:
            other = first.setdefault(found.named, found)
            if other is not found:
                what = f"annotates {found.named.name}, as {self._shown(other.path)} does"
                self._say(self._shown(found.path), what, "join their shapes in one file")

    def _labels(self, listed: Sequence[Found]) -> list[str]:
        """All labels drawn, in the order of their first shape."""
        labels = list(dict.fromkeys(shape.label for found in listed for shape in found.shapes))
        if listed and not labels:
            self._say(
                self._shown(self.root / self.annotations), "no file holds a shape that is used", "draw some, or fix data.source.leave_out"
            )
        for label in (label for label in self.leave_out if label not in self._met):
            self._say("data.source.leave_out", f"{label!r} is no label of these files", nearest(label, self._met) or "remove it", "warning")
        if self.paint_order is not None:
            lost = [label for label in labels if label not in (*self.paint_order, polygons.IGNORE)]
            if lost:
                fix = f"data.source.paint_order=[{','.join([*self.paint_order, *lost])}]  or  data.source.leave_out=[{','.join(lost)}]"
                self._say("data.source.paint_order", f"lacks the labels {', '.join(lost)}", fix)
        return labels

    def _mask(self, found: Found, labels: Sequence[str]) -> Pixels | dict[str, Pixels] | None:
        """A file without shapes is an image without structures: its one plane is empty."""
        if self.paint_order is not None:
            return ShapeMap(found.path, self.paint_order, *found.size)
        own = dict.fromkeys(shape.label for shape in found.shapes)
        planes: dict[str, Pixels] = {label: Shapes(found.path, label, *found.size) for label in own}
        return planes or {label: Blank(found.image) for label in labels[:1]}


def _json_files(folder: Path) -> list[Path]:
    """Hidden files and folders are left out."""
    paths = (path for path in folder.rglob("*.json") if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(paths, key=lambda path: natural(path.relative_to(folder).as_posix()))


def _is_turned(path: Path) -> bool:
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return False
    try:
        with Image.open(path) as image:
            return bool(image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT)
    except OSError:
        return False  # told by whoever reads it


def _instances(shapes: Sequence[Shape]) -> int:
    """Shapes of one label and group_id are one."""
    return len({(shape.label, shape.group) for shape in shapes if shape.group}) + sum(not shape.group for shape in shapes)


def _entry(bone: chest.Bone) -> dict[str, Any]:
    points = [list(point) for point in bone.points]
    return {"label": bone.label, "points": points, "group_id": bone.group, "shape_type": "polygon", "flags": {}}


def _encoded(image: Any) -> str:
    _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, phantom.PNG_COMPRESSION])
    return base64.b64encode(data.tobytes()).decode()
