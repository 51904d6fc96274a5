"""DICOM: series of images (CT, MR, …) or single ones (CR, DX, US, MG), with DICOM-SEG or RTSTRUCT files as masks.

    ROOT/**/*           files of any name in any folders; their headers say what they are

A case is a slice; the slices of a series are a volume, ordered along their normal. A DICOM-SEG or RTSTRUCT belongs to the
series it refers to, and each of its structures is a plane, named by its label: "Left Kidney" is left_kidney. A slice of such
a series on which nothing is drawn has empty masks; a series that nothing refers to has none. PatientID is the patient.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from segkit.data.case import Case, Pixels, grouped
from segkit.data.io import dicom
from segkit.data.io.base import ReadError
from segkit.data.io.dicom import DicomSlice, RoiPlane, SegPlane
from segkit.data.io.dicom_series import UNEVEN, Annotation, ImageHeader, Piece, Series, images_of, plane_name, segmentation, structure_set
from segkit.data.phantoms import dicom as phantom
from segkit.data.sources.base import Source, Unusable
from segkit.data.sources.files import all_files
from segkit.system.files import natural
from segkit.system.shell import argument, override

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # the second: label maps (2023)
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
NO_SLICES = ("1.2.840.10008.5.1.4.1.1.7.", "1.2.840.10008.5.1.4.1.1.481.2.", "1.2.840.10008.5.1.4.1.1.30.")
"""Families of secondary captures, dose and parametric maps: they have pixels, but are not slices of a scan."""
TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID", "Modality"),
    *("SeriesDescription", "SeriesNumber", "InstanceNumber", "ImageType", "Rows", "Columns", "NumberOfFrames", "PixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient", "ImagerPixelSpacing", "SequenceOfUltrasoundRegions"),
)
THREADS = 8
COPY = "copy it again, or move it away"


class Dicom(Source):
    """Source of DICOM images and of the DICOM-SEG or RTSTRUCT files that refer to them.

    Args:
        root: the folder with the files, in any subfolders.
        series: the one to take where a folder holds several of one patient: a SeriesInstanceUID or a SeriesDescription.
        segments: the structures to keep, by label; None keeps all.
    """

    def __init__(self, root: Path, series: str | None = None, segments: list[str] | None = None) -> None:
        super().__init__(root)
        self.series = series
        self.segments = None if segments is None else [plane_name(name, 0) for name in segments]

    def cases(self) -> Iterator[Case]:
        images, annotations = self._scanned()
        every = self._series(images)
        drawn = self._belonging(every, annotations)
        chosen: list[Series] = []
        for series in self._chosen(every, drawn):
            with self.reporting():
                self._check_stack(series)
                chosen.append(series)
        found = sorted({plane for annotations in drawn.values() for a in annotations for plane in a.planes})
        for name in self.segments or ():
            self.check_choice("segments", name, found)
        self._report_gaps(chosen, drawn)
        names = _names(every)
        for series in chosen:
            masks = self._masks(series, drawn[series])
            for i, image in enumerate(series.images):
                planes = {plane: pixels[i] for plane, pixels in masks.items()}
                yield _case(series, names[series], i, image, planes or None)

    # finding files

    def _scanned(self) -> tuple[list[tuple[Path, Dataset]], list[Annotation]]:
        """Read the headers of images, and the annotations."""
        if not self.root.is_dir():
            self.report(self.root, "is a file; a folder of DICOM files is needed", override("data.root", str(self.root.parent)))
            return [], []
        files = [path for path in all_files(self.root) if dicom.claims_to_be_dicom(path)]
        with ThreadPoolExecutor(THREADS) as pool:
            headers = [(path, header) for path, header in zip(files, pool.map(self._header, files), strict=True) if header is not None]
        images, annotations, left_out = [], [], Counter[str]()
        for path, header in headers:
            kind = str(header.SOPClassUID)
            if kind in SEGMENTATIONS or kind == STRUCTURE_SET:
                annotations += self._annotation(path, kind)
            elif not header.get("Rows") or f"{kind}.".startswith(NO_SLICES):
                left_out[header.SOPClassUID.name] += 1
            elif "LOCALIZER" in (header.get("ImageType") or ()):
                left_out["localizer"] += 1
            else:
                images.append((path, header))
        if left_out:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
            self.report(str(self.root), f"left out, as not slices of a scan: {kinds}", severity="note")
        if not images:
            fix = "data.root = the folder that holds them, in any subfolders"
            self.report(str(self.root), f"no DICOM images in it ({len(files)} DICOM files)", fix)
        return images, annotations

    def _header(self, path: Path) -> Dataset | None:
        with self.reporting(COPY) if path.name != "DICOMDIR" else suppress(ReadError):
            header = dicom.header(path, TAGS)
            has_frames = "NumberOfFrames" in header and header.SOPClassUID not in SEGMENTATIONS
            return dicom.header(path) if has_frames else header
        return None

    def _annotation(self, path: Path, kind: str) -> list[Annotation]:
        with self.reporting(COPY):
            annotation = structure_set(path) if kind == STRUCTURE_SET else segmentation(path)
            if annotation.left_out:
                what = f"structures without closed contours are left out: {', '.join(annotation.left_out)}"
                self.report(path, what, severity="note")
            return [annotation]
        return []

    # what belongs together

    def _series(self, headers: list[tuple[Path, Dataset]]) -> list[Series]:
        """Group images by series and patient; a multi-frame file is a series by itself."""
        members: dict[tuple[str, ...], list[tuple[Dataset, list[ImageHeader]]]] = defaultdict(list)
        seen: dict[str, Path] = {}
        for path, header in headers:
            uid = str(header.SOPInstanceUID)
            if uid in seen:
                what = f"is the same image as {self.shown(seen[uid])} (SOPInstanceUID); left out"
                self.report(path, what, "move one of them away", "warning")
                continue
            seen[uid] = path
            with self.reporting(COPY):
                frames = images_of(path, header)
                key = str(header.get("PatientID") or ""), str(header.SeriesInstanceUID), uid if len(frames) > 1 else ""
                members[key].append((header, frames))
        every = [Series(own[0][0], [image for _, frames in own for image in frames]) for own in members.values()]
        if any(not series.patient for series in every):
            what = "images without PatientID: each study counts as a patient, which may put one on both sides of a split"
            self.report(str(self.root), what, "write the PatientID into them, or split by a file of ids", "warning")
        return sorted(every, key=lambda series: (natural(series.base), series.uid, series.images[0].uid))

    def _belonging(self, every: list[Series], annotations: list[Annotation]) -> dict[Series, list[Annotation]]:
        drawn: dict[Series, list[Annotation]] = {series: [] for series in every}
        for annotation in annotations:
            own = [series for series in every if series.holds(annotation.pieces)]
            own = own or [series for series in every if series.uid in annotation.series]
            if not own and not annotation.series:
                own = [s for s in every if s.frame_of_reference and s.frame_of_reference == annotation.frame_of_reference]
            if not own:
                which = f"series {min(annotation.series)}" if annotation.series else "images"
                self.report(annotation.path, f"refers to {which}, not in this folder", "add these images, or move it away")
            for series in own:
                drawn[series].append(annotation)
        return drawn

    def _chosen(self, every: list[Series], drawn: dict[Series, list[Annotation]]) -> Iterator[Series]:
        """Yield all series; of several scans of a patient in one folder only those that `series`, or else a mask, refers to."""
        yield from (series for series in every if not series.is_scan)
        places = grouped(((series.images[0].path.parent, series.patient), series) for series in every if series.is_scan)
        for (folder, _), here in places.items():
            meant = here if len(here) == 1 else self._meant(folder, here, drawn)
            yield from meant
            if meant and (others := [series for series in here if series not in meant]):
                what = f"left out, as masks or data.source.series name another series: {', '.join(map(str, others))}"
                self.report(folder, what, severity="note")

    def _meant(self, folder: Path, here: list[Series], drawn: dict[Series, list[Annotation]]) -> list[Series]:
        if self.series is None:
            meant = [series for series in here if drawn[series]]
        else:
            meant = [series for series in here if self.series in (series.uid, series.description)]
        if meant and (self.series is None or len(meant) == 1):
            return meant
        count = {2: "two", 3: "three"}.get(len(here), str(len(here)))
        listed = ", ".join(f"{letter}: {series}" for letter, series in zip("ABCDEFGH", here, strict=False)) + ", ..." * (len(here) > 8)
        why = "no mask refers to one of them" if self.series is None else f"{self.series!r} names {'several' if meant else 'none'} of them"
        what = f"{count} series of one patient in one folder ({listed}), and {why}"
        self.report(folder, what, " or ".join(argument("data.source.series", _key(series, here)) for series in here[:4]))
        return []

    def _check_stack(self, series: Series) -> None:
        """Raise `Unusable` where the slices of a stack differ in size or direction, or several lie at one place."""
        if not series.is_stack:
            return
        first = series.images[0]
        if odd := [image for image in series.images if image.shape != first.shape]:
            sizes = [" x ".join(map(str, image.shape)) for image in (odd[0], first)]
            what = f"slices of one series differ in size: this one is {sizes[0]}, {first.path.name} is {sizes[1]}"
            raise Unusable(odd[0].path, what, "move what does not belong away")
        if not series.has_geometry:
            return
        if odd := [image for image in series.images if not (first.grid and image.grid and first.grid.has_directions_of(image.grid))]:
            what = f"slices of one series differ in direction: this one is rotated against {first.path.name}"
            raise Unusable(odd[0].path, what, "move what does not belong away")
        if twice := int((series.gaps < 0.01).sum()):
            what = f"{twice} slices of its series lie where another one lies: several phases, echoes or directions in one series?"
            raise Unusable(first.path, what, "keep one of them in the folder")
        off = np.abs(series.gaps - series.slice_mm)
        if off.size and off.max() > UNEVEN * series.slice_mm:
            i = int(off.argmax())
            apart = f"{series.gaps[i]:.2f} mm apart, others {series.slice_mm:.2f} mm"
            what = f"slices {i} and {i + 1} of its series are {apart}: is one missing?"
            self.report(series.images[0].path, what, "copy the whole series again", "warning")

    # masks

    def _kept(self, annotation: Annotation) -> list[str]:
        return [plane for plane in annotation.planes if self.segments is None or plane in self.segments]

    def _report_gaps(self, chosen: list[Series], drawn: dict[Series, list[Annotation]]) -> None:
        """Warn of structures that some labeled series lack: they count as empty there, which may not be intended."""
        labeled = [{plane for a in drawn[series] for plane in self._kept(a)} for series in chosen]
        labeled = [planes for planes in labeled if planes]
        counts = sorted(Counter(plane for planes in labeled for plane in planes).items())
        self.default_labels = {plane: plane for plane, _ in counts} or None
        for plane, count in counts:
            if count < len(labeled):
                what = f"drawn in {count} of {len(labeled)} series with masks, and taken as empty in the others"
                self.report(f"structure {plane}", what, "choose the structures: 'data.source.segments=[NAME,NAME]'", "warning")

    def _masks(self, series: Series, annotations: list[Annotation]) -> dict[str, list[Pixels]]:
        """Return by plane a mask for each slice."""
        masks: dict[str, list[Pixels]] = {}
        drawn_in: dict[str, Annotation] = {}
        for annotation in annotations:
            with self.reporting():
                placed = self._placed(series, annotation)
                for plane in self._kept(annotation):
                    if plane in masks:
                        what = f"draws {plane} of a series of which {self.shown(drawn_in[plane].path)} draws it too"
                        self.report(annotation.path, what, "keep one of them")
                        continue
                    drawn_in[plane] = annotation
                    masks[plane] = [_plane(annotation, image, placed.get((plane, i), [])) for i, image in enumerate(series.images)]
        return masks

    def _placed(self, series: Series, annotation: Annotation) -> dict[tuple[str, int], list[Piece]]:
        """Return pieces by plane and slice. Raises `Unusable` where they do not lie on the series."""
        indices = [(piece, series.index(piece)) for piece in annotation.pieces]
        placed = grouped(((piece.plane, i), piece) for piece, i in indices if i is not None)
        noun = "contours" if annotation.is_contours else "frames"
        lost = len(annotation.pieces) - sum(map(len, placed.values()))
        wrong = _misplaced(series, annotation, placed)
        if lost and not placed:
            wrong = f"none of its {lost} {noun} lies on a slice of the series that it refers to"
        if wrong:
            raise Unusable(annotation.path, wrong, "resample it to its images, e.g. in 3D Slicer, or move it away")
        if lost:
            verb = "lies" if lost == 1 else "lie"
            what = f"{lost} of {len(annotation.pieces)} {noun} {verb} on no slice of the series in this folder"
            self.report(annotation.path, what, "copy the whole series", "warning")
        return placed

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        """Write one folder a patient, with CT slices and a DICOM-SEG of liver and kidney."""
        phantom.write_dicom(root, n, seed)


def _names(every: list[Series]) -> dict[Series, str]:
    """Return PatientID_SeriesNumber, followed by six digits of a hash of the UID where that is not unique."""
    count = Counter(series.base for series in every)
    own = {series: hashlib.sha256(f"{series.uid} {series.images[0].uid}".encode()).hexdigest()[:6] for series in every}
    return {series: series.base if count[series.base] == 1 else f"{series.base}_{own[series]}" for series in every}


def _case(series: Series, name: str, i: int, image: ImageHeader, masks: dict[str, Pixels] | None) -> Case:
    spacing = (series.slice_mm, *image.spacing) if series.slice_mm and image.spacing else image.spacing
    return Case(
        id=f"{name}_{i:04d}",
        image=DicomSlice(image.path, image.frame),
        mask=masks,
        group=series.patient or f"study-{hashlib.sha256(series.study.encode()).hexdigest()[:8]}",
        spacing_mm=spacing,
        volume=name if series.is_stack else "",
        position=i if series.is_stack else 0,
    )


def _key(series: Series, here: list[Series]) -> str:
    """Return the description where it is unique, else the UID."""
    own = [other for other in here if other.description == series.description]
    return f"'{series.description}'" if series.description and len(own) == 1 else series.uid


def _misplaced(series: Series, annotation: Annotation, placed: dict[tuple[str, int], list[Piece]]) -> str:
    """Return why the pieces do not lie on the slices that they name; empty where they do."""
    if annotation.is_contours and not series.has_geometry:
        return "its contours are in millimeters, but its images do not say where they lie (no ImagePositionPatient)"
    for (_, i), pieces in placed.items():
        image = series.images[i]
        for piece in pieces:
            if (off := series.off(piece, i)) > 0.5 * (series.slice_mm or 1.0) + 0.01:
                return f"frame or contour {piece.index + 1} names {image.path.name} as its image, but lies {off:.1f} mm off it"
            if piece.grid and image.grid and abs(np.dot(piece.grid.normal, image.grid.normal)) <= 0.9999:
                return "is sliced in another direction than its images"
    return ""


def _plane(annotation: Annotation, image: ImageHeader, pieces: list[Piece]) -> Pixels:
    indices = tuple(piece.index for piece in pieces)
    if annotation.is_contours and image.grid is not None:
        return RoiPlane(annotation.path, indices, image.grid)
    grid = pieces[0].grid if pieces else None
    affine = image.grid.onto(grid) if image.grid and grid else ()
    return SegPlane(annotation.path, indices, image.shape, affine, tuple(sorted({piece.value for piece in pieces} or {1})))
