"""Segmentations of 3D Slicer (.seg.nrrd): names and values of segments stand in the header, layers hold those that overlap.

Slicer stores only the box that holds something; the file's own origin and directions say where that lies. Described in
https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.data.io.base import Array, ReadError
from segkit.data.io.images import image_shape
from segkit.data.io.stored import LPS_TO_RAS
from segkit.data.io.text_header import text_header
from segkit.data.io.volumes import Header, OrientedFile, VolumeFile, header
from segkit.data.slices import recent

SUFFIX = ".seg.nrrd"
_NEAR = 0.1
"""In voxels: grids that lie closer are one."""
_NAME = re.compile(r"segment(\d+)_name")


@dataclass(frozen=True)
class Segment:
    """A segment of a file: where its voxels have `value` in `layer`."""

    name: str
    layer: int
    value: int


def is_slicer(path: Path) -> bool:
    """Whether a file is a segmentation of Slicer, by its suffix."""
    return path.name.lower().endswith(SUFFIX)


def segments_of(path: Path) -> tuple[Segment, ...]:
    """Read the segments from the header. Raises `ReadError`, also where two have one name."""
    head = text_header(path)
    fields = head.fields if head is not None else {}
    numbers = sorted(int(match[1]) for key in fields if (match := _NAME.fullmatch(key)))
    if head is None or not numbers:
        raise ReadError(path, "is no segmentation of 3D Slicer (its header names no segment)")
    try:
        found = [_segment(path, i, {key: fields.get(f"segment{i}_{key}", "") for key in ("name", "layer", "labelvalue")}) for i in numbers]
    except ValueError:
        raise ReadError(path, "damaged (the layer or value of a segment is no number)") from None
    repeated = [name for name, n in Counter(segment.name for segment in found).items() if n > 1]
    if repeated:
        raise ReadError(path, f"has several segments called {repeated[0]}; give each its own name in Slicer")
    return tuple(found)


def _segment(path: Path, number: int, fields: dict[str, str]) -> Segment:
    """Files of Slicer 4.10 and older have no layers: each segment is one of its own, with the value 1."""
    layer = int(fields["layer"]) if fields["layer"] else number
    return Segment(fields["name"].strip() or f"segment_{number}", layer, int(fields["labelvalue"] or 1))


@dataclass(frozen=True)
class SegmentFile(OrientedFile):
    """One segment on the grid of an image: 0 and 1 uint8, (D, H, W), or (H, W) of a single image.

    Args:
        path: the .seg.nrrd.
        orient: axes that the image is turned to.
        segment: the segment.
        grid: the image's grid after that; None where the image has none (PNG): its pixels then are what Slicer takes them for,
            squares of one millimeter.
        shape: slices, rows and columns of the image.
        flat: whether the image is a single one.
    """

    segment: Segment = Segment("", 0, 1)
    grid: Header | None = None
    shape: tuple[int, int, int] = (1, 1, 1)
    flat: bool = False

    def decode(self) -> Array:
        own = header(self.path, self.orient)
        mask = np.zeros(self.shape, np.uint8)
        if own.shape != (1, 1, 1):  # so Slicer writes a file without a voxel
            voxels = recent.read(VolumeFile(self.path, self.orient))
            if self.segment.layer >= voxels.shape[3]:
                raise ReadError(self.path, f"names layer {self.segment.layer}, but holds {voxels.shape[3]}")
            self._paste(mask, voxels[..., self.segment.layer] == self.segment.value, _offset(self.path, own, self.grid))
        return mask[0] if self.flat else mask

    def _paste(self, mask: Array, drawn: Array, offset: tuple[int, ...]) -> None:
        """Set the voxels of the box `drawn`, which begins at `offset` of the image."""
        first = np.maximum(offset, 0)
        last = np.minimum(np.add(offset, drawn.shape), mask.shape)
        inside = tuple(slice(*ends) for ends in zip(first - offset, np.maximum(last - offset, first - offset), strict=True))
        if drawn.sum() > drawn[inside].sum():
            what = f"{self.segment.name} reaches beyond its image"
            raise ReadError(self.path, f"{what}; is it another image's? Else crop it in Slicer (Segment Editor > Specify geometry)")
        mask[tuple(slice(a, max(a, b)) for a, b in zip(first, last, strict=True))] = drawn[inside]


def segment_files(image: Path, files: Sequence[Path], grid: Header | None, orient: str | None) -> dict[str, SegmentFile]:
    """The segments of several files by name, each on the grid of the image.

    Args:
        image: the image.
        files: its segmentations.
        grid: the image's grid, turned to `orient`; None where it has none.
        orient: axes that volumes are turned to.

    Raises:
        ReadError: a header cannot be read, or a segmentation does not lie on the voxels of the image.
    """
    found: dict[str, SegmentFile] = {}
    for path in files:
        shape = grid.shape if grid is not None else (1, *image_shape(image)[:2])
        own = header(path, orient)
        if own.shape != (1, 1, 1):
            _offset(path, own, grid)
        found |= {one.name: SegmentFile(path, orient, one, grid, shape, flat=shape[0] == 1) for one in segments_of(path)}
    return found


def _offset(path: Path, own: Header, grid: Header | None) -> tuple[int, ...]:
    """Slice, row and column of the image at which the box of the file begins."""
    image = np.array(grid.affine) if grid is not None and grid.orientation else LPS_TO_RAS
    between = np.linalg.inv(image) @ np.array(own.affine)
    begin = between[:3, 3]
    far = np.abs(between[:3, :3] - np.eye(3)) @ (np.array(own.shape[::-1]) - 1)
    if far.max() > _NEAR or np.abs(begin - np.round(begin)).max() > _NEAR:
        what = "does not lie on the voxels of its image"
        raise ReadError(path, f"{what}; choose the image as its geometry in Slicer (Segment Editor > Specify geometry), and save it again")
    return tuple(int(n) for n in np.round(begin)[::-1])
