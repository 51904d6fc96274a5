"""A checkpoint is exported: written, opened again, compared with torch, and kept only if it computes the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from torch import Tensor, nn

from segkit.data.case import encoded_mask
from segkit.data.labels import Array
from segkit.inference.export import card, formats, parity, precisions
from segkit.inference.export.card import Exported, FilePrecision, Format
from segkit.inference.export.formats import Traced
from segkit.inference.export.graph import ExportGraph, Shapes
from segkit.inference.export.parity import Different, Parity, images_per_second
from segkit.inference.export.runtime import CONSENT, ExportedModel, OpenVino, load, start
from segkit.inference.export.samples import Samples
from segkit.inference.predictor import CheckpointPredictor
from segkit.metrics import Overlap
from segkit.metrics.table import evaluate_case
from segkit.models.segmentation import SegmentationModel
from segkit.system.errors import SegkitError, first_line
from segkit.system.files import flush_to_disk
from segkit.system.hardware import Hardware

ANY = Shapes(None, None)


@dataclass(frozen=True)
class Export:
    """One export: what of, how, and where to. `predictor` computes in float32, on the processor."""

    predictor: CheckpointPredictor
    samples: Samples
    fmt: Format
    precision: FilePrecision
    folder: Path
    checkpoint_sha256: str
    allow: Sequence[str] = ()

    @property
    def name(self) -> str:
        return f"model{'' if self.precision == 'fp32' else f'_{self.precision}'}{formats.SUFFIXES[self.fmt]}"

    @property
    def model(self) -> SegmentationModel:
        assert isinstance(self.predictor.model, SegmentationModel)
        return self.predictor.model

    @property
    def graph(self) -> ExportGraph:
        predictor = self.predictor
        return ExportGraph(self.model, predictor.metadata.channels, predictor.labels, predictor.config.inference.threshold)

    @property
    def size(self) -> tuple[int, ...]:
        """Of a file that takes one size: of the window, or of the first image."""
        return self.samples.images[0].shape[1:]

    def shapes(self, graph: ExportGraph) -> list[Shapes]:
        """What the file may take, the most useful first."""
        return [*([ANY] if graph.takes_any_size else []), Shapes(None, self.size), Shapes(1, self.size)]


@dataclass(frozen=True)
class Written:
    """A file that was kept, and what is known of it."""

    path: Path
    about: Exported
    parity: Parity
    speeds: dict[str, float]
    """Images a second, of the first image's size, by what computes them."""
    dice: tuple[float, float] | None = None
    """Against the ground truth: torch's, and the file's, where the precision is reduced and there are masks."""


