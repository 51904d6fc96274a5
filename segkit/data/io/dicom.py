"""DICOM as arrays: images, the frames of a DICOM-SEG, the contours of an RTSTRUCT.

The image plane (PS3.3 C.7.6.2) says where a pixel lies in the patient, so masks are matched to slices in millimeters, not by
file names. Names of patients are never read. The parts of the standard: https://dicom.nema.org/medical/dicom/current

pydicom alone cannot read JPEG Lossless, which most scanners write; imagecodecs (libjpeg-turbo) decodes it here as a plugin:
https://pydicom.github.io/pydicom/stable/guides/decoding/decoder_plugins.html
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLossless, JPEGLosslessSV1

from segkit.data.io.base import Array, File, ReadError, as_read_error
from segkit.data.slices import recent

Point = tuple[float, float, float]

_FIRST_ELEMENTS = tuple(struct.pack("<HH", *tag) for tag in ((2, 0), (8, 0), (8, 1), (8, 5), (8, 8), (8, 18), (8, 22), (8, 24)))
"""Tags with which a file without preamble begins: group length, character set, type of the image, date, class, instance."""

IN_UNITS = ("CT", "PT")
"""Modalities whose numbers mean something (HU, Bq/ml): always float32, as the slope may differ from slice to slice."""
PIXEL_TAGS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
DECODER_DEPENDENCIES = dict.fromkeys((JPEGLossless, JPEGLosslessSV1), ("imagecodecs",))
"""pydicom looks for this name in a plugin, and for `is_available` and `decode_frame`."""


def is_available(syntax: str) -> bool:
    """Whether this module decodes a transfer syntax; asked by pydicom."""
    return UID(syntax) in DECODER_DEPENDENCIES and bool(imagecodecs.JPEG.available)


def decode_frame(encoded: bytes, runner: DecodeRunner) -> bytes:
    """Return the pixels of one frame, row by row, colors by pixel; called by pydicom."""
    pixels = imagecodecs.jpeg_decode(encoded)
    runner.set_option("bits_allocated", pixels.itemsize * 8)
    if pixels.ndim == 3:
        runner.set_option("planar_configuration", 0)
    return bytes(pixels.tobytes())


warnings.filterwarnings("ignore", module="pydicom")  # its remarks on elements that break the standard, a line each

for _syntax in DECODER_DEPENDENCIES:
    if not get_decoder(_syntax).is_available:  # another plugin keeps its place
        get_decoder(_syntax).add_plugin("imagecodecs", (__name__, "decode_frame"))

# image planes


@dataclass(frozen=True)
class Grid:
    """An image plane in the patient, in millimeters: the center of the first pixel, the directions along a row and a column."""

    origin: Point
    along_row: Point
    along_column: Point
    spacing: tuple[float, float]
    """Between rows, between columns."""
    shape: tuple[int, int]
    """Rows, columns."""

    @classmethod
    def of(cls, dataset: Dataset, frame: int = 0) -> Grid | None:
        """Return the plane of an image or of a frame; None where the header does not give it."""
        try:
            plane = next(groups(dataset, frame, "PlanePositionSequence"), dataset)
            turn = next(groups(dataset, frame, "PlaneOrientationSequence"), dataset)
            measures = next(groups(dataset, frame, "PixelMeasuresSequence"), dataset)
            x, y, z = (float(v) for v in plane.ImagePositionPatient)
            a, b, c, d, e, f = (float(v) for v in turn.ImageOrientationPatient)
            rows, columns = (float(v) for v in measures.PixelSpacing)
            shape = int(dataset.Rows), int(dataset.Columns)
        except (AttributeError, TypeError, ValueError):
            return None
        grid = cls((x, y, z), (a, b, c), (d, e, f), (rows, columns), shape)
        return grid if rows > 0 and columns > 0 and np.linalg.norm(grid.normal) > 0.5 else None

    @property
    def normal(self) -> Array:
        return np.cross(self.along_row, self.along_column)

    def has_directions_of(self, other: Grid) -> bool:
        return np.allclose(self.along_row + self.along_column, other.along_row + other.along_column, atol=0.01)

    def pixels_of(self, points: Array) -> Array:
        """Convert patient coordinates (N, 3) to (N, 2) x, y in pixels; whole numbers are centers of pixels."""
        away = points - np.asarray(self.origin)
        return np.stack([away @ self.along_row / self.spacing[1], away @ self.along_column / self.spacing[0]], axis=1)

    def onto(self, other: Grid) -> tuple[float, ...]:
        """Return the affine (2 x 3, row by row) from pixels x, y of this grid to those of another; empty if they are the same."""
        x, y = np.asarray(self.along_row) * self.spacing[1], np.asarray(self.along_column) * self.spacing[0]
        start, right, down = other.pixels_of(np.asarray(self.origin) + np.stack([0 * x, x, y]))
        affine = np.stack([right - start, down - start, start], axis=1)
        corners = np.array([[0, self.shape[1], 0], [0, 0, self.shape[0]], [1, 1, 1]])
        is_same = self.shape == other.shape and np.abs(affine @ corners - corners[:2]).max() < 0.05
        return () if is_same else tuple(affine.ravel().tolist())


def groups(dataset: Dataset, frame: int, name: str) -> Iterator[Dataset]:
    """Yield the items of a functional group (PS3.3 C.7.6.16): the frame's own, else those that all frames share."""
    own, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    for place in ([own[frame]] if own and frame < len(own) else []) + ([shared[0]] if shared else []):
        if place.get(name):
            yield from place.get(name)
            return


