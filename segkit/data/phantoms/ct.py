"""A synthetic abdomen on CT: liver and kidney among organs of the same density.

An axial slice shows the body in air: skin, fat, a ring of muscle and ribs, the spine, and within it liver, kidneys, spleen,
stomach, bowel and aorta. Liver, spleen, muscle and bowel lie within 15 HU of each other and the noise is about as large, so
no threshold finds the liver; its place, size and shape do. HU as in Hounsfield, Br. J. Radiol. 1973: air -1000, water 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Random = np.random.Generator

ROWS, COLUMNS = 80, 96
MOST_SLICES = 5
STRUCTURES = ("liver", "kidney")
AIR, FAT, MUSCLE = -1000.0, -100.0, 55.0


@dataclass(frozen=True)
class Scan:
    """One patient: `image` (D, H, W) int16 in HU, `masks` (2, D, H, W) uint8 in the order of `STRUCTURES`; millimetres."""

    image: Array
    masks: Array
    slice_mm: float
    pixel_mm: float


@dataclass(frozen=True)
class Organ:
    """A blob about an ellipse, in units of the body: centre, half axes, waves of its border; `z` where it is largest, 0 to 1."""

    x: float
    y: float
    a: float
    b: float
    waves: tuple[tuple[float, float], ...]
    z: float
    height: float

    def inside(self, xs: Floats, ys: Floats, z: float) -> Array:
        """Where the slice at height `z` cuts it: (H, W) bool."""
        size = np.sqrt(max(0.0, 1 - ((z - self.z) / self.height) ** 2))
        if size < 0.15:
            return np.zeros(xs.shape, bool)
        dx, dy = (xs - self.x) / self.a, (ys - self.y) / self.b
        angle = np.arctan2(dy, dx)
        border = 1 + sum(much * np.cos(k * angle + phase + 2 * z) for k, (much, phase) in enumerate(self.waves, 2))
        return np.asarray(np.hypot(dx, dy) < size * border)


def scans(n: int, seed: int) -> Iterator[Scan]:
    """`n` slices in scans of up to five, of four patients or more where there are enough slices."""
    patients = max(-(-n // MOST_SLICES), min(n, 4))
    for patient, slices in enumerate(np.array_split(np.arange(n), patients)):
        yield draw(seed, patient, len(slices))


def draw(seed: int, i: int, slices: int) -> Scan:
    """Patient number `i` of the series `seed`; the same numbers every time."""
    random = np.random.Generator(np.random.PCG64([seed, i]))
    centre = random.uniform(-4, 4, 2)
    scale = random.uniform(0.92, 1.05)
    rows, columns = np.mgrid[:ROWS, :COLUMNS].astype(np.float32)
    xs = (columns - COLUMNS / 2 - centre[0]) / (0.46 * COLUMNS * scale)  # the body reaches from -1 to 1
    ys = (rows - ROWS / 2 - centre[1]) / (0.42 * ROWS * scale)
    organs = _organs(random)
    heights = np.linspace(0.1, 0.9, slices) if slices > 1 else np.array([0.5])
    drawn = [_slice(random, organs, xs, ys, float(z)) for z in heights]
    image, masks = (np.stack(parts, axis) for parts, axis in zip(zip(*drawn, strict=True), (0, 1), strict=True))
    return Scan(image, masks, float(random.choice([3.0, 5.0])), float(np.round(random.uniform(3.4, 4.4), 2)))


def _organs(random: Random) -> dict[str, tuple[Organ, float]]:
    """Name: organ and its HU. The patient's right, where the liver is, lies on the left of the picture."""

    def organ(x: float, y: float, a: float, b: float, z: float, height: float, wave: float = 0.08) -> Organ:
        x, y = random.normal((x, y), 0.03)
        a, b = (a, b) * random.uniform(0.88, 1.12, 2)
        waves = [(random.normal(0, wave / k), random.uniform(0, 2 * np.pi)) for k in range(1, 4)]
        return Organ(x, y, a, b, tuple(waves), z + random.normal(0, 0.03), height)

    soft = random.normal(58, 4)  # one contrast phase for all of them
    return {
        "stomach": (organ(0.36, -0.40, 0.28, 0.20, 0.4, 0.7), random.normal(30, 8)),
        "spleen": (organ(0.64, 0.05, 0.17, 0.30, 0.45, 0.6), soft + random.normal(0, 4)),
        "bowel 1": (organ(0.05, -0.55, 0.20, 0.12, 0.6, 0.9, 0.15), random.normal(45, 8)),
        "bowel 2": (organ(0.40, -0.05, 0.18, 0.13, 0.8, 0.6, 0.15), random.normal(50, 8)),
        "bowel 3": (organ(-0.30, -0.35, 0.20, 0.15, 1.0, 0.5, 0.15), random.normal(50, 8)),
        "liver": (organ(-0.42, -0.12, 0.36, 0.46, 0.35, 0.70), soft),
        "kidney": (organ(-0.40, 0.46, 0.15, 0.18, 0.75, 0.62, 0.04), soft + random.uniform(20, 45)),
        "left kidney": (organ(0.42, 0.44, 0.15, 0.18, 0.70, 0.62, 0.04), soft + random.uniform(20, 45)),
        "aorta": (organ(0.06, 0.30, 0.08, 0.09, 0.5, 2.0, 0.02), soft + random.uniform(20, 60)),
    }


