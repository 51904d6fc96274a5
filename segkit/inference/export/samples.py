"""Images on which an exported file is compared with its checkpoint: validation cases, a folder, or noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from segkit.config.commands import DataOverride
from segkit.data.case import Case
from segkit.data.labels import Array, LabelMap
from segkit.inference.evaluation import validation_cases
from segkit.inference.examples import evenly
from segkit.inference.inputs import cases_of, of_files
from segkit.inference.predictor import CheckpointPredictor
from segkit.inference.sliding_window import window_of
from segkit.models.sizes import box
from segkit.system.errors import SegkitError, first_line

NOISE_SIDE = {2: 256, 3: 32}
"""Pixels of noise along each axis, where the checkpoint names no size."""


@dataclass(frozen=True)
class Samples:
    """Images (C, *S) float32 in unit scale, as the network gets them; what they are; and their cases where these have masks."""

    images: tuple[Array, ...]
    what: str
    cases: tuple[Case, ...] = ()
    labels: LabelMap | None = None
    """Of the masks."""


def find(predictor: CheckpointPredictor, data: DataOverride, allow: Sequence[str], source: str | None, output: Path, n: int) -> Samples:
    """At most `n` images: of `source`, else validation cases of the checkpoint, else noise.

    Raises:
        SegkitError: `source` or `data` is given, and holds no images for this checkpoint.
    """
    if source is not None:
        cases = evenly(list(chain.from_iterable(cases_in(predictor, source, output))), n)
        return Samples(on_grid(predictor, cases), f"images of {source}")
    try:
        found, labels = validation_cases(predictor.metadata, predictor.config, data, allow)
        if not found:
            raise SegkitError("the checkpoint names no validation cases")
        chosen = tuple(evenly(found, n))
        return Samples(on_grid(predictor, chosen), "validation images", chosen, labels)
    except SegkitError as error:
        if data.model_fields_set:
            raise
        reason = first_line(error).rstrip(";. ")
    what = f"images of noise, for the validation images are not here ({reason}); name images with  input=FOLDER"
    return Samples(noise(predictor, n), what)


def cases_in(predictor: CheckpointPredictor, source: str, output: Path) -> list[Sequence[Case]]:
    metadata, data = predictor.metadata, predictor.config.data
    orient = data.source.get("orient", "LPS")
    return [cases_of(item, metadata.dims, data.neighbours, orient, metadata.channels) for item in of_files(source, output)]


def on_grid(predictor: CheckpointPredictor, cases: Sequence[Case]) -> tuple[Array, ...]:
    """Each case as the network gets it: of one that is predicted by windows, the window in its middle."""
    window, found = window_of(predictor.config), []
    for case in cases:
        pixels = predictor.prepare(case).pixels
        pixels = pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels.astype(np.float32)
        if window is not None:
            size = [min(n, w) for n, w in zip(pixels.shape[1:], window, strict=True)]
            pixels = pixels[box([(n - w) // 2 for n, w in zip(pixels.shape[1:], size, strict=True)], size)]
        found.append(np.ascontiguousarray(pixels))
    return tuple(found)


def noise(predictor: CheckpointPredictor, n: int) -> tuple[Array, ...]:
    metadata, config = predictor.metadata, predictor.config
    size = window_of(config) or config.preprocess.size or (NOISE_SIDE[metadata.dims],) * metadata.dims
    return tuple(np.random.default_rng(0).random((n, metadata.channels, *size), np.float32))
