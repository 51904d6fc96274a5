"""Formats in which a prediction is written beside its mask, by name: annotations, segmentation objects, submissions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from segkit.inference.inputs import Job
from segkit.inference.writers.base import Target, Writer
from segkit.inference.writers.dicom_seg import DicomSeg, by_series
from segkit.inference.writers.kaggle import GITractCodes, NerveCodes
from segkit.inference.writers.labelme import LabelMeFiles
from segkit.inference.writers.submissions import HC18Ellipses
from segkit.system.errors import SegkitError, nearest

__all__ = ["FORMATS", "Target", "Writer", "opened"]

FORMATS: Mapping[str, Callable[[Target], Writer]] = {
    "labelme": LabelMeFiles,
    "dicom_seg": DicomSeg,
    "nerve": NerveCodes,
    "uw_madison": GITractCodes,
    "hc18": HC18Ellipses,
}


def opened(names: Iterable[str], jobs: Sequence[Job], target: Target) -> tuple[list[Job], list[Writer]]:
    """The jobs as these formats want them, and their writers. SegkitError where one cannot hold what is to be predicted."""
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in FORMATS:
            raise SegkitError(f"formats names {name}; {nearest(name, FORMATS) or 'there are ' + ', '.join(FORMATS)}")
    arranged = by_series(jobs) if "dicom_seg" in names else list(jobs)
    writers = [FORMATS[name](target) for name in names]
    for name, writer in zip(names, writers, strict=True):
        if reason := _refusal(writer, arranged):
            raise SegkitError(f"formats: {name} cannot be written, as {reason};   {_way_out(arranged, target)}")
    return arranged, writers


def _refusal(writer: Writer, jobs: Sequence[Job]) -> str:
    return next((reason for job in jobs if (reason := writer.refuses(job))), "")


def _way_out(jobs: Sequence[Job], target: Target) -> str:
    """What to type instead."""
    possible = [name for name, build in FORMATS.items() if not _refusal(build(target), jobs)]
    return f"possible here: formats=[{','.join(possible)}]" + ("" if possible else ", masks alone")