# files


def header(path: Path, tags: Sequence[str] | None = None) -> Dataset:
    """Read all but the pixels, or only the named elements. Raises `ReadError` for what is no DICOM object."""
    dataset = _open(path, stop_before_pixels=True, specific_tags=None if tags is None else list(tags))
    with as_read_error(path):
        for name in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
            if not dataset.get(name):
                raise ReadError(path, f"damaged (no {name} in its header)" if len(dataset) else "damaged (not DICOM)")
        list(dataset if tags is not None else [])  # pydicom parses a value when it is asked for
    return dataset


def claims_to_be_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes, or by its suffix. Old files lack the preamble: they begin with group 2 or 8."""
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return True  # reading it gives the cause
    return head[128:] == b"DICM" or (head[:4] in _FIRST_ELEMENTS and len(head) == 132)


def _open(path: Path, **how: Any) -> Dataset:
    with as_read_error(path):
        if path.stat().st_size == 0:
            raise ReadError(path, "zero bytes")
        dataset: Dataset = pydicom.dcmread(path, force=True, **how)
        if "TransferSyntaxUID" not in dataset.file_meta:  # a file without preamble; pydicom found out how it is written
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
        return dataset


def _decode(path: Path, dataset: Dataset, frame: int | None = None) -> Array:
    """Decode one frame or all of them, to RGB where colors are stored as luminance and chrominance."""
    if not any(tag in dataset for tag in PIXEL_TAGS):
        raise ReadError(path, "truncated (its pixels are missing)")
    if reason := _missing_decoder(dataset):
        raise ReadError(path, reason)
    with as_read_error(path):
        _check_length(path, dataset)
        return np.asarray(pixel_array(dataset, index=frame))


def _check_length(path: Path, dataset: Dataset) -> None:
    """Raise `ReadError` where plain pixels are more than the header claims, a row or more: pydicom leaves them out."""
    if dataset.file_meta.TransferSyntaxUID.is_compressed or "PixelData" not in dataset:
        return
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    bits = int(dataset.BitsAllocated) * int(dataset.SamplesPerPixel)
    claimed, found = -(-rows * columns * frames * bits // 8), len(dataset.PixelData)
    if min(rows, columns, frames, bits) < 1:
        raise ReadError(path, f"holds no pixels ({frames} x {rows} x {columns})")
    if found - claimed > max(1, min(rows, columns) * bits // 8 - 1):
        raise ReadError(path, f"damaged (its header claims {claimed} bytes of pixels, but {found} follow)")


def _missing_decoder(dataset: Dataset) -> str:
    """Say what to install where nothing here decodes this compression; empty where something does."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return f"is compressed in a way that cannot be read ({syntax.name}); convert it, e.g. with dcmdjpeg or gdcmconv --raw"
    if decoder.is_available:
        return ""
    package = "python-gdcm" if "gdcm" in " ".join(decoder.missing_dependencies) else "pylibjpeg pylibjpeg-openjpeg"
    return f"is compressed as {syntax.name}, which needs one more package: pip install {package}"


# images


@dataclass(frozen=True)
class DicomSlice(File):
    """An image, or one frame of a multi-frame image: (H, W, 1) in the units of its modality (CT: HU), or colors (H, W, 3)."""

    frame: int = 0

    def decode(self) -> Array:
        dataset = _open(self.path)
        pixels = _decode(self.path, dataset, self.frame)
        with as_read_error(self.path):
            pixels = _shown(dataset, pixels, self.frame)
        return np.ascontiguousarray(pixels if pixels.ndim == 3 else pixels[..., None])


def _shown(dataset: Dataset, pixels: Array, frame: int) -> Array:
    """Invert MONOCHROME1, convert colors to RGB, and stored numbers to units; uint8 and uint16 stay if they are units already."""
    kind = dataset.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        colors = apply_color_lut(pixels, dataset)
        return colors if colors.dtype == np.uint8 else (colors >> 8).astype(np.uint8)
    if pixels.ndim == 3:
        return pixels[..., :3]
    if kind == "MONOCHROME1":
        bits, is_signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
        pixels = pixels.dtype.type(-1 if is_signed else 2**bits - 1) - pixels
    return _in_units(next(groups(dataset, frame, "PixelValueTransformationSequence"), dataset), dataset.get("Modality"), pixels)