def _slice(random: Random, organs: dict[str, tuple[Organ, float]], xs: Floats, ys: Floats, z: float) -> tuple[Array, Array]:
    """Image (H, W) int16 HU and masks (2, H, W) uint8."""
    radius = np.hypot(xs, ys)
    hu = np.full(xs.shape, AIR, np.float32)
    hu[radius < 1] = FAT
    hu[(radius < 0.90) & (radius > 0.80)] = MUSCLE
    _add_bones(hu, xs, ys, z)
    cavity = radius < 0.80
    found = {}
    for name, (organ, density) in organs.items():
        found[name] = organ.inside(xs, ys, z) & cavity
        hu[found[name]] = density
    _add_gas(random, hu, found, ys)
    kidney = (found["kidney"] & ~found["aorta"]) | (found["left kidney"] & ~found["aorta"])
    liver = found["liver"] & ~(found["kidney"] | found["left kidney"] | found["aorta"])
    return _scanned(random, hu), np.stack([liver, kidney]).astype(np.uint8)


def _add_bones(hu: Floats, xs: Floats, ys: Floats, z: float) -> None:
    """The spine with its canal, muscle beside it, and ribs that wander through the ring of muscle from slice to slice."""
    for side in (-0.22, 0.22):
        hu[np.hypot((xs - side) / 0.16, (ys - 0.72) / 0.15) < 1] = MUSCLE
    hu[np.hypot(xs / 0.17, (ys - 0.55) / 0.17) < 1] = 320
    hu[np.hypot(xs / 0.05, (ys - 0.75) / 0.04) < 1] = 30
    for k in range(8):
        angle = 0.25 * np.pi + k * np.pi / 4 + 0.4 * z
        hu[np.hypot((xs - 0.85 * np.cos(angle)) / 0.06, (ys - 0.85 * np.sin(angle)) / 0.05) < 1] = 500


def _add_gas(random: Random, hu: Floats, found: dict[str, Array], ys: Floats) -> None:
    """Gas rises to the front of stomach and bowel; what is drawn over them stays."""
    others = np.logical_or.reduce([where for name, where in found.items() if not name.startswith(("stomach", "bowel"))])
    for name in ("stomach", "bowel 1", "bowel 2", "bowel 3"):
        where = found[name] & ~others
        if where.any():
            hu[where & (ys < np.quantile(ys[where], random.uniform(0.0, 0.4)))] = -850


def _scanned(random: Random, hu: Floats) -> Array:
    """Blurred by the scanner; texture of tissue and noise of photons, about 15 HU each."""
    texture = cv2.GaussianBlur(random.normal(size=hu.shape).astype(np.float32), (0, 0), 1.5) * 60
    blurred = cv2.GaussianBlur(hu + texture * (hu > -500), (0, 0), 0.6)
    noise = cv2.GaussianBlur(random.normal(size=hu.shape).astype(np.float32), (0, 0), 0.5) * 25
    return np.asarray(np.clip(np.round(blurred + noise), -1024, 3071), np.int16)


