"""Formats in which a prediction is written beside its masks, by name: annotations, segmentation objects, submissions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from segkit.inference.inputs import Job
from segkit.inference.writers.base import Target, Writer
from segkit.inference.writers.dicom_seg import DicomSeg, by_series
from segkit.inference.writers.labelme import LabelMeFiles
from segkit.inference.writers.submissions import GITractCodes, HC18Ellipses, NerveCodes
from segkit.system.errors import SegkitError, nearest

FORMATS: Mapping[str, type[Writer]] = {
    "labelme": LabelMeFiles,
    "dicom_seg": DicomSeg,
    "nerve": NerveCodes,
    "uw_madison": GITractCodes,
    "hc18": HC18Ellipses,
}


def open_writers(names: Iterable[str], jobs: Sequence[Job], target: Target) -> tuple[list[Job], list[Writer]]:
    """Return the jobs as these formats need them, and their writers. SegkitError where one cannot hold a job."""
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in FORMATS:
            raise SegkitError(f"formats={name} is not a valid option; {nearest(name, FORMATS) or 'available: ' + ', '.join(FORMATS)}")
    arranged = by_series(jobs) if "dicom_seg" in names else list(jobs)
    writers = [FORMATS[name](target) for name in names]
    for name, writer in zip(names, writers, strict=True):
        if reason := _refusal(writer, arranged):
            possible = [other for other, format_ in FORMATS.items() if not _refusal(format_(target), arranged)]
            fix = f"possible here: formats=[{','.join(possible)}]" + ("" if possible else ", masks alone")
            raise SegkitError(f"formats: {name} cannot be written, as {reason};   {fix}")
    return arranged, writers


def _refusal(writer: Writer, jobs: Sequence[Job]) -> str:
    return next((reason for job in jobs if (reason := writer.refuses(job))), "")
