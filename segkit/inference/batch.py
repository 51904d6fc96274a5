"""Predict many images and write the results; an image that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.data.case import Case
from segkit.data.labels import Array, LabelMap
from segkit.data.overlays import PREDICTION, outline, panel
from segkit.inference.inputs import InputItem, cases_of
from segkit.inference.predictor import Predictor
from segkit.inference.writers import tables
from segkit.inference.writers.base import Target, Writer
from segkit.inference.writers.dicom_seg import DicomSeg, by_series
from segkit.inference.writers.labelme import LabelMeFiles
from segkit.inference.writers.masks import SIZE_HEADER, is_written, palettes, size_rows, write_mask, write_png, write_probabilities
from segkit.inference.writers.submissions import GITractCodes, HC18Ellipses, NerveCodes
from segkit.inference.writers.tables import Row, Table
from segkit.system.environment import Shard
from segkit.system.errors import DiskFull, Problem, SegkitError, first_line, nearest
from segkit.system.files import is_full
from segkit.system.progress import track
from segkit.system.shell import override

SIZES = "sizes.csv"
"""Area in mm2 or volume in mm3 of every class and image."""
FORMATS: Mapping[str, type[Writer]] = {
    "labelme": LabelMeFiles,
    "dicom_seg": DicomSeg,
    "nerve": NerveCodes,
    "uw_madison": GITractCodes,
    "hc18": HC18Ellipses,
}
"""Formats in which a prediction is written beside its masks: annotations, segmentation objects, submissions."""


@dataclass(frozen=True)
class OutputOptions:
    """What to write besides the masks."""

    probabilities: bool = False
    overlays: bool = False
    overwrite: bool = False
    palette: bool = False
    formats: tuple[str, ...] = ()
    """Names of `FORMATS`."""


@dataclass(frozen=True)
class BatchResult:
    """The outcome of a prediction of many images."""

    written: int
    skipped: int
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()
    """For the readers of the files."""
    of: int = 0
    """Number of images, with those of other parts."""
    merged: bool = True
    """Whether the tables hold all parts."""


def predict_items(
    predictor: Predictor,
    items: Sequence[InputItem],
    output: Path,
    options: OutputOptions,
    begin: Callable[[], object] = lambda: None,
    part: Shard | None = None,
) -> BatchResult:
    """Write masks of all items, or of a part of them, below `output`; masks that exist are skipped. `begin` is called after all
    checks, before anything is written."""
    if options.palette:
        palettes(predictor.labels)  # an error now rather than after the first image
    check_below(items, output)
    target = Target(output, predictor.labels, predictor.config.data.neighbours, outline_of(predictor), part)
    everything, writers = open_writers(options.formats, items, target)
    # slices of one volume belong to one part, since each reads the whole volume
    items = everything if part is None else part.share(everything, lambda item: (item.cases[0].volume if item.cases else "") or item.name)
    table = Table(output, SIZES, SIZE_HEADER, part)
    known = table.known  # an error now, too
    begin()
    tables.begin(output, part, options.overwrite)
    todo = [item for item in items if options.overwrite or item.name not in known or not is_done(item, output, predictor.labels, writers)]
    problems: list[Problem] = []
    try:
        for item in track(todo, f"predicting part {part}" if part else "predicting"):
            try:
                table.add({item.name: predict_one(predictor, item, output, options, writers)})
            except (SegkitError, OSError, ValueError, MemoryError, RuntimeError) as error:  # RuntimeError: torch's, also out of GPU memory
                problems.append(problem_of(item, error, output))
    finally:  # also when interrupted: the masks that exist are skipped next time
        table.write()
        for writer in writers:
            writer.close()
    notes = tuple(problem for writer in writers for problem in writer.problems)
    merged = tables.end(output, part)
    check_written(todo, output, predictor.labels, len(problems))
    return BatchResult(len(todo) - len(problems), len(items) - len(todo), tuple(problems), notes, len(everything), merged)


def check_below(items: Sequence[InputItem], output: Path) -> None:
    """Raise SegkitError where the name of a case leads out of the output folder."""
    for file in (file for item in items for file in (output / item.name, *item.files(output))):
        if ".." in file.parts[len(output.parts) :] or not file.is_relative_to(output):
            raise SegkitError(f"{file} is not below output={output}: the name of this case leads out of it;   rename the case")


def open_writers(names: Iterable[str], items: Sequence[InputItem], target: Target) -> tuple[list[InputItem], list[Writer]]:
    """Return the items as these formats need them, and their writers. SegkitError where one cannot hold an item."""
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in FORMATS:
            raise SegkitError(f"formats={name} is not a valid option; {nearest(name, FORMATS) or 'available: ' + ', '.join(FORMATS)}")
    arranged = by_series(items) if "dicom_seg" in names else list(items)
    writers = [FORMATS[name](target) for name in names]
    for name, writer in zip(names, writers, strict=True):
        if reason := _refusal(writer, arranged):
            possible = [other for other, format_ in FORMATS.items() if not _refusal(format_(target), arranged)]
            fix = f"possible here: {override('formats', possible)}" + ("" if possible else ", masks alone")
            raise SegkitError(f"formats: {name} cannot be written, as {reason};   {fix}")
    return arranged, writers


def _refusal(writer: Writer, items: Sequence[InputItem]) -> str:
    return next((reason for item in items if (reason := writer.refuses(item))), "")


def is_done(item: InputItem, output: Path, labels: LabelMap, writers: Sequence[Writer]) -> bool:
    return all(is_written(part, labels) for part in item.files(output)) and all(writer.is_done(item) for writer in writers)


def problem_of(item: InputItem, error: Exception, output: Path) -> Problem:
    """Why one image could not be predicted. Raises `DiskFull` where none of the others could be written either."""
    if isinstance(error, DiskFull):
        raise error
    if isinstance(error, OSError) and is_full(error, output):
        raise DiskFull(f"disk full while writing to {output};   free some space and run it again") from error
    place = str(item.source)
    return Problem(place, first_line(error).removeprefix(f"{place} ").removeprefix(f"{place}: "))


def check_written(items: Sequence[InputItem], output: Path, labels: LabelMap, n_failed: int) -> None:
    """Raise `SegkitError` where masks are gone again."""
    lost = sum(not is_written(part, labels) for item in items for part in item.files(output)) - n_failed
    if lost > 0:
        raise SegkitError(f"{lost} masks were deleted from {output} while others were predicted;   the same command predicts them again")


def outline_of(predictor: Predictor) -> float:
    """Return by how much the training's metric shrinks ellipses, as a submission should too."""
    nodes = predictor.config.metric.cases.values()
    return max((float(node["outline_px"]) for node in nodes if node and "outline_px" in node), default=0.0)


