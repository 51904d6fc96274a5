"""The DICOM source: what belongs together is found by headers, whatever files are called."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from segkit.data.case import Case
from segkit.data.phantoms import tomography
from segkit.data.sources.dicom import Dicom
from segkit.system.errors import Problem

Read = tuple[list[Case], list[Problem]]
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"


def read(root: Path, **keys: Any) -> Read:
    source = Dicom(root, **keys)
    return list(source.cases()), source.problems


def errors(problems: list[Problem]) -> list[str]:
    return [f"{problem.where}: {problem.what}; {problem.fix}" for problem in problems if problem.severity == "error"]


def change(path: Path, to: Path | None = None, **values: Any) -> Path:
    """Rewrite some elements of a file; None deletes one."""
    dataset = pydicom.dcmread(path)
    for name, value in values.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    target = to or path
    target.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(target, enforce_file_format=True)
    return target


def copy_series(folder: Path, to: Path, uid: str, **values: Any) -> None:
    """The CT slices of a folder once more, as another series."""
    for i, path in enumerate(sorted(folder.glob("ct_*.dcm"))):
        change(path, to / f"{uid}_{i}.dcm", SeriesInstanceUID=f"1.2.3.{uid}", SOPInstanceUID=f"1.2.3.{uid}.{i}", **values)


def items(**values: Any) -> Sequence:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return Sequence([dataset])


def write_structures(path: Path, images: list[Path], structures: dict[str, list[tuple[int, list[tuple[float, float]]]]]) -> None:
    """An RTSTRUCT: structures as name: (slice, corners x, y in pixels)."""
    slices = [pydicom.dcmread(image, stop_before_pixels=True) for image in images]
    dataset = Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = RTSTRUCT, "1.2.3.4", "1.2.3.5"
    dataset.PatientID, dataset.Modality = slices[0].PatientID, "RTSTRUCT"
    series = items(SeriesInstanceUID=slices[0].SeriesInstanceUID)
    study = items(RTReferencedSeriesSequence=series)
    frame_of_reference = slices[0].FrameOfReferenceUID
    dataset.ReferencedFrameOfReferenceSequence = items(FrameOfReferenceUID=frame_of_reference, RTReferencedStudySequence=study)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Sequence(), Sequence()
    for number, (name, contours) in enumerate(structures.items(), 1):
        dataset.StructureSetROISequence += items(ROINumber=number, ROIName=name)
        drawn = Sequence()
        for i, corners in contours:
            x0, y0, z = (float(v) for v in slices[i].ImagePositionPatient)
            rows, columns = (float(v) for v in slices[i].PixelSpacing)
            points = [round(v, 4) for x, y in corners for v in (x0 + x * columns, y0 + y * rows, z)]
            kind = "CLOSED_PLANAR" if len(corners) > 1 else "POINT"
            drawn += items(ContourGeometricType=kind, NumberOfContourPoints=len(corners), ContourData=points)
        dataset.ROIContourSequence += items(ReferencedROINumber=number, ContourSequence=drawn)
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dicom")
    Dicom(root).write_phantom(root, 20, 0)
    return root


@pytest.fixture
def one(written: Path, tmp_path: Path) -> Path:
    """A root with the first patient of the phantom alone, in patient_000."""
    shutil.copytree(written / "patient_000", tmp_path / "root" / "patient_000")
    return tmp_path / "root"


def test_files_without_suffix_and_without_preamble_belong_to_the_series(one: Path) -> None:
    whole = [case.image.read() for case in read(one)[0]]
    for i, path in enumerate(sorted(one.rglob("ct_*.dcm"))):
        dataset = pydicom.dcmread(path)
        bare = Dataset()
        bare.update(dataset)
        bare.save_as(path.with_name(f"IM{i:04d}"), implicit_vr=bool(i % 2), little_endian=True)
        path.unlink()
    (one / "patient_000" / "README").write_text("no DICOM at all " * 20)
    found, problems = read(one)
    assert errors(problems) == []
    assert all(np.array_equal(case.image.read(), pixels) for case, pixels in zip(found, whole, strict=True))


def test_the_phantom_reads_back_as_it_was_drawn(written: Path) -> None:
    source = Dicom(written)
    cases = list(source.cases())
    assert source.problems == []
    assert source.default_labels == {"kidney": "kidney", "liver": "liver"}
    for patient, scan in enumerate(tomography.ct_scans(20, 0)):
        name = f"patient-{patient:03d}"
        slices = cases[patient * 5 : patient * 5 + 5]
        assert [case.id for case in slices] == [f"{name}_1_{i:04d}" for i in range(5)]
        assert {(case.group, case.volume) for case in slices} == {(name, f"{name}_1")}
        for i, case in enumerate(slices):
            assert case.position == i
            assert case.spacing_mm == (scan.slice_mm, scan.pixel_mm, scan.pixel_mm)
            image = case.image.read()
            assert image.dtype == np.float32
            np.testing.assert_array_equal(image[..., 0], scan.images[i])
            for k, structure in enumerate(tomography.CT_STRUCTURES):
                np.testing.assert_array_equal(case.masks[structure].read(), scan.masks[i, k])


def test_a_slice_on_which_nothing_is_drawn_has_empty_masks(written: Path) -> None:
    empty = [case for case in read(written)[0] if not case.masks["kidney"].read().any()]
    assert empty
    assert empty[0].masks["kidney"].read().shape == tomography.CT_SHAPE


def test_equal_seeds_write_equal_bytes(written: Path, tmp_path: Path) -> None:
    Dicom(tmp_path).write_phantom(tmp_path, 20, 0)
    first = {str(path.relative_to(written)): path.read_bytes() for path in written.rglob("*.dcm")}
    assert {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*.dcm")} == first


def test_few_slices_make_four_patients(tmp_path: Path) -> None:
    Dicom(tmp_path).write_phantom(tmp_path, 8, 1)
    cases, problems = read(tmp_path)
    assert (len(cases), len({case.group for case in cases}), problems) == (8, 4, [])


def test_a_threshold_does_not_find_the_organs() -> None:
    dice = []
    for scan in tomography.ct_scans(20, 0):
        for image, masks in zip(scan.images, scan.masks, strict=True):
            window = np.clip((image + 160.0) / 400 * 255, 0, 255).astype(np.uint8)  # of soft tissue: kind to the threshold
            _, found = cv2.threshold(window, 0, 1, cv2.THRESH_OTSU)
            truth = masks.any(0)
            dice.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert np.mean(dice) < 0.8


def test_names_and_folders_of_files_do_not_matter(one: Path) -> None:
    before = [(case.id, case.image.read(), case.masks["liver"].read()) for case in read(one)[0]]
    for i, path in enumerate(sorted(one.rglob("*.dcm"), reverse=True)):
        path.rename(one / f"IM{i}")
    (one / "patient_000").rmdir()
    (one / "notes.txt").write_text("not DICOM")
    after, problems = read(one)
    assert problems == []
    for case, (name, image, liver) in zip(after, before, strict=True):
        assert case.id == name
        np.testing.assert_array_equal(case.image.read(), image)
        np.testing.assert_array_equal(case.masks["liver"].read(), liver)


def test_slices_are_ordered_by_place_not_by_number(one: Path) -> None:
    expected = [case.image.read() for case in read(one)[0]]
    for i, path in enumerate(sorted((one / "patient_000").glob("ct_*.dcm"))):
        change(path, InstanceNumber=9 - i)
    for case, image in zip(read(one)[0], expected, strict=True):
        np.testing.assert_array_equal(case.image.read(), image)


def test_without_geometry_the_number_orders_them(one: Path) -> None:
    (one / "patient_000" / "seg.dcm").unlink()
    expected = [case.image.read() for case in read(one)[0]]
    for i, path in enumerate(sorted((one / "patient_000").glob("ct_*.dcm"))):
        change(path, InstanceNumber=9 - i, ImagePositionPatient=None)
    cases, problems = read(one)
    assert problems == []
    assert all(len(case.spacing_mm) == 2 for case in cases)
    for case, image in zip(cases, reversed(expected), strict=True):
        np.testing.assert_array_equal(case.image.read(), image)


def test_a_series_without_masks_is_unlabelled(one: Path) -> None:
    (one / "patient_000" / "seg.dcm").unlink()
    source = Dicom(one)
    assert [case.mask for case in source.cases()] == [None] * 5
    assert (source.problems, source.default_labels) == ([], None)


def test_segments_keeps_the_wanted_structures(one: Path) -> None:
    cases, problems = read(one, segments=["Liver"])
    assert [list(case.masks) for case in cases] == [["liver"]] * 5
    assert problems == []


def test_an_unknown_segment_is_reported_with_the_near_one(one: Path) -> None:
    _, problems = read(one, segments=["livre"])
    assert errors(problems) == ["data.source.segments: 'livre' is not a valid option; available: kidney, liver; did you mean liver?"]


def test_contours_are_filled_and_a_contour_within_another_is_a_hole(one: Path) -> None:
    folder = one / "patient_000"
    (folder / "seg.dcm").unlink()
    outer, inner = [(9.5, 19.5), (29.5, 19.5), (29.5, 39.5), (9.5, 39.5)], [(14.5, 24.5), (19.5, 24.5), (19.5, 29.5), (14.5, 29.5)]
    structures = {"GTV 1": [(2, outer), (2, inner)], "iso": [(0, [(3.0, 3.0)])]}
    write_structures(folder / "rt.dcm", sorted(folder.glob("ct_*.dcm")), structures)
    cases, problems = read(one)
    assert [(problem.severity, problem.what) for problem in problems] == [("note", "structures without closed contours are left out: iso")]
    expected = np.zeros(tomography.CT_SHAPE, np.uint8)
    expected[20:40, 10:30] = 1
    expected[25:30, 15:20] = 0
    np.testing.assert_array_equal(cases[2].masks["gtv_1"].read(), expected)
    assert [int(case.masks["gtv_1"].read().sum()) for case in cases] == [0, 0, 375, 0, 0]


def test_of_two_series_the_one_that_the_masks_mean_is_taken(one: Path) -> None:
    copy_series(one / "patient_000", one / "patient_000", "7", SeriesDescription="lung kernel")
    cases, problems = read(one)
    assert len(cases) == 5
    assert all(case.masks for case in cases)
    assert [problem.what for problem in problems] == [
        "left out, as masks or data.source.series name another series: 5 CT slices 'lung kernel'"
    ]


def test_two_series_without_masks_are_reported_and_series_chooses(one: Path) -> None:
    (one / "patient_000" / "seg.dcm").unlink()
    copy_series(one / "patient_000", one / "patient_000", "7", SeriesDescription="lung kernel", SeriesNumber=3)
    cases, problems = read(one)
    assert cases == []
    assert errors(problems) == [
        "patient_000: two series of one patient in one folder (A: 5 CT slices 'synthetic abdomen', B: 5 CT slices 'lung kernel'), "
        "and no mask refers to one of them; \"data.source.series='synthetic abdomen'\" or \"data.source.series='lung kernel'\""
    ]
    for key in ("lung kernel", "1.2.3.7"):
        cases, problems = read(one, series=key)
        assert errors(problems) == []
        assert [case.volume for case in cases] == ["patient-000_3"] * 5


def test_two_series_of_one_number_have_ids_of_their_own(one: Path) -> None:
    copy_series(one / "patient_000", one / "other", "7")
    cases, _ = read(one)
    assert len({case.id for case in cases}) == 10
    assert len({case.volume for case in cases}) == 2
    assert {case.group for case in cases} == {"patient-000"}


def test_a_missing_slice_is_a_warning(one: Path) -> None:
    (one / "patient_000" / "seg.dcm").unlink()
    (one / "patient_000" / "ct_002.dcm").unlink()
    cases, problems = read(one)
    assert len(cases) == 4
    assert [(problem.severity, problem.what) for problem in problems] == [
        ("warning", "slices 1 and 2 of its series are 6.00 mm apart, others 3.00 mm: is one missing?")
    ]


def test_frames_of_slices_that_are_not_here_are_counted(one: Path) -> None:
    gone = one / "patient_000" / "ct_000.dcm"
    place = pydicom.dcmread(gone).ImagePositionPatient
    gone.unlink()
    frames = pydicom.dcmread(one / "patient_000" / "seg.dcm").PerFrameFunctionalGroupsSequence
    lost = sum(frame.PlanePositionSequence[0].ImagePositionPatient == place for frame in frames)
    assert lost > 0
    cases, problems = read(one)
    assert len(cases) == 4
    verb = "lies" if lost == 1 else "lie"
    assert [problem.what for problem in problems] == [f"{lost} of {len(frames)} frames {verb} on no slice of the series in this folder"]


def test_masks_without_their_images_are_reported(one: Path) -> None:
    for path in (one / "patient_000").glob("ct_*.dcm"):
        change(path, SeriesInstanceUID="1.2.9", SOPInstanceUID=f"1.2.9.{path.stem[-1]}")
    uid = pydicom.dcmread(one / "patient_000" / "seg.dcm").ReferencedSeriesSequence[0].SeriesInstanceUID
    assert errors(read(one)[1]) == [f"patient_000/seg.dcm: refers to series {uid}, not in this folder; add these images, or move it away"]


def test_a_structure_in_two_files_is_reported(one: Path) -> None:
    change(one / "patient_000" / "seg.dcm", one / "patient_000" / "second.dcm", SOPInstanceUID="1.2.3.9")
    (first, _) = errors(read(one)[1])
    assert first == ("patient_000/seg.dcm: draws liver of a series of which patient_000/second.dcm draws it too; keep one of them")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"Rows": 40}, "slices of one series differ in size: this one is 40 x 96, ct_000.dcm is 80 x 96"),
        (
            {"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]},
            "slices of one series differ in direction: this one is rotated against ct_000.dcm",
        ),
        (
            {"ImagePositionPatient": [-180, -150, 0]},
            "1 slices of its series lie where another one lies: several phases, echoes or directions in one series?",
        ),
    ],
)
def test_slices_that_do_not_go_together_are_reported(one: Path, changes: dict[str, Any], what: str) -> None:
    (one / "patient_000" / "seg.dcm").unlink()
    change(one / "patient_000" / "ct_004.dcm", **changes)
    cases, problems = read(one)
    assert cases == []
    assert [problem.what for problem in problems] == [what]


def test_the_same_image_twice_is_taken_once(one: Path) -> None:
    shutil.copy(one / "patient_000" / "ct_003.dcm", one / "patient_000" / "ct_003 (1).dcm")
    cases, problems = read(one)
    assert len(cases) == 5
    assert [problem.severity for problem in problems] == ["warning"]
    assert "is the same image as patient_000/ct_003" in problems[0].what


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:400])


def garbage(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>" * 20)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(("damage", "what"), [(cut, "damaged (no SOPInstanceUID in its header)"), (garbage, "damaged (not DICOM)")])
def test_damaged_files_are_reported_with_their_names(one: Path, damage: Callable[[Path], None], what: str) -> None:
    damage(one / "patient_000" / "ct_002.dcm")
    assert f"patient_000/ct_002.dcm: {what}; copy it again, or move it away" in errors(read(one)[1])


def test_localizers_and_secondary_captures_are_left_out_with_a_note(one: Path) -> None:
    first = one / "patient_000" / "ct_000.dcm"
    change(first, one / "scout.dcm", SOPInstanceUID="1.2.3.1", SeriesInstanceUID="1.2.3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    change(first, one / "shot.dcm", SOPInstanceUID="1.2.3.2", SeriesInstanceUID="1.2.4", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    cases, problems = read(one)
    assert len(cases) == 5
    (note,) = problems
    assert note.severity == "note"
    assert note.what == "left out, as not slices of a scan: 1 Secondary Capture Image Storage, 1 localizer"


def test_radiographs_of_one_series_are_images_by_themselves(one: Path) -> None:
    folder = one / "patient_000"
    (folder / "seg.dcm").unlink()
    for i, path in enumerate(sorted(folder.glob("ct_*.dcm"))):
        kept = {"Modality": "DX", "ImagePositionPatient": None, "ImageOrientationPatient": None, "RescaleIntercept": 0}
        change(path, **kept, PixelRepresentation=0, InstanceNumber=i)
    change(folder / "ct_000.dcm", Rows=40)
    cases, problems = read(one)
    assert problems == []
    assert [(case.volume, case.group) for case in cases] == [("", "patient-000")] * 5
    assert cases[1].image.read().dtype == np.uint16
    assert len({case.id for case in cases}) == 5


def test_without_a_patient_id_the_study_is_the_group(one: Path) -> None:
    for path in (one / "patient_000").glob("ct_*.dcm"):
        change(path, PatientID="")
    cases, problems = read(one)
    assert [case.volume for case in cases] == ["unknown_1"] * 5
    assert len({case.group for case in cases}) == 1
    assert cases[0].group
    assert ["images without PatientID" in problem.what for problem in problems] == [True]


def test_a_folder_without_images_says_so(tmp_path: Path) -> None:
    fix = "data.root = the folder that holds them, in any subfolders"
    assert read(tmp_path)[1] == [Problem(str(tmp_path), "no DICOM images in it (0 DICOM files)", fix)]


def test_the_files_of_a_long_scan_are_one_series(one: Path) -> None:
    dataset = pydicom.dcmread(one / "patient_000" / "ct_000.dcm")
    (one / "patient_000" / "seg.dcm").unlink()
    for path in (one / "patient_000").iterdir():
        path.unlink()
    for i in range(150):
        dataset.SOPInstanceUID, dataset.ImagePositionPatient = f"1.2.3.{i}", [0, 0, i]
        dataset.save_as(one / f"{i}", enforce_file_format=True)
    cases, problems = read(one)
    assert (len(cases), problems) == (150, [])


def test_the_liver_of_the_real_sample(real_data: Path) -> None:
    source = Dicom(real_data / "dicom")
    cases = list(source.cases())
    assert source.problems == []
    assert source.default_labels == {"liver": "liver"}
    assert [case.id for case in cases] == ["99000_2_0000", "99000_2_0001", "99000_2_0002"]
    assert cases[0].spacing_mm == (1.0, 0.810547, 0.810547)
    for case in cases:
        image, liver = case.image.read()[..., 0], case.masks["liver"].read() > 0
        assert image.shape == liver.shape == (512, 512)
        assert 35 < np.median(image[liver]) < 65  # HU of a liver without contrast
        assert 30_000 < liver.sum() < 40_000
