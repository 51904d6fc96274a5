"""Masks as polygons that LabelMe shows and edits (github.com/wkentaro/labelme), one JSON file an image.

A polygon runs through the middle of the outermost pixels. LabelMe fills polygons with their outline, so drawn again they give
back the mask, pixel for pixel. Each connected component is a polygon. The format has no holes: a line leads from the outline
along a row of the structure to the hole, around it and back, which encloses the same pixels in every reader.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segkit.data.io.base import Array
from segkit.data.io.images import ImageFile
from segkit.inference.inputs import InputItem
from segkit.inference.writers.base import Writer
from segkit.system.files import write_text_atomic

Point = tuple[int, int]
"""x, y."""
VERSION = "5.4.1"
_PARENT = 3
"""The place in OpenCV's hierarchy of the outline that a hole lies in; -1 for outlines."""


class LabelMeFiles(Writer):
    """One JSON file an image, named as its mask is: the slices of a volume in a folder of its own."""

    def refuses(self, item: InputItem) -> str:
        images = self.target.images(item)
        fits = images and all(isinstance(image, ImageFile) for image in images)
        return "" if fits else f"{item.source} is not an image that LabelMe opens"

    def is_done(self, item: InputItem) -> bool:
        return all(path.is_file() for path in item.files(self.target.output, ".json"))

    def write(self, item: InputItem, mask: Array) -> None:
        for path, (image, of_image) in zip(item.files(self.target.output, ".json"), self.target.slices(item, mask), strict=True):
            write_labelme(path, self.target.labels.planes(of_image), self.target.source_names(), image.paths[0])


def write_labelme(path: Path, masks: Array, labels: Sequence[str], image: Path) -> None:
    """Write `masks` (K, H, W) as polygons of K labels; the file names the image relative to itself."""
    rows, columns = masks.shape[1:]
    document = {
        "version": VERSION,
        "flags": {},
        "shapes": [_entry(label, line) for label, mask in zip(labels, masks, strict=True) for line in polygons_of(mask)],
        "imagePath": Path(os.path.relpath(image.resolve(), path.parent.resolve())).as_posix(),
        "imageData": None,
        "imageHeight": rows,
        "imageWidth": columns,
    }
    write_text_atomic(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _entry(label: str, line: list[Point]) -> dict[str, Any]:
    points = [list(point) for point in line + line[-1:] * (3 - len(line))]  # LabelMe wants three, also of a single pixel
    return {"label": label, "points": points, "group_id": None, "description": "", "shape_type": "polygon", "flags": {}}


def polygons_of(mask: Array) -> Iterator[list[Point]]:
    """Yield a polygon for each connected component (corners connect) of a mask (H, W)."""
    outlines, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    lines = [[(int(x), int(y)) for x, y in outline[:, 0]] for outline in outlines]
    holes: dict[int, list[list[Point]]] = defaultdict(list)
    for i, line in enumerate(lines):
        holes[int(hierarchy[0, i, _PARENT])].append(line)
    for i in (i for i in range(len(lines)) if hierarchy[0, i, _PARENT] < 0):
        yield corners(with_holes(lines[i], holes[i], mask))


def with_holes(outline: list[Point], holes: Sequence[list[Point]], mask: Array) -> list[Point]:
    """Join an outline and its holes to one closed line, from left to right: what lies left of a hole is in the line already."""
    line, after = list(outline), [*range(1, len(outline)), 0]  # a linked list: there may be thousands of holes
    index = {point: i for i, point in enumerate(line)}
    for hole in sorted(holes, key=min):
        start = hole.index(min(hole))
        x, y = hole[start]
        while x > 0 and mask[y, x - 1]:
            x -= 1
        detour, first, at = [*hole[start:], *hole[: start + 1], (x, y)], len(line), index[x, y]
        line += detour
        after += [*range(first + 1, len(line)), after[at]]
        after[at] = first
        index.update((point, i) for i, point in enumerate(detour, first))
    order = [0]
    while after[order[-1]]:
        order.append(after[order[-1]])
    return [line[i] for i in order]


def corners(line: Sequence[Point]) -> list[Point]:
    """Drop the points at which a line goes straight on."""
    points = np.array(line)
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    kept = (before != after).any(axis=1)
    return [point for point, keep in zip(line, kept, strict=True) if keep] or list(line)
