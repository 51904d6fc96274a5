"""DICOM headers: series of images, annotations, and the slice on which each piece of an annotation was drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from segkit.data.io.base import Array, ReadError, as_read_error
from segkit.data.io.dicom import Grid, Point, contours_of, groups, header

Source = tuple[str, int]
"""An image by its SOPInstanceUID and the number of the frame, from 1; 0 where a file is one image."""

SLICED = ("CT", "MR", "PT", "NM")
"""Modalities whose series are stacks even without geometry; images of other modalities are single ones."""
UNEVEN = 0.1
"""Slice distances may differ by a tenth; a missing slice doubles one."""


@dataclass(frozen=True)
class ImageHeader:
    """A slice as its header describes it."""

    path: Path
    uid: str
    frame: int
    """From 0."""
    frames: int
    number: int
    shape: tuple[int, int]
    spacing: tuple[float, ...]
    grid: Grid | None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The names under which a mask may refer to it."""
        return ((self.uid, self.frame + 1),) if self.frames > 1 else ((self.uid, 0), (self.uid, 1))


def images_of(path: Path, header: Dataset) -> list[ImageHeader]:
    """Return the image of a file, or its frames. Raises `ReadError`."""
    with as_read_error(path):
        count = _frame_count(path, header)
        shape, number = (int(header.Rows), int(header.get("Columns") or 0)), int(header.get("InstanceNumber") or 0)
        grids = [Grid.of(header, frame) for frame in range(count)]
        uid, spacing = str(header.SOPInstanceUID), _spacing(header)
    return [ImageHeader(path, uid, i, count, number, shape, grid.spacing if grid else spacing, grid) for i, grid in enumerate(grids)]


def _frame_count(path: Path, header: Dataset) -> int:
    count = int(header.get("NumberOfFrames") or 1)
    if not 0 < count <= path.stat().st_size:
        raise ReadError(path, f"damaged (claims {count} frames in {path.stat().st_size} bytes)")
    return count


def _spacing(header: Dataset) -> tuple[float, ...]:
    """Return (rows, columns) in mm without a place in the patient: at the detector, or of an ultrasound region (cm)."""
    try:
        if found := header.get("PixelSpacing") or header.get("ImagerPixelSpacing"):
            rows, columns = float(found[0]), float(found[1])
        else:
            region = header.get("SequenceOfUltrasoundRegions")[0]
            is_cm = int(region.PhysicalUnitsXDirection) == int(region.PhysicalUnitsYDirection) == 3
            rows, columns = (abs(float(v)) * 10 * is_cm for v in (region.PhysicalDeltaY, region.PhysicalDeltaX))
        return (rows, columns) if rows > 0 and columns > 0 else ()
    except (AttributeError, IndexError, TypeError, ValueError):
        return ()


class Series:
    """Slices of one stack, or images of one exam, in order."""

    def __init__(self, header: Dataset, images: Sequence[ImageHeader]) -> None:
        self.uid, self.study = str(header.SeriesInstanceUID), str(header.get("StudyInstanceUID") or "")
        self.patient = str(header.get("PatientID") or "").strip()
        self.number, self.modality = header.get("SeriesNumber"), str(header.get("Modality") or "")
        self.description = str(header.get("SeriesDescription") or "").strip()
        self.frame_of_reference = str(header.get("FrameOfReferenceUID") or "")
        self.has_geometry = all(image.grid for image in images)
        self._normal = images[0].grid.normal if self.has_geometry and images[0].grid else np.zeros(3)
        self.is_scan = self.has_geometry or self.modality in SLICED
        self.is_stack = self.is_scan or images[0].frames > 1  # the frames of a clip follow each other as well
        self.images = sorted(images, key=lambda image: (self.depth(image), image.number, image.frame, image.uid))

    def depth(self, image: ImageHeader) -> float:
        """Position along the normal of the slices, mm; InstanceNumber says nothing about it."""
        return round(float(self._normal @ image.grid.origin), 3) if self.has_geometry and image.grid else 0.0

    @cached_property
    def depths(self) -> Array:
        return np.array([self.depth(image) for image in self.images])

    @cached_property
    def gaps(self) -> Array:
        """Distances between neighboring slices, mm."""
        return np.diff(self.depths) if self.has_geometry else np.zeros(0)

    @property
    def slice_mm(self) -> float:
        """Median distance of slices; 0 where it is unknown."""
        return float(np.round(np.median(self.gaps), 4)) if self.gaps.size else 0.0

    @property
    def base(self) -> str:
        patient = re.sub(r"[^\w.-]+", "-", self.patient).strip("-.") or "unknown"
        return f"{patient}_{self.number}" if self.number is not None else patient

    @cached_property
    def _by_source(self) -> dict[Source, int]:
        return {source: i for i, image in enumerate(self.images) for source in image.sources}

    def holds(self, pieces: Sequence[Piece]) -> bool:
        return any(source in self._by_source for piece in pieces for source in piece.sources)

    def index(self, piece: Piece) -> int | None:
        """Return the slice on which a piece was drawn: the image it names, else the one in its plane."""
        named = {self._by_source[source] for source in piece.sources if source in self._by_source}
        if len(named) == 1:
            return named.pop()
        if not self.has_geometry or piece.point is None:
            return None
        i = int(np.argmin(np.abs(self.depths - self._normal @ piece.point)))
        return i if self.off(piece, i) <= UNEVEN * (self.slice_mm or 1.0) else None

    def off(self, piece: Piece, i: int) -> float:
        """Distance of a piece from the plane of slice `i`, mm; 0 where it is unknown."""
        if not self.has_geometry or piece.point is None:
            return 0.0
        return abs(float(self.depths[i] - self._normal @ piece.point))

    def __str__(self) -> str:
        return f"{len(self.images)} {self.modality} slice{'s' * (len(self.images) != 1)} {self.description!r}"


