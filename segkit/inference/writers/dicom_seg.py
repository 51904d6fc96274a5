"""DICOM-SEG (PS3.3 A.51): one file a series, a binary segment for each class, on the planes of the images that it names.

Patient, study and geometry are those of the images. Frames without a structure are left out, as is usual.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from segkit import __version__
from segkit.data.io.base import Array
from segkit.data.io.dicom import DicomSlice, header
from segkit.data.slices import by_volume
from segkit.inference.inputs import InputItem
from segkit.inference.writers.base import Writer
from segkit.system.errors import SegkitError
from segkit.system.files import atomic_path

SERIES_NUMBER = 900
"""Far from the numbers that scanners give."""
EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Elements that may be empty, but not missing (type 2)."""


class DicomSeg(Writer):
    """One DICOM-SEG a series."""

    def refuses(self, item: InputItem) -> str:
        images = self.target.images(item)
        return "" if images and all(isinstance(image, DicomSlice) for image in images) else f"{item.source} is not a DICOM image"

    def is_done(self, item: InputItem) -> bool:
        return self._file(item).is_file()

    def write(self, item: InputItem, mask: Array) -> None:
        slices = [image for image in self.target.images(item) if isinstance(image, DicomSlice)]
        write_dicom_seg(self._file(item), self.target.labels.planes(mask), self.target.source_names(), slices)

    def _file(self, item: InputItem) -> Path:
        return self.target.output / f"{item.name}.dcm"


def by_series(items: Sequence[InputItem]) -> list[InputItem]:
    """Join the slices of one DICOM series to one item; other items stay as they are."""
    alone = [item for item in items if not _is_slice(item)]
    volumes = by_volume([item.cases[0] for item in items if _is_slice(item)])
    return [*alone, *(InputItem(name, cases[0].paths[0], tuple(cases)) for name, cases in volumes.items())]


def _is_slice(item: InputItem) -> bool:
    return item.like is None and len(item.cases) == 1 and bool(item.cases[0].volume) and item.cases[0].dims == 2


def write_dicom_seg(path: Path, masks: Array, labels: Sequence[str], slices: Sequence[DicomSlice]) -> None:
    """Write `masks` (K, H, W) of one image, or (K, D, H, W) in the order of `slices`."""
    frames = np.moveaxis(masks.reshape(len(masks), len(slices), *masks.shape[-2:]), 0, -1).astype(np.uint8)  # (D, H, W, K)
    images, frames = _sources(slices, frames)
    try:
        seg = segmentation(images, frames, labels)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SegkitError(f"{slices[0].path}: no DICOM-SEG can be made of its series ({error})") from error
    with atomic_path(path) as temporary:
        seg.save_as(temporary)


def _sources(slices: Sequence[DicomSlice], frames: Array) -> tuple[list[Dataset], Array]:
    """Return the headers of the images, and the masks in their order: in a multi-frame file that of the frames."""
    paths = list(dict.fromkeys(one.path for one in slices))
    images = [_header(path) for path in paths]
    if len(paths) == len(slices):
        return images, frames
    if len(paths) > 1 or len(slices) != int(images[0].NumberOfFrames):
        raise SegkitError(f"{paths[0]}: a DICOM-SEG wants all frames of one file, or files of one image each")
    return images, frames[np.argsort([one.frame for one in slices])]


def _header(path: Path) -> Dataset:
    """Complete a header for highdicom: it needs empty elements that anonymizers remove, and no empty character set."""
    found = header(path)
    if not found.get("SpecificCharacterSet", "ASCII"):
        del found.SpecificCharacterSet
    for name in EMPTY:
        if name not in found:
            setattr(found, name, "")
    return found


def segmentation(images: Sequence[Dataset], frames: Array, labels: Sequence[str]) -> Dataset:
    """Make the object of `frames` (D, H, W, K) of 0 and 1. Its UIDs follow from its content: another mask is another object."""
    import highdicom as hd  # a second of import

    content = [str(images[0].SeriesInstanceUID), *labels, hashlib.sha256(frames.tobytes()).hexdigest()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the form of patients' names
        seg: Dataset = hd.seg.Segmentation(
            source_images=images,
            pixel_array=frames,
            segmentation_type="BINARY",
            omit_empty_frames=bool(frames.any()),
            segment_descriptions=[_described(hd, number, label) for number, label in enumerate(labels, 1)],
            series_instance_uid=generate_uid(entropy_srcs=["series", *content]),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(entropy_srcs=["instance", *content]),
            instance_number=1,
            manufacturer="segkit",
            manufacturer_model_name="segkit",
            software_versions=__version__,
            device_serial_number="0",
        )
    seg.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: the names of classes may need it
    return seg


def _described(hd: Any, number: int, label: str) -> Any:
    """Describe a class by a private code (99...): it has a name, but no standard code."""
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence("segkit", codes.DCM.ArtificialIntelligence, __version__)
    own = hd.sr.CodedConcept(label[:16], "99SEGKIT", label[:64])
    return hd.seg.SegmentDescription(number, label[:64], codes.SCT.AnatomicalStructure, own, "AUTOMATIC", algorithm)
