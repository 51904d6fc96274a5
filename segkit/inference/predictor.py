"""A checkpoint at work: images in, masks on their own grid out. Knows neither Lightning nor Hydra."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from segkit.checkpoint import Card, load_model
from segkit.data import geometry
from segkit.data.geometry import Step
from segkit.data.intensity import unit_scale
from segkit.data.manifest import Pixels
from segkit.data.readers import read_image
from segkit.errors import SegkitError
from segkit.hardware import Accelerator, Hardware
from segkit.inference.decide import decide, restore
from segkit.models.wrapper import SegmentationModel

Array = npt.NDArray[Any]
T = TypeVar("T")
R = TypeVar("R")
Image = str | Path | Array | Pixels
"""A file, an array (H, W) or (H, W, C), or the recipe of a manifest's case."""
READ_AHEAD = 4


@dataclass(frozen=True)
class Prediction:
    """On the grid of the input image."""

    mask: Array  # (H, W) uint8 class indices, or (K, H, W) planes where classes overlap
    probs: Array  # (C, H, W) float32
    image: Array  # (H, W, C) as read


class Predictor:
    """What `segkit.load` returns.

    `predict` takes a path or an array (H, W) or (H, W, C) in the dtype that the training images had on disk.
    """

    def __init__(self, model: SegmentationModel, card: Card, hardware: Hardware, allow: Sequence[str] = ()) -> None:
        self.card, self.hardware = card, hardware
        self.config = card.train_config(allow)
        self.labels = card.label_map()
        layout = torch.channels_last if self.config.trainer.channels_last else torch.contiguous_format
        self.model = model.eval().to(hardware.device, memory_format=layout)  # type: ignore[call-overload]

    def predict(self, image: Image) -> Prediction:
        (prediction,) = self.predict_all([image])
        return prediction

    def predict_all(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Lazily, in order, reading ahead; images of equal size on the network's grid share a batch."""
        ready = ahead(self._prepare, images)
        for group in batches(ready, self.config.inference.batch_size):
            stack = np.stack([pixels for _, pixels, _ in group])
            for (image, _, steps), probs in zip(group, self._probabilities(stack), strict=True):
                on_grid = restore(probs, steps, self.labels)
                yield Prediction(decide(on_grid, self.labels, self.config.inference.threshold), on_grid, image)

    def _prepare(self, image: Image) -> tuple[Array, Array, tuple[Step, ...]]:
        """The image as read (H, W, C), on the network's grid (C, h, w), and the way between."""
        where, pixels = pixels_of(image)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3 or pixels.shape[2] != self.card.channels:
            raise SegkitError(
                f"{where} has shape {pixels.shape}, but this checkpoint was trained on {self.card.channels}-channel images "
                f"(rows, columns, {self.card.channels})"
            )
        steps = geometry.plan(self.config.preprocess, (pixels.shape[0], pixels.shape[1]))
        on_grid = unit_scale(geometry.apply(steps, pixels), self.card.top).transpose(2, 0, 1)
        return pixels, on_grid, steps

    @torch.inference_mode()
    def _probabilities(self, stack: Array) -> Array:
        """(B, C, h, w) -> (B, n_outputs, h, w) float32."""
        device, dtype = self.hardware.device, self.hardware.autocast_dtype
        images = torch.from_numpy(np.ascontiguousarray(stack)).to(device)
        with torch.autocast(device, dtype=dtype or torch.float32, enabled=dtype is not None):
            probs: Array = self.model(images).cpu().numpy()
        return probs


def pixels_of(image: Image) -> tuple[str, Array]:
    """What to call it in an error, and its array."""
    if isinstance(image, np.ndarray):
        return "the image", image
    if isinstance(image, str | Path):
        return str(image), read_image(Path(image))
    return str(image.paths[0]), image.read()


def load(
    ckpt: str | Path,
    accelerator: Accelerator = "auto",
    precision: str | None = None,
    threads: str | int = "auto",
    allow: Sequence[str] = (),
) -> Predictor:
    """The predictor of a checkpoint or run folder. `precision` None: what the training used, where this machine has it."""
    model, card = load_model(ckpt, allow)
    hardware = Hardware.choose(accelerator, precision, threads)
    if precision is None and card.precision == "32":
        hardware = replace(hardware, precision="32")
    torch.set_num_threads(hardware.threads)
    return Predictor(model, card, hardware, allow)


def ahead(function: Any, items: Iterable[T]) -> Iterator[Any]:
    """`map`, computed a few items ahead in threads: decoding releases the GIL. Memory stays bounded."""
    iterator = iter(items)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(function, item) for item in islice(iterator, READ_AHEAD)]
        while waiting:
            result = waiting.pop(0).result()
            waiting += [pool.submit(function, item) for item in islice(iterator, 1)]
            yield result


def batches(ready: Iterable[tuple[Array, Array, tuple[Step, ...]]], size: int) -> Iterator[list[tuple[Array, Array, tuple[Step, ...]]]]:
    """Consecutive images whose network grids have one shape and dtype, at most `size` together."""
    group: list[tuple[Array, Array, tuple[Step, ...]]] = []
    for item in ready:
        alike = not group or (group[0][1].shape, group[0][1].dtype) == (item[1].shape, item[1].dtype)
        if group and (len(group) == size or not alike):
            yield group
            group = []
        group.append(item)
    if group:
        yield group
