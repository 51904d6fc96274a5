"""DICOM-SEG: what highdicom and segkit's own source read from it are the planes that were predicted, on the images they belong to."""

from __future__ import annotations

import shutil
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from segkit.data.case import Case, stack_planes
from segkit.data.labels import LabelMap
from segkit.data.slices import view
from segkit.data.sources.dicom import Dicom
from segkit.inference.batch import open_writers
from segkit.inference.inputs import of_cases
from segkit.inference.writers.base import Target
from segkit.inference.writers.dicom_seg import write_dicom_seg
from segkit.system.errors import SegkitError

LABELS = LabelMap.of({"liver": "liver", "kidney": "organ of the back"}, overlap=True)
BOTH = LabelMap.of({0: "background", 1: "liver", 2: "kidney"})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of CT slices, without a mask."""
    root = tmp_path_factory.mktemp("ct")
    Dicom(root).write_phantom(root, 5, 0)
    (root / "patient_000" / "seg.dcm").unlink()
    return root / "patient_000"


def blobs(n: int, shape: tuple[int, ...]) -> np.ndarray:
    masks = (np.random.default_rng(2).random((n, *shape)) > 0.7).astype(np.uint8)
    masks[:, 1] = 0  # a slice without anything
    return masks


def predicted(root: Path, output: Path, labels: LabelMap, mask: np.ndarray, dims: int = 2) -> Path:
    cases = view(list(Dicom(root).cases()), dims, [0], [])
    (job,), (writer,) = open_writers(["dicom_seg"], of_cases(cases), Target(output, labels))
    assert not writer.is_done(job)
    writer.write(job, mask)
    writer.close()
    assert writer.is_done(job)
    (path,) = output.glob("*.dcm")
    return path


def shape_of(root: Path) -> tuple[int, ...]:
    cases = list(Dicom(root).cases())
    return (len(cases), *cases[0].image.read().shape[:2])


@pytest.mark.parametrize("dims", [2, 3])
def test_our_own_source_reads_back_the_planes(tmp_path: Path, images: Path, dims: int) -> None:
    masks = blobs(2, shape_of(images))
    path = predicted(images, tmp_path / "out", LABELS, masks, dims)
    shutil.copytree(images, tmp_path / "both")
    shutil.copy(path, tmp_path / "both" / "predicted.dcm")
    source = Dicom(tmp_path / "both")
    cases = list(source.cases())
    assert source.problems == []
    np.testing.assert_array_equal(np.stack([stack_planes(case, LABELS) for case in cases], axis=1), masks)


def test_highdicom_finds_each_plane_on_its_image(tmp_path: Path, images: Path) -> None:
    classes = np.random.default_rng(3).integers(0, 3, shape_of(images)).astype(np.uint8)
    seg = hd.seg.segread(predicted(images, tmp_path, BOTH, classes))
    assert [seg.get_segment_description(number).segment_label for number in (1, 2)] == ["liver", "kidney"]
    headers = sorted((pydicom.dcmread(path) for path in images.rglob("*.dcm")), key=lambda one: one.ImagePositionPatient[2])
    planes = seg.get_pixels_by_source_instance([one.SOPInstanceUID for one in headers])  # (D, H, W, K)
    np.testing.assert_array_equal(planes, np.stack([classes == 1, classes == 2], axis=-1))
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[name].value == headers[0][name].value
    np.testing.assert_allclose(seg.get_volume().spacing, (headers[0].SliceThickness, *headers[0].PixelSpacing))


def test_a_series_on_which_nothing_was_found_is_a_file_as_well(tmp_path: Path, images: Path) -> None:
    path = predicted(images, tmp_path, BOTH, np.zeros(shape_of(images), np.uint8))
    assert not hd.seg.segread(path).pixel_array.any()


def test_the_same_mask_is_the_same_object_and_another_one_is_not(tmp_path: Path, images: Path) -> None:
    mask = np.ones(shape_of(images), np.uint8)
    uids = [
        pydicom.dcmread(predicted(images, tmp_path / str(i), BOTH, of_one)).SOPInstanceUID
        for i, of_one in enumerate((mask, mask, 2 * mask))
    ]
    assert uids[0] == uids[1] != uids[2]


def test_elements_that_anonymisers_removed_and_an_empty_character_set(tmp_path: Path, images: Path) -> None:
    for path in images.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet = ""  # as some scanners write it
        del dataset.PatientName, dataset.StudyID
        dataset.save_as(tmp_path / path.name)
    path = predicted(tmp_path, tmp_path / "out", BOTH, np.ones(shape_of(images), np.uint8))
    assert pydicom.dcmread(path).PatientName == ""


def test_names_of_patient_and_class_in_any_script(tmp_path: Path, images: Path) -> None:
    for path in images.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Jörg"
        dataset.save_as(tmp_path / path.name)
    path = predicted(tmp_path, tmp_path / "out", LabelMap.of({0: "background", 1: "ребро"}), np.ones(shape_of(images), np.uint8))
    dataset = pydicom.dcmread(path)
    assert (dataset.PatientName, dataset.SegmentSequence[0].SegmentLabel) == ("Müller^Jörg", "ребро")


def test_a_radiograph_has_a_file_of_its_own(tmp_path: Path, images: Path) -> None:
    for i, path in enumerate(sorted(images.rglob("*.dcm"))[:2]):
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID, dataset.Modality = pydicom.uid.ComputedRadiographyImageStorage, "CR"
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.FrameOfReferenceUID
        dataset.save_as(tmp_path / f"{i}.dcm")
    jobs, (writer,) = open_writers(["dicom_seg"], of_cases(list(Dicom(tmp_path).cases())), Target(tmp_path / "out", BOTH))
    mask = np.random.default_rng(0).integers(0, 3, shape_of(images)[1:]).astype(np.uint8)
    for job in jobs:
        writer.write(job, mask)
    for job, path in zip(jobs, sorted((tmp_path / "out").glob("*.dcm")), strict=True):
        seg = hd.seg.segread(path)
        uid = pydicom.dcmread(job.source).SOPInstanceUID
        np.testing.assert_array_equal(seg.get_pixels_by_source_instance([uid])[0], np.stack([mask == 1, mask == 2], axis=-1))


def test_what_cannot_be_referred_to_is_one_clear_error(tmp_path: Path, images: Path) -> None:
    for path in images.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(tmp_path / path.name)
    cases: list[Case] = list(Dicom(tmp_path).cases())
    (job,) = open_writers(["dicom_seg"], of_cases(cases), Target(tmp_path, BOTH))[0]
    with pytest.raises(SegkitError, match=r"no DICOM-SEG can be made of its series .*Frame Of Reference"):
        write_dicom_seg(tmp_path / "out.dcm", np.ones((1, *shape_of(images)), np.uint8), ["a"], [case.image for case in job.cases])
    assert not (tmp_path / "out.dcm").exists()


def test_slices_of_a_series_become_one_job(tmp_path: Path, images: Path) -> None:
    cases = list(Dicom(images).cases())
    assert len(of_cases(cases)) == len(cases)
    (job,), _ = open_writers(["dicom_seg"], of_cases(cases), Target(tmp_path, BOTH))
    assert [case.id for case in job.cases] == [case.id for case in cases]


def enhanced(slices: list[Dataset]) -> Dataset:
    """All slices as the frames of one file, in the order given."""
    one = slices[0]
    frames = np.stack([dataset.pixel_array for dataset in slices])
    one.SOPClassUID, one.SOPInstanceUID = pydicom.uid.EnhancedCTImageStorage, pydicom.uid.generate_uid(entropy_srcs=["enhanced"])
    one.NumberOfFrames, one.PixelData = len(frames), frames.tobytes()
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [Dataset()], [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = one.ImageOrientationPatient
    shared.PixelMeasuresSequence[0].PixelSpacing = one.PixelSpacing
    shared.PixelMeasuresSequence[0].SliceThickness = one.SliceThickness
    places = []
    for dataset in slices:
        places.append(Dataset())
        places[-1].PlanePositionSequence = [Dataset()]
        places[-1].PlanePositionSequence[0].ImagePositionPatient = dataset.ImagePositionPatient
    one.SharedFunctionalGroupsSequence, one.PerFrameFunctionalGroupsSequence = [shared], places
    del one.ImagePositionPatient, one.ImageOrientationPatient, one.PixelSpacing, one.SliceThickness
    return one


def test_frames_of_one_file_in_another_order_than_their_places(tmp_path: Path, images: Path) -> None:
    slices = sorted((pydicom.dcmread(path) for path in images.rglob("*.dcm")), key=lambda one: -one.ImagePositionPatient[2])
    enhanced(slices).save_as(tmp_path / "scan.dcm")
    masks = blobs(2, shape_of(images))
    predicted(tmp_path, tmp_path / "out", LABELS, masks)
    source = Dicom(tmp_path)
    cases = list(source.cases())
    assert (source.problems, [case.image.frame for case in cases]) == ([], list(range(len(cases)))[::-1])
    np.testing.assert_array_equal(np.stack([stack_planes(case, LABELS) for case in cases], axis=1), masks)
