"""Predict many images and write the results; an image that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby, tee
from pathlib import Path

import numpy as np

from segkit.data.case import Case
from segkit.data.labels import Array, LabelMap
from segkit.data.overlays import PREDICTION, outline, panel
from segkit.inference.inputs import InputItem, cases_of
from segkit.inference.pipeline import FAILURES, Workers
from segkit.inference.predictor import Prediction, Predictor
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
from segkit.system.hardware import keep_freed_memory
from segkit.system.progress import track
from segkit.system.shell import override

SIZES = "sizes.csv"
"""Area in mm2 or volume in mm3 of every class and image."""
WRITERS = 2
"""Threads that write masks, which mostly wait for the disk."""
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
    keep_freed_memory(of_images=True)
    tables.begin(output, part, options.overwrite)
    todo = [item for item in items if options.overwrite or item.name not in known or not is_done(item, predictor, output, options, writers)]
    problems: list[Problem] = []
    with (
        closing_tables(table, writers),  # also when interrupted: the masks that exist are skipped next time
        closing(predict_and_write(predictor, todo, output, options, writers)) as written,
    ):
        for item, rows in track(zip(todo, written, strict=True), f"predicting part {part}" if part else "predicting", len(todo)):
            if isinstance(rows, Exception):
                problems.append(problem_of(item, rows, output))
            else:
                table.add({item.name: rows})
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


def is_done(item: InputItem, predictor: Predictor, output: Path, options: OutputOptions, writers: Sequence[Writer]) -> bool:
    """Whether an earlier prediction wrote all that is asked for."""
    has_extras = all(path.is_file() for path, wanted in extras_of(item, output, options) if wanted)
    has_masks = all(is_written(part, predictor.labels) for part in item.files(output))
    return has_extras and has_masks and all(writer.is_done(item) for writer in writers)


def extras_of(item: InputItem, output: Path, options: OutputOptions) -> tuple[tuple[Path, bool], tuple[Path, bool]]:
    """The files of probabilities and of the overlay, and whether each is wanted."""
    return (output / f"{item.name}_probabilities.npz", options.probabilities), (output / f"{item.name}_overlay.png", options.overlays)


def problem_of(item: InputItem, error: Exception, output: Path) -> Problem:
    """Why one image could not be predicted. Raises `DiskFull` where none of the others could be written either."""
    if isinstance(error, DiskFull):
        raise error
    if isinstance(error, OSError) and is_full(error, output):
        raise DiskFull(f"disk full while writing {item.files(output)[0]}; nothing was kept;   free some space and run it again") from error
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


# --- from items to files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """One input of the network, or why there is none: an image, or a slice of the volume that an item is."""

    item: InputItem
    case: Case | Exception
    stack: bool = False


@dataclass(frozen=True)
class Whole:
    """The prediction of one item; slices are stacked to their volume. What is not written is not kept."""

    item: InputItem
    mask: Array
    probs: Array | None
    image: Array | None
    spacing_mm: tuple[float, ...]


def predict_and_write(
    predictor: Predictor, items: Sequence[InputItem], output: Path, options: OutputOptions, writers: Sequence[Writer] = ()
) -> Generator[list[Row] | Exception]:
    """Predict all items and write their files; yield the rows of each in the table of sizes, in the order of the items.

    Formats beside the masks are written one after another, since their tables belong to all images.
    """
    failed: set[str] = set()
    left, right = tee(pieces(predictor, items, failed))
    n = 1 if len(items) == 1 and items[0].like is None and len(items[0].cases) == 1 else None
    with Workers(0 if writers or n else WRITERS) as workers:
        results = zip(left, predictor.attempts((piece.case for piece in right), n), strict=True)
        found = (whole(of_one, options, failed) for _, of_one in groupby(results, key=lambda pair: pair[0].item.name))
        yield from workers.map(lambda one: write_whole(predictor, one, output, options, writers), found)


def pieces(predictor: Predictor, items: Iterable[InputItem], failed: Collection[str]) -> Iterator[Piece]:
    """The inputs of all items; no further slices of an item that has failed."""
    config, metadata = predictor.config.data, predictor.metadata
    for item in items:
        try:
            cases = cases_of(item, metadata.dims, config.neighbours, config.source.get("orient", "LPS"), metadata.channels)
        except FAILURES as error:
            yield Piece(item, error)
            continue
        stack = item.is_stack(cases)
        for case in cases if stack else cases[:1]:
            if item.name not in failed:
                yield Piece(item, case, stack)


def whole(found: Iterable[tuple[Piece, Prediction | Exception]], options: OutputOptions, failed: set[str]) -> Whole | Exception:
    """Put the pieces of one item together; the first failure, where there is one."""
    masks, probs, images, used, error = [], [], [], [], None
    for piece, result in found:
        used.append(piece)
        if isinstance(result, Exception):
            error = error or result
            failed.add(piece.item.name)
            continue
        masks.append(result.mask)
        probs += [result.probs] if options.probabilities else []
        images += [result.image] if options.overlays else []
    if error is not None:
        return error
    first = used[0]
    spacing = first.case.spacing_mm if isinstance(first.case, Case) else ()
    if not first.stack:
        return Whole(first.item, masks[0], probs[0] if probs else None, images[0] if images else None, spacing)
    slices = masks[0].ndim - 2  # the axis before rows and columns
    joined = np.stack(probs, axis=1) if probs else None
    return Whole(first.item, np.stack(masks, axis=slices), joined, np.stack(images) if images else None, spacing)


def write_whole(predictor: Predictor, one: Whole, output: Path, options: OutputOptions, writers: Sequence[Writer]) -> list[Row]:
    """Write the files of an item; return its rows in the table of sizes. The mask comes last: where it exists, all else does."""
    labels, item, mask, orient = predictor.labels, one.item, one.mask, predictor.config.data.source.get("orient", "LPS")
    (probabilities, _), (overlay, _) = extras = extras_of(item, output, options)
    for path, wanted in extras:
        if not wanted and options.overwrite:
            path.unlink(missing_ok=True)  # of the mask that was there
    if one.probs is not None:
        names = ("background", *labels.classes) if labels.mode == "multiclass" else labels.classes
        write_probabilities(probabilities, one.probs, names, item.like, orient)
    if one.image is not None:
        shown = panel(one.image, labels.planes(mask))
        write_png(overlay, outline(shown.image, [(shown.pred, PREDICTION)], labels.colors))
    for writer in writers:
        writer.write(item, mask)
    for part, of_part in zip(item.files(output), item.split(mask, labels.overlap), strict=True):
        write_mask(part, of_part, labels, item.like, orient, options.palette)
    spacing = one.spacing_mm[-(mask.ndim - labels.overlap) :]
    return size_rows(item.name, mask, labels, spacing if len(spacing) == mask.ndim - labels.overlap else ())


@contextmanager
def closing_tables(table: Table, writers: Sequence[Writer]) -> Iterator[None]:
    """Write the tables at the end of the block, however it ends. A full disk is reported by the first file that failed, not by a table."""
    try:
        yield
    except DiskFull:
        with suppress(SegkitError, OSError):
            close_tables(table, writers)
        raise
    except BaseException:
        close_tables(table, writers)
        raise
    close_tables(table, writers)


def close_tables(table: Table, writers: Sequence[Writer]) -> None:
    table.write()
    for writer in writers:
        writer.close()