def predict_one(predictor: Predictor, item: InputItem, output: Path, options: OutputOptions, writers: Sequence[Writer] = ()) -> list[Row]:
    """Predict one item and write its files; return its rows in the table of sizes. The mask comes last: where it exists, all else does."""
    labels, source = predictor.labels, predictor.config.data.source
    orient = source.get("orient", "LPS")
    cases = cases_of(item, predictor.metadata.dims, predictor.config.data.neighbours, orient, predictor.metadata.channels)
    mask, probs, image = predict_whole(predictor, cases, item.is_stack(cases), options)
    if probs is not None:
        names = ("background", *labels.classes) if labels.mode == "multiclass" else labels.classes
        write_probabilities(output / f"{item.name}_probabilities.npz", probs, names)
    if image is not None:
        shown = panel(image, labels.planes(mask))
        write_png(output / f"{item.name}_overlay.png", outline(shown.image, [(shown.pred, PREDICTION)], labels.colors))
    for writer in writers:
        writer.write(item, mask)
    for part, of_part in zip(item.files(output), item.split(mask, labels.overlap), strict=True):
        write_mask(part, of_part, labels, item.like, orient, options.palette)
    spacing = cases[0].spacing_mm[-(mask.ndim - labels.overlap) :]
    return size_rows(item.name, mask, labels, spacing if len(spacing) == mask.ndim - labels.overlap else ())


def predict_whole(
    predictor: Predictor, cases: Sequence[Case], stack: bool, options: OutputOptions
) -> tuple[Array, Array | None, Array | None]:
    """Return mask, probabilities and image of one item; slices are stacked to their volume. What is not written is not kept."""
    masks, probs, images = [], [], []
    for one in predictor.predict_all(cases) if stack else [predictor.predict(cases[0])]:
        masks.append(one.mask)
        probs += [one.probs] if options.probabilities else []
        images += [one.image] if options.overlays else []
    if not stack:
        return masks[0], probs[0] if probs else None, images[0] if images else None
    slices = masks[0].ndim - 2  # the axis before rows and columns
    return np.stack(masks, axis=slices), np.stack(probs, axis=1) if probs else None, np.stack(images) if images else None
