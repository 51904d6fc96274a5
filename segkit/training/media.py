"""How each logger takes what the `Logger` interface of Lightning has no method for: images, text, histograms, curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lightning.pytorch.loggers import Logger

from segkit.data.labels import Array
from segkit.metrics.calibration import BINS, Counts

IMAGES: dict[str, Callable[[Any, str, Array, int], Any]] = {
    "TensorBoardLogger": lambda logger, name, image, step: logger.experiment.add_image(name, image, step, dataformats="HWC"),
    "WandbLogger": lambda logger, name, image, step: logger.log_image(name, [image], step),
    "MLFlowLogger": lambda logger, name, image, step: logger.experiment.log_image(logger.run_id, image, key=name, step=step),
    "CometLogger": lambda logger, name, image, step: logger.experiment.log_image(image, name=name, step=step),
    "CSVLogger": lambda logger, name, image, step: write_png(Path(logger.log_dir) / name / f"{step:06d}.png", image),
}
TEXTS: dict[str, Callable[[Any, str, str], Any]] = {
    "TensorBoardLogger": lambda logger, name, text: logger.experiment.add_text(name, indented(text), 0),
    "MLFlowLogger": lambda logger, name, text: logger.experiment.log_text(logger.run_id, text, f"{name}.txt"),
    "CometLogger": lambda logger, name, text: logger.experiment.log_text(text, step=0, metadata={"name": name}),
}
HISTOGRAMS: dict[str, Callable[[Any, str, Sequence[float], int], Any]] = {
    "TensorBoardLogger": lambda logger, name, values, step: logger.experiment.add_histogram(name, np.array(values), step),
    "WandbLogger": lambda logger, name, values, step: logger.log_metrics({name: import_module("wandb").Histogram(values)}, step),
    "CometLogger": lambda logger, name, values, step: logger.experiment.log_histogram_3d(values, name=name, step=step),
}


def kind_of(logger: Logger, table: Mapping[str, Any]) -> str:
    """The name in `table` of the logger's class, or of one that it is derived from; empty where there is none."""
    return next((cls.__name__ for cls in type(logger).__mro__ if cls.__name__ in table), "")


def log_image(logger: Logger, name: str, image: Array, step: int) -> None:
    """Log an image (rows, columns, 3) of 8 bits; a logger of another kind takes it by `log_image(key, images, step)`, or not at all."""
    with suppress(OSError):  # a full disk is reported with the checkpoint that does not fit on it
        if kind := kind_of(logger, IMAGES):
            IMAGES[kind](logger, name, image, step)
        elif hasattr(logger, "log_image"):
            logger.log_image(key=name, images=[image], step=step)


def log_text(logger: Logger, name: str, text: str) -> None:
    """Log lines of text, which are kept as they are, to a logger that takes some."""
    with suppress(OSError):
        if kind := kind_of(logger, TEXTS):
            TEXTS[kind](logger, name, text)


def log_histogram(logger: Logger, name: str, values: Sequence[float], step: int) -> None:
    """Log the spread of some values to a logger that draws it."""
    with suppress(OSError):
        if values and (kind := kind_of(logger, HISTOGRAMS)):
            HISTOGRAMS[kind](logger, name, values, step)


def log_precision_recall(logger: Logger, name: str, counts: Counts, step: int) -> None:
    """Log a curve for TensorBoard's tab PR CURVES, over `BINS` thresholds; others get it as a picture."""
    if not kind_of(logger, {"TensorBoardLogger": None}):
        return
    (hits, false), (precision, recall) = counts.at_least(), counts.precision_recall()
    missed, rest = counts.positive.sum() - hits, (counts.n - counts.positive).sum() - false
    with suppress(OSError):
        logger.experiment.add_pr_curve_raw(name, hits, false, rest, missed, precision, recall, step, BINS)  # type: ignore[attr-defined]


def indented(text: str) -> str:
    """Lines as Markdown's code."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def write_png(path: Path, image: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])
