"""DICOM as arrays: units, colours, grids, and what is said of files that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from segkit.data.io.base import ReadError
from segkit.data.io.dicom import DicomSlice, Grid, SegFrames, SegPlane, fill_even_odd
from segkit.data.io.dicom_series import plane_name
from segkit.data.sources.dicom import Dicom

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


def image(path: Path, pixels: np.ndarray, **values: Any) -> Path:
    """A file of these pixels (H, W) or (H, W, 3), or frames (N, H, W)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = CT, f"1.2.3.{path.stem}", "1.2.4"
    dataset.StudyInstanceUID, dataset.PatientID, dataset.Modality = "1.2.5", "p", "MR"
    is_colour = pixels.shape[-1] == 3
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if is_colour else pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3, "RGB") if is_colour else (1, "MONOCHROME2")
    if is_colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = pixels.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    if pixels.ndim == 3 and not is_colour:
        dataset.NumberOfFrames = len(pixels)
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def group(**values: Any) -> Dataset:
    """A functional group: name=(element, value)."""
    place = Dataset()
    for name, elements in values.items():
        item = Dataset()
        for element, value in elements.items():
            setattr(item, element, value)
        setattr(place, name, [item])
    return place


GREY = np.arange(12, dtype=np.uint16).reshape(3, 4)


@pytest.mark.parametrize(
    ("pixels", "values", "expected"),
    [
        (GREY, {}, GREY),
        (GREY.astype(np.uint8), {}, GREY.astype(np.uint8)),
        (GREY.astype(np.int16) - 5, {}, GREY.astype(np.float32) - 5),
        (GREY, {"RescaleSlope": 2, "RescaleIntercept": -1024}, GREY.astype(np.float32) * 2 - 1024),
        (GREY, {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0}, GREY.astype(np.float32)),
        (GREY, {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}, 4095 - GREY),
    ],
    ids=["uint16", "uint8", "signed", "rescaled", "ct", "white is zero"],
)
def test_numbers_are_those_of_the_modality(tmp_path: Path, pixels: np.ndarray, values: dict[str, Any], expected: np.ndarray) -> None:
    read = DicomSlice(image(tmp_path / "1.dcm", pixels, **values)).read()
    assert read.dtype == expected.dtype
    np.testing.assert_array_equal(read, expected[..., None])


def test_ultrasound_in_colour_is_rgb(tmp_path: Path) -> None:
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_array_equal(DicomSlice(image(tmp_path / "1.dcm", red)).read(), red)
    luminance = np.full((4, 4, 3), (60, 102, 228), np.uint8)  # red, as YBR_FULL has it
    read = DicomSlice(image(tmp_path / "2.dcm", luminance, PhotometricInterpretation="YBR_FULL")).read()
    assert np.abs(read[0, 0].astype(int) - (200, 0, 14)).max() < 20


def jpeg_lossless(pixels: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg_encode(pixels, lossless=True, bitspersample=12, predictor=1))


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        ("JPEGLosslessSV1", jpeg_lossless),
        ("JPEG2000Lossless", lambda pixels: imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="j2k")),
        ("JPEGLSLossless", imagecodecs.jpegls_encode),
    ],
)
def test_lossless_compression_keeps_every_pixel(tmp_path: Path, syntax: str, encode: Callable[[np.ndarray], bytes]) -> None:
    pixels = (np.arange(64 * 48, dtype=np.uint16) % 4001).reshape(64, 48)
    dataset = pydicom.dcmread(image(tmp_path / "1.dcm", pixels))
    dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(encode(pixels))])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(tmp_path / "2.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(DicomSlice(tmp_path / "2.dcm").read()[..., 0], pixels)


def test_a_compression_without_decoder_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image(tmp_path / "1.dcm", GREY)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2KLossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 60])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    decoder = pydicom.pixels.get_decoder(pydicom.uid.HTJ2KLossless)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(ReadError, match=r"is compressed as High-Throughput JPEG 2000 .*: pip install pylibjpeg pylibjpeg-openjpeg"):
        DicomSlice(path).read()


def test_files_that_end_early_are_truncated(tmp_path: Path) -> None:
    path = image(tmp_path / "1.dcm", np.zeros((64, 64), np.uint16))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ReadError, match="truncated"):
        DicomSlice(path).read()
    path.write_bytes(b"")
    with pytest.raises(ReadError, match="zero bytes"):
        DicomSlice(path).read()
    with pytest.raises(ReadError, match="is missing"):
        DicomSlice(tmp_path / "none.dcm").read()


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(image(tmp_path / "1.dcm", GREY))
    old = Dataset(dataset)
    old.save_as(tmp_path / "old.dcm", implicit_vr=True, little_endian=True)
    assert (tmp_path / "old.dcm").read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(DicomSlice(tmp_path / "old.dcm").read()[..., 0], GREY)