# DICOM


def write_dicom(root: Path, n: int, seed: int) -> None:
    """Write one folder a patient, with CT slices and a DICOM-SEG of liver and kidney; the same bytes for the same seed."""
    for patient, scan in enumerate(scans(n, seed)):
        folder = root / f"patient_{patient:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        slices = [_ct_image(scan, patient, i, seed) for i in range(len(scan.image))]
        for i, dataset in enumerate(slices):
            dataset.save_as(folder / f"ct_{i:03d}.dcm", enforce_file_format=True)
        _segmentation(scan, slices, patient, seed).save_as(folder / "seg.dcm", enforce_file_format=True)


def _uid(*parts: object) -> str:
    """Below the root that pydicom hands out; the same for the same parts."""
    return "1.2.826.0.1.3680043.8.498." + str(int(hashlib.sha256(repr(parts).encode()).hexdigest()[:24], 16))


def _ct_image(scan: Scan, patient: int, i: int, seed: int) -> Dataset:
    """Slice `i` of a phantom as CT Image Storage (PS3.3 A.3)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = _uid(seed, patient, "image", i)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = _uid(seed, patient, "study"), _uid(seed, patient, "series")
    dataset.FrameOfReferenceUID = _uid(seed, patient, "frame of reference")
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = f"patient-{patient:03d}", "", "", ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20000101", "120000", "1", ""
    dataset.Modality, dataset.Manufacturer, dataset.SeriesDescription, dataset.SeriesNumber = "CT", "segkit", "synthetic abdomen", 1
    dataset.ReferringPhysicianName, dataset.PositionReferenceIndicator, dataset.PatientPosition = "", "", "HFS"
    dataset.ImageType, dataset.InstanceNumber, dataset.AcquisitionNumber = ["DERIVED", "PRIMARY", "AXIAL"], i + 1, 1
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-180, -150, scan.slice_mm * i], [1, 0, 0, 0, 1, 0]
    dataset.SliceThickness, dataset.PixelSpacing = scan.slice_mm, [scan.pixel_mm] * 2
    dataset.Rows, dataset.Columns = scan.image.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.KVP = 1, -1024, 120
    dataset.PixelData = (scan.image[i] + np.int16(1024)).astype("<i2").tobytes()
    return dataset


def _segmentation(scan: Scan, slices: list[Dataset], patient: int, seed: int) -> Dataset:
    """A binary DICOM-SEG; dates and the UID that highdicom draws by lot are replaced, so that the bytes are the same each time."""
    import highdicom as hd  # a second of import that only phantoms need
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence("phantom", codes.DCM.ArtificialIntelligence, "1")
    organ, types = codes.SCT.Organ, {"liver": codes.SCT.Liver, "kidney": codes.SCT.Kidney}
    described = [
        hd.seg.SegmentDescription(i, name.capitalize(), organ, types[name], "AUTOMATIC", algorithm) for i, name in enumerate(STRUCTURES, 1)
    ]
    seg: Dataset = hd.seg.Segmentation(
        source_images=slices,
        pixel_array=np.moveaxis(scan.masks, 0, -1),
        segmentation_type="BINARY",
        segment_descriptions=described,
        series_instance_uid=_uid(seed, patient, "segmentation series"),
        series_number=2,
        sop_instance_uid=_uid(seed, patient, "segmentation"),
        instance_number=1,
        manufacturer="segkit",
        manufacturer_model_name="phantom",
        software_versions="1",
        device_serial_number="1",
    )
    del seg.ContributingEquipmentSequence  # highdicom's version and the time of day
    for name in [name for name in seg.dir() if name.endswith(("Date", "Time")) and seg.get(name)]:
        setattr(seg, name, "20000101" if name.endswith("Date") else "120000")
    for place in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        place.DimensionOrganizationUID = _uid(seed, patient, "dimensions")
    return seg
