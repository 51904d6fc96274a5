"""The CT phantom as DICOM: a series of CT images a patient, and a DICOM-SEG of liver and kidney."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from segkit.data.phantoms.tomography import CT_STRUCTURES, Scan, ct_scans


def write_dicom(root: Path, n: int, seed: int) -> None:
    """Write one folder a patient, with CT slices and a DICOM-SEG of liver and kidney; the same bytes for the same seed."""
    for patient, scan in enumerate(ct_scans(n, seed)):
        folder = root / f"patient_{patient:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        slices = [_ct_image(scan, patient, i, seed) for i in range(len(scan.images))]
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
    dataset.Rows, dataset.Columns = scan.images.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.KVP = 1, -1024, 120
    dataset.PixelData = (scan.images[i] + np.int16(1024)).astype("<i2").tobytes()
    return dataset


def _segmentation(scan: Scan, slices: list[Dataset], patient: int, seed: int) -> Dataset:
    """A binary DICOM-SEG; dates and the UID that highdicom draws by lot are replaced, so that the bytes are the same each time."""
    import highdicom as hd  # a second of import that only phantoms need
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence("phantom", codes.DCM.ArtificialIntelligence, "1")
    organ, types = codes.SCT.Organ, {"liver": codes.SCT.Liver, "kidney": codes.SCT.Kidney}
    described = [
        hd.seg.SegmentDescription(i, name.capitalize(), organ, types[name], "AUTOMATIC", algorithm)
        for i, name in enumerate(CT_STRUCTURES, 1)
    ]
    seg: Dataset = hd.seg.Segmentation(
        source_images=slices,
        pixel_array=np.moveaxis(scan.masks, 1, -1),
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