def test_frames_of_an_enhanced_image_are_slices(tmp_path: Path) -> None:
    pixels = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    frames = [group(PlanePositionSequence={"ImagePositionPatient": [0, 0, z]}) for z in (10, 0, 5)]
    shared = group(
        PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        PixelMeasuresSequence={"PixelSpacing": [0.5, 0.7]},
        PixelValueTransformationSequence={"RescaleSlope": 1, "RescaleIntercept": -1000},
    )
    values = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    image(tmp_path / "1.dcm", pixels, SOPClassUID=ENHANCED_CT, Modality="CT", **values)
    source = Dicom(tmp_path)
    cases = list(source.cases())
    assert source.problems == []
    assert [case.spacing_mm for case in cases] == [(5.0, 0.5, 0.7)] * 3
    for case, frame in zip(cases, (1, 2, 0), strict=True):
        np.testing.assert_array_equal(case.image.read()[..., 0], pixels[frame].astype(np.float32) - 1000)


def segmentation(path: Path, frames: np.ndarray, **values: Any) -> Path:
    shape = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG", "SegmentationType": "BINARY"}
    return image(path, frames, **{**shape, **values})


def test_a_fractional_segmentation_is_cut_at_half(tmp_path: Path) -> None:
    frames = np.array([[[0, 99, 100, 101, 199, 200]]], np.uint8)
    path = segmentation(tmp_path / "1.dcm", frames, SegmentationType="FRACTIONAL", MaximumFractionalValue=200)
    np.testing.assert_array_equal(SegFrames(path).read(), [[[0, 0, 1, 1, 1, 1]]])


def test_frames_of_a_slice_are_joined_and_none_are_an_empty_mask(tmp_path: Path) -> None:
    frames = np.zeros((2, 2, 2), np.uint8)
    frames[0, 0, 0] = frames[1, 1, 1] = 1
    path = segmentation(tmp_path / "1.dcm", frames)
    np.testing.assert_array_equal(SegPlane(path, (0, 1), (2, 2)).read(), np.eye(2))
    np.testing.assert_array_equal(SegPlane(path, (), (2, 2)).read(), np.zeros((2, 2)))
    with pytest.raises(ReadError, match="fewer frames"):
        SegPlane(path, (5,), (2, 2)).read()
    with pytest.raises(ReadError, match="its frames are 2 x 2, the image 3 x 3"):
        SegPlane(path, (0,), (3, 3)).read()


def test_a_label_map_holds_all_segments_in_one_frame(tmp_path: Path) -> None:
    path = segmentation(tmp_path / "1.dcm", np.array([[[0, 1, 2]]], np.uint8), SegmentationType="LABELMAP")
    np.testing.assert_array_equal(SegPlane(path, (0,), (1, 3), values=(2,)).read(), [[0, 0, 1]])


def test_a_cropped_and_flipped_segmentation_meets_its_pixels(tmp_path: Path) -> None:
    """Its frames cover columns 2 to 5 of the image from right to left, and rows 1 to 3."""
    slices = Grid((-10.0, 20.0, 5.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (2.0, 0.5), (6, 8))
    frame = Grid((-10 + 5 * 0.5, 22.0, 5.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (2.0, 0.5), (3, 4))
    drawn = np.zeros((1, 3, 4), np.uint8)
    drawn[0, 0, 0] = drawn[0, 2, 1] = 1
    expected = np.zeros((6, 8), np.uint8)
    expected[1, 5] = expected[3, 4] = 1
    path = segmentation(tmp_path / "1.dcm", drawn)
    np.testing.assert_array_equal(SegPlane(path, (0,), (6, 8), slices.onto(frame)).read(), expected)
    assert slices.onto(slices) == ()


def test_a_disc_is_filled_without_bias_and_rings_have_holes() -> None:
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([50.3 + 30.4 * np.cos(angle), 40.7 + 30.4 * np.sin(angle)], axis=1)
    small = np.stack([50.3 + 10 * np.cos(angle), 40.7 + 10 * np.sin(angle)], axis=1)
    assert fill_even_odd([circle], (90, 110)).sum() == pytest.approx(np.pi * 30.4**2, rel=0.005)
    assert fill_even_odd([circle, small], (90, 110)).sum() == pytest.approx(np.pi * (30.4**2 - 10**2), rel=0.005)
    assert fill_even_odd([circle - (40, 0)], (90, 110))[40, 0] == 1  # cut by the border


def test_planes_are_named_by_their_labels() -> None:
    assert [plane_name(label, 3) for label in ("Left Kidney ", "GTV-1 (boost)", "")] == ["left_kidney", "gtv-1_boost_", "segment_3"]
