"""Predict many images and write the results; an image that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.data.case import Case
from segkit.data.labels import Array, LabelMap
from segkit.data.overlays import panel
from segkit.data.slices import Volume
from segkit.inference.inputs import Job, cases_of
from segkit.inference.postprocess import planes
from segkit.inference.predictor import Predictor
from segkit.inference.writers import tables
from segkit.inference.writers.base import Target, Writer
from segkit.inference.writers.formats import open_writers
from segkit.inference.writers.masks import (
    SIZE_HEADER,
    Size,
    is_written,
    palettes,
    rows_of,
    sizes,
    write_mask,
    write_overlay,
    write_probabilities,
)
from segkit.inference.writers.tables import Table
from segkit.system.environment import Shard
from segkit.system.errors import Problem, SegkitError, first_line
from segkit.system.files import is_full
from segkit.system.progress import track

SIZES = "sizes.csv"
"""Area in mm2 or volume in mm3 of every class and image."""


@dataclass(frozen=True)
class OutputOptions:
    """What to write besides the masks."""

    probabilities: bool = False
    overlays: bool = False
    overwrite: bool = False
    palette: bool = False
    formats: tuple[str, ...] = ()
    """See `segkit.inference.writers.formats`."""


@dataclass(frozen=True)
class BatchResult:
    """What a prediction of many images has done, and what went wrong."""

    written: int
    skipped: int
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()
    """For the readers of the files."""
    of: int = 0
    """Number of images, with those of other parts."""
    merged: bool = True
    """Whether the tables hold all parts."""


def predict_jobs(
    predictor: Predictor,
    jobs: Sequence[Job],
    output: Path,
    options: OutputOptions,
    begin: Callable[[], object] = lambda: None,
    part: Shard | None = None,
) -> BatchResult:
    """Write masks of all jobs, or of a part of them, below `output`; masks that exist are skipped. `begin` is called after all
    checks, before anything is written."""
    if options.palette:
        palettes(predictor.labels)  # an error now rather than after the first image
    target = Target(output, predictor.labels, predictor.config.data.neighbours, outline_of(predictor), part)
    everything, writers = open_writers(options.formats, jobs, target)
    jobs = everything if part is None else part.share(everything, unit_of)
    table = Table(output, SIZES, SIZE_HEADER, part)
    known = table.known  # an error now, too
    begin()
    tables.begin(output, part, options.overwrite)
    todo = [job for job in jobs if options.overwrite or job.name not in known or not is_done(job, output, predictor.labels, writers)]
    problems: list[Problem] = []
    try:
        for job in track(todo, f"predicting part {part}" if part else "predicting"):
            try:
                table.add(rows_of(predict_one(predictor, job, output, options, writers)))
            except (SegkitError, OSError, ValueError, MemoryError, RuntimeError) as error:  # RuntimeError: torch's, also out of GPU memory
                if isinstance(error, OSError) and is_full(error, output):
                    raise SegkitError(f"disk full while writing to {output};   free some space and run it again") from error
                problems.append(Problem(str(job.source), first_line(error).removeprefix(f"{job.source} ").removeprefix(f"{job.source}: ")))
    finally:  # also when interrupted: the masks that exist are skipped next time
        table.write()
        for writer in writers:
            writer.close()
    notes = tuple(problem for writer in writers for problem in writer.problems)
    merged = tables.end(output, part)
    return BatchResult(len(todo) - len(problems), len(jobs) - len(todo), tuple(problems), notes, len(everything), merged)


def unit_of(job: Job) -> str:
    """Slices of one volume belong to one part, since each reads the whole volume."""
    return job.cases[0].volume or job.name if job.cases else job.name


def is_done(job: Job, output: Path, labels: LabelMap, writers: Sequence[Writer]) -> bool:
    return all(is_written(part, labels) for part in files_of(job, output)) and all(writer.is_done(job) for writer in writers)


def outline_of(predictor: Predictor) -> float:
    """By how much the training's metric shrinks ellipses, as a submission should too."""
    nodes = predictor.config.metric.cases.values()
    return max((float(node["outline_px"]) for node in nodes if node and "outline_px" in node), default=0.0)


def predict_one(predictor: Predictor, job: Job, output: Path, options: OutputOptions, writers: Sequence[Writer] = ()) -> list[Size]:
    """Predict one job and write its files. The mask comes last: where it exists, everything else does."""
    labels, source = predictor.labels, predictor.config.data.source
    orient = source.get("orient", "LPS")
    cases = cases_of(job, predictor.metadata.dims, predictor.config.data.neighbours, orient)
    mask, probs, image = predict_whole(predictor, cases, is_stack(job, cases), options.probabilities, options.overlays)
    if probs is not None:
        names = ("background", *labels.classes) if labels.mode == "multiclass" else labels.classes
        write_probabilities(output / f"{job.name}_probabilities.npz", probs, names)
    if image is not None:
        shown = panel(image, planes(mask, labels))
        write_overlay(output / f"{job.name}_overlay.png", shown.image, shown.pred, labels.colors)
    for writer in writers:
        writer.write(job, mask)
    for part, of_part in zip(files_of(job, output), masks_of(job, mask, labels.overlap), strict=True):
        write_mask(part, of_part, labels, job.like, orient, options.palette)
    spacing = cases[0].spacing_mm[-(mask.ndim - labels.overlap) :]
    return sizes(job.name, mask, labels, spacing if len(spacing) == mask.ndim - labels.overlap else ())


Whole = tuple[Array, Array | None, Array | None]
"""Mask, probabilities and image."""


def predict_whole(predictor: Predictor, cases: Sequence[Case], stack: bool, probabilities: bool, image: bool) -> Whole:
    """Mask, probabilities and image of one job; slices are stacked to their volume. What is not wanted is not kept."""
    if not stack:
        only = predictor.predict(cases[0])
        return only.mask, only.probs if probabilities else None, only.image if image else None
    masks, probs, images = [], [], []
    for one in predictor.predict_all(cases):
        masks.append(one.mask)
        if probabilities:
            probs.append(one.probs)
        if image:
            images.append(one.image)
    slices = masks[0].ndim - 2  # the axis before rows and columns
    return np.stack(masks, axis=slices), np.stack(probs, axis=1) if probs else None, np.stack(images) if images else None


def is_stack(job: Job, cases: Sequence[Case]) -> bool:
    """Whether slices are predicted one by one and stacked: those of one file, or of one series of files."""
    return cases[0].dims == 2 and (len(cases) > 1 or (job.like is not None and bool(cases[0].volume)))


def files_of(job: Job, output: Path) -> list[Path]:
    """The files of its mask: one, or an image per slice of a volume whose slices were image files."""
    slices = slice_files(job)
    if is_series(job):
        return [output / f"{case.id}.png" for case in job.cases]
    return [output / job.name / f"{path.stem}_{z:03d}.png" for z, path in enumerate(slices)] if slices else [job.target(output)]


def masks_of(job: Job, mask: Array, overlap: bool) -> list[Array]:
    if not (slice_files(job) or is_series(job)):
        return [mask]
    return list(np.moveaxis(mask, 1, 0)) if overlap else list(mask)


def is_series(job: Job) -> bool:
    """Whether its slices are files of their own, which a format needs together."""
    return job.like is None and len(job.cases) > 1


def slice_files(job: Job) -> list[Path]:
    if job.like is not None or not job.cases or job.cases[0].dims == 2:
        return []
    image = job.cases[0].image
    return [one.paths[0] for one in image.slices] if isinstance(image, Volume) else []