@dataclass(frozen=True)
class Piece:
    """A piece of an annotation on one slice: a segment in a frame of a DICOM-SEG, or a contour of an RTSTRUCT."""

    plane: str
    index: int
    """The number of the frame or contour in its file, from 0."""
    sources: tuple[Source, ...]
    """The images that it says it was drawn on."""
    point: Point | None
    """A point on its plane, mm."""
    grid: Grid | None = None
    value: int = 1
    """The segment's value in its frame."""


@dataclass(frozen=True)
class Annotation:
    """A DICOM-SEG or RTSTRUCT as its header describes it."""

    path: Path
    is_contours: bool
    series: frozenset[str]
    """UIDs of the series it refers to."""
    frame_of_reference: str
    planes: tuple[str, ...]
    """Structures that are drawn, or known to be empty."""
    pieces: tuple[Piece, ...]
    left_out: tuple[str, ...] = ()
    """Structures of points and lines, or of nothing."""


def plane_name(label: str, number: int) -> str:
    """Return the plane's name for a label: 'Left Kidney ' is left_kidney."""
    return re.sub(r"[^\w.+-]+", "_", label.strip().lower()) or f"segment_{number}"


def segmentation(path: Path) -> Annotation:
    """Read a DICOM-SEG (PS3.3 A.51): binary, fractional or a label map. Raises `ReadError`."""
    dataset = header(path)
    with as_read_error(path):
        numbers = {int(item.SegmentNumber): item for item in dataset.SegmentSequence if int(item.SegmentNumber) > 0}
        names = {number: plane_name(str(item.get("SegmentLabel") or ""), number) for number, item in numbers.items()}
        pieces = [piece for i in range(_frame_count(path, dataset)) for piece in _frame_pieces(dataset, i, names)]
        series = {str(item.SeriesInstanceUID) for item in dataset.get("ReferencedSeriesSequence") or []}
    frame_of_reference = str(dataset.get("FrameOfReferenceUID") or "")
    return Annotation(path, False, frozenset(series), frame_of_reference, tuple(dict.fromkeys(names.values())), tuple(pieces))


def _frame_pieces(dataset: Dataset, frame: int, names: dict[int, str]) -> Iterator[Piece]:
    sources = [image for item in groups(dataset, frame, "DerivationImageSequence") for image in item.get("SourceImageSequence") or []]
    grid = Grid.of(dataset, frame)
    named = _sources(sources)
    own = [int(item.ReferencedSegmentNumber) for item in groups(dataset, frame, "SegmentIdentificationSequence")]
    is_label_map = dataset.get("SegmentationType") == "LABELMAP"
    for number in names if is_label_map else own:
        yield Piece(names[number], frame, named, grid.origin if grid else None, grid, number if is_label_map else 1)


def _sources(images: Sequence[Dataset]) -> tuple[Source, ...]:
    frames = [np.atleast_1d(image.get("ReferencedFrameNumber") or 0).tolist() for image in images]
    return tuple((str(image.ReferencedSOPInstanceUID), int(frame)) for image, own in zip(images, frames, strict=True) for frame in own)


def structure_set(path: Path) -> Annotation:
    """Read an RTSTRUCT (PS3.3 A.19). Raises `ReadError`."""
    dataset = header(path)
    with as_read_error(path):
        rois = dataset.StructureSetROISequence
        names = {int(item.ROINumber): plane_name(str(item.get("ROIName") or ""), item.ROINumber) for item in rois}
        frames = dataset.get("ReferencedFrameOfReferenceSequence") or []
        studies = [study for frame in frames for study in frame.get("RTReferencedStudySequence") or []]
        series = {str(item.SeriesInstanceUID) for study in studies for item in study.get("RTReferencedSeriesSequence") or []}
        pieces = tuple(
            Piece(names[roi], i, _sources(item.get("ContourImageSequence") or []), tuple(points[0].tolist()))
            for i, (roi, item, points) in enumerate(contours_of(path, dataset))
            if item.get("ContourGeometricType") in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR") and len(points) >= 3
        )
    drawn = {piece.plane for piece in pieces}
    planes = tuple(name for name in dict.fromkeys(names.values()) if name in drawn)
    frame_of_reference = str(next((frame.get("FrameOfReferenceUID") or "" for frame in frames), ""))
    left_out = tuple(name for name in dict.fromkeys(names.values()) if name not in drawn)
    return Annotation(path, True, frozenset(series), frame_of_reference, planes, pieces, left_out)