def export(task: Export) -> Written:
    """Write the file and its card; on any failure, neither is left behind.

    Raises:
        Different: the file, in float32, does not compute what torch does.
        SegkitError: the format cannot hold this network, or one of its packages is missing.
    """
    formats.check(task.fmt, task.precision)
    graph = task.graph
    with staging(task.folder) as folder:
        path = folder / task.name
        file, about, found = write_and_open(task, graph, path)
        about = about.model_copy(update={"parity": {"largest": found.largest, "equal": found.equal, "dice": found.dice, "n": found.n}})
        card.write(path, task.predictor.metadata, about)
        written = Written(task.folder / task.name, about, found, speeds(task, file, path), dice_of_both(task, file))
        for part in (*card.weights_of(path), card.card_of(path)):
            flush_to_disk(part)
            part.replace(task.folder / part.name)
    return written


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` for files that may fail. What was made for it is removed."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    inside = Path(mkdtemp(prefix=".export-", dir=folder))
    try:
        yield inside
    finally:
        shutil.rmtree(inside, ignore_errors=True)
        with suppress(OSError):
            if is_new:
                folder.rmdir()  # empty only where nothing was kept


def write_and_open(task: Export, graph: ExportGraph, path: Path) -> tuple[ExportedModel, Exported, Parity]:
    """Write the file for any size, or where the network does not allow that for one; open it as a user would, and compare it."""
    reason = ""
    for shapes in task.shapes(graph):
        try:
            about = written_for(task, Traced(graph, shapes), path)
            card.write(path, task.predictor.metadata, about)
            file, *_ = load(path, (*task.allow, CONSENT), task.predictor.hardware.threads)
            return file, about, checked(task, file)
        except (formats.NoOperator, Different, MemoryError, OSError):
            raise
        except Exception as error:  # exporters raise whatever a network does to them
            reason = reason or first_line(error)
    other = "torchscript" if task.fmt != "torchscript" else "pt2"
    raise SegkitError(f"format={task.fmt} cannot hold this network: {reason[:300]};   try  format={other}")


def written_for(task: Export, traced: Traced, path: Path) -> Exported:
    """Write the file; return what its card says."""
    if task.precision == "fp32":
        formats.write(traced, task.fmt, path)
    else:
        write = precisions.write_onnx_as if task.fmt == "onnx" else precisions.write_openvino_as
        write(traced, task.precision, [image[None] for image in images_for(task, traced.shapes.size)], path)
    names = ("torch", *formats.PACKAGES[task.fmt])
    fields = card.describe(task.predictor.metadata, task.fmt, task.precision, traced.shapes.size, traced.shapes.batch)
    return Exported(**fields, checkpoint_sha256=task.checkpoint_sha256, versions={name: version(name) for name in names})


def images_for(task: Export, size: tuple[int, ...] | None) -> list[Array]:
    """The samples that a file of one size takes; None: all."""
    return [image for image in task.samples.images if size in (None, image.shape[1:])]


def compare(task: Export, file: ExportedModel, images: Sequence[Tensor]) -> Parity:
    predictor = task.predictor
    return parity.compare(task.model, file, images, predictor.labels, predictor.config.inference.threshold)


def checked(task: Export, file: ExportedModel) -> Parity:
    """Compare a file with torch. In float32, raise `Different` where it computes something else, and SegkitError where it does so for
    images of another size or number than it was traced for."""
    found = compare(task, file, [torch.from_numpy(image[None]) for image in images_for(task, file.size)])
    if task.precision == "fp32":
        found.check(task.name)
        image = torch.from_numpy(task.samples.images[0][None])
        for axis, n in enumerate(image.shape[2:] if file.size is None else (), start=2):
            image = image.narrow(axis, 0, n - n // 5)
        if not compare(task, file, [image if file.batch else torch.cat([image, image.flip(-1), image])]).is_close:
            raise SegkitError("it is wrong for images of other sizes than it was traced for")
    return found


def speeds(task: Export, file: ExportedModel, path: Path) -> dict[str, float]:
    """Images a second: of torch in float32 and in bf16 where prediction uses that here, of the file, and of OpenVINO with the same ONNX."""
    image, predictor = torch.from_numpy(task.samples.images[0][None]), task.predictor
    networks: dict[str, Callable[[Tensor], object]] = {"torch fp32": task.model}
    if Hardware.choose("cpu", None, "auto").precision == "bf16":
        networks["torch bf16"] = in_bf16(task.model)
    networks[task.fmt] = file
    if task.fmt == "onnx" and find_spec("openvino") is not None:
        with suppress(SegkitError):  # an operator that it does not know
            networks["openvino"] = ExportedModel(start(OpenVino, path, predictor.hardware.threads), file.about)
    return {name: images_per_second(network, image) for name, network in networks.items()}


def in_bf16(model: nn.Module) -> Callable[[Tensor], object]:
    def network(image: Tensor) -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return model(image)

    return network


def dice_of_both(task: Export, file: ExportedModel) -> tuple[float, float] | None:
    """Mean Dice against the ground truth, of torch and of the file; None in float32, and without masks."""
    if task.precision == "fp32" or not task.samples.cases:
        return None
    ours = task.predictor
    theirs = CheckpointPredictor(file, ours.metadata, ours.config, ours.hardware, task.allow)
    return mean_dice(ours, task.samples), mean_dice(theirs, task.samples)


def mean_dice(predictor: CheckpointPredictor, samples: Samples) -> float:
    """Over cases and the classes that they show."""
    labels, values = samples.labels, []
    assert labels is not None
    for case, prediction in zip(samples.cases, predictor.predict_all(samples.cases), strict=True):
        rows = evaluate_case(prediction.mask, encoded_mask(case, labels), labels, case, {"overlap": Overlap()})
        values += [row.values["dice"] for row in rows if row.n_truth_px]
    return float(np.mean(values)) if values else 1.0