def _in_units(transform: Dataset, modality: str | None, pixels: Array) -> Array:
    """Apply the modality LUT (PS3.3 C.11.1)."""
    if transform.get("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(pixels, transform), np.float32)
    slope, intercept = float(transform.get("RescaleSlope") or 1), float(transform.get("RescaleIntercept") or 0)
    if (slope, intercept) != (1, 0) or modality in IN_UNITS:
        return np.asarray(pixels * np.float64(slope) + intercept, np.float32)
    return pixels if pixels.dtype in (np.uint8, np.uint16) else pixels.astype(np.float32)


# masks


@dataclass(frozen=True)
class SegFrames(File):
    """All frames of a DICOM-SEG (N, H, W) uint8 or uint16: 0 and 1; of a label map the numbers of segments.

    A fractional segmentation is cut at half of its maximum.
    """

    def decode(self) -> Array:
        dataset = _open(self.path)
        frames = _decode(self.path, dataset)
        frames = frames if frames.ndim == 3 else frames[None]
        with as_read_error(self.path):
            if dataset.get("SegmentationType") == "FRACTIONAL":
                frames = (frames >= float(dataset.get("MaximumFractionalValue") or 255) / 2).astype(np.uint8)
        return frames


@dataclass(frozen=True)
class SegPlane(File):
    """A segment on one slice: the union of `frames`, 0 and 1 uint8 (rows, columns) = `shape`; without frames, empty.

    `affine` (2 x 3) maps pixels of the slice to those of a frame where the grids differ: another size, cropped or flipped.
    """

    frames: tuple[int, ...]
    shape: tuple[int, int]
    affine: tuple[float, ...] = ()
    values: tuple[int, ...] = (1,)
    """The segment's values in its frames: 1, or its numbers in a label map."""

    def decode(self) -> Array:
        if not self.frames:
            return np.zeros(self.shape, np.uint8)
        try:
            frames = recent.read(SegFrames(self.path))[list(self.frames)]
        except IndexError:
            raise ReadError(self.path, "truncated (it has fewer frames than its header says)") from None
        mask = np.asarray(np.isin(frames, self.values).any(axis=0), np.uint8)
        if self.affine:
            nearest, matrix = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, np.asarray(self.affine).reshape(2, 3)
            mask = np.asarray(cv2.warpAffine(mask, matrix, self.shape[::-1], flags=nearest), np.uint8)
        if mask.shape != self.shape:
            raise ReadError(self.path, f"its frames are {mask.shape[0]} x {mask.shape[1]}, the image {self.shape[0]} x {self.shape[1]}")
        return mask


@dataclass(frozen=True)
class RtPoints(File):
    """All contour points of an RTSTRUCT (N, 4): the contour's index in the file, then x, y, z in the patient, mm."""

    def decode(self) -> Array:
        with as_read_error(self.path):
            contours = [points for _, _, points in contours_of(self.path, header(self.path))]
        numbered = [np.insert(points, 0, i, axis=1) for i, points in enumerate(contours)]
        return np.concatenate(numbered) if numbered else np.zeros((0, 4))


@dataclass(frozen=True)
class RoiPlane(File):
    """Contours of an RTSTRUCT on one slice, filled: 0 and 1 uint8. A contour within another cuts a hole (even-odd)."""

    contours: tuple[int, ...]
    grid: Grid

    def decode(self) -> Array:
        points = recent.read(RtPoints(self.path)) if self.contours else np.zeros((0, 4))
        return fill_even_odd([self.grid.pixels_of(points[points[:, 0] == i, 1:]) for i in self.contours], self.grid.shape)


def contours_of(path: Path, structure_set: Dataset) -> Iterator[tuple[int, Dataset, Array]]:
    """Yield the ROI number, item and points (N, 3) of every contour, in the order of the file."""
    for roi in structure_set.get("ROIContourSequence") or []:
        for item in roi.get("ContourSequence") or []:
            raw = item.get_item("ContourData")
            values = raw.value if raw is not None and raw.value else ()
            if isinstance(values, bytes):  # parsed at once: pydicom would make an object of every number
                values = values.decode("ascii").rstrip("\0 ").split("\\")
            numbers = np.array(values, float)
            if len(numbers) % 3:
                raise ReadError(path, f"damaged (a contour of {len(numbers)} numbers, not a multiple of three)")
            yield int(roi.ReferencedROINumber), item, numbers.reshape(-1, 3)


def fill_even_odd(polygons: Sequence[Array], shape: tuple[int, int]) -> Array:
    """Fill the pixels whose center lies within an odd number of polygons (N, 2: x, y in pixels), as 0 and 1 uint8.

    `cv2.fillPoly` draws the border too, which makes every structure half a pixel larger; here each row is cut at the exact
    crossings of its center line.
    """
    rows, columns = shape
    crossings = np.zeros((rows, columns + 1), np.int32)
    for polygon in polygons:
        (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
        first = np.clip(np.ceil(np.minimum(y0, y1)), 0, rows).astype(int)
        count = np.clip(np.ceil(np.maximum(y0, y1)), 0, rows).astype(int) - first
        edge = np.repeat(np.arange(len(polygon)), count)
        row = first[edge] + np.arange(len(edge)) - (np.cumsum(count) - count)[edge]
        x = x0[edge] + (row - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        np.add.at(crossings, (row, np.clip(np.ceil(x), 0, columns).astype(int)), 1)
    return (np.cumsum(crossings, axis=1)[:, :columns] % 2).astype(np.uint8)
