"""A trained checkpoint applied to images: masks on the grid of the image. Knows neither Lightning nor Hydra."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import length_hint
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from segkit.config.schema import Train
from segkit.data.case import Case
from segkit.data.channels import COLOR, GRAY, IS_COLOR, is_picture, with_channels
from segkit.data.io.base import ReadError, as_image, stem
from segkit.data.io.exif import as_stored
from segkit.data.io.images import ImageFile
from segkit.data.io.volumes import VolumeFile
from segkit.data.labels import Array, LabelMap
from segkit.data.transforms.geometry import Step
from segkit.data.transforms.intensity import Intensity
from segkit.data.transforms.preprocess import to_grid
from segkit.inference.batching import Batched, images_at_once, keeps_nothing
from segkit.inference.export import runtime
from segkit.inference.export.runtime import ExportedModel
from segkit.inference.pipeline import FAILURES, Workers, attempt, batches
from segkit.inference.postprocess import Decision, check_finite, restore
from segkit.inference.sliding_window import AT_ONCE, sliding, window_of
from segkit.inference.tta import averaged, views, warn_of_mirrors
from segkit.models.checkpoint import find, load_model
from segkit.models.metadata import Metadata
from segkit.models.probe import flop_per_image
from segkit.models.segmentation import SegmentationModel
from segkit.system.errors import SegkitError, of_file
from segkit.system.hardware import Accelerator, Hardware
from segkit.system.progress import console

M = TypeVar("M", bound=nn.Module)
Image = str | Path | Array | Case
"""A file, an array (H, W) or (H, W, C) (a volume: (D, H, W) or (D, H, W, C)), or a case of a manifest."""
READERS = 2
"""Threads that read and write beside a network that has all cores to itself."""
GPU_READERS = 8
"""The same beside a network on a GPU, which takes a few milliseconds an image, at most."""
STREAMS, STREAM_PIXELS, STREAM_FLOP = 8, 2**18, 1e11
"""Most images that are predicted side by side on a processor, and the most pixels that the network may see of each, and operations that it
may need: two images at a time are predicted 20 % faster at 6e9 operations, and 18 % slower at 2e11 (two cores, bf16)."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image, on the grid of that image; *S is (H, W), or (D, H, W) of a volume.

    Attributes:
        mask: (*S) uint8 class indices, 0 is background; (K, *S) uint8, one plane per class, where classes overlap.
        probs: (C, *S) float32 in [0, 1]. C counts the background where classes exclude each other and there are several.
        image: (*S, C) as read from disk.
        pixel_mm: Size of a pixel along each axis of *S, in millimeters; empty where it is unknown.
        collisions: Pixels that several members of a combination claimed.
    """

    mask: Array
    probs: Array
    image: Array
    pixel_mm: tuple[float, ...] = ()
    collisions: int = 0


@dataclass(frozen=True)
class Ready:
    """An image on its way to the network."""

    image: Array  # (*S, C) as read
    pixels: Array  # (C, *s) on the network's grid
    name: str
    steps: tuple[Step, ...]
    pixel_mm: tuple[float, ...]


@dataclass(frozen=True)
class InMemory:
    """The `Pixels` of an array."""

    array: Array

    @property
    def paths(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> Array:
        """In the type of numbers that the same image has when it is read from a file."""
        return as_image(Path("the image"), self.array).reshape(self.array.shape)


class Predictor(ABC):
    """Predicts masks of images: one checkpoint (`segkit.load`), an ensemble, a combination, or the folds of a cross-validation.

    Images are files, arrays (H, W) or (H, W, C) (volumes (D, H, W) or (D, H, W, C)) in the dtype that the training images had
    on disk, or cases of a manifest. Arrays have no pixel size and belong to no volume: where the training used these, pass a
    `Case`. Volumes are (slices, rows, columns) in LPS, as the training read them (`data.source.orient`): an array must come so, a file
    is turned, and the mask is in that order. `segkit predict` writes masks on the grid of the file.

    Attributes:
        metadata: What the checkpoint knows besides its weights: labels, channels, split, provenance.
        config: The config of the training, with the overridden inference section.
        labels: Classes of the masks.
    """

    metadata: Metadata
    config: Train
    labels: LabelMap

    @property
    def card(self) -> Metadata:
        """An older name of `metadata`."""
        return self.metadata

    def predict(self, image: Image) -> Prediction:
        """Predict one image.

        Raises:
            SegkitError: The image has another number of channels or dimensions than the training images.
        """
        (prediction,) = self.predict_all([image])
        return prediction

    @abstractmethod
    def predict_all(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Predict many images, lazily and in order."""

    def attempts(self, images: Iterable[Image | Exception], n: int | None = None) -> Iterator[Prediction | Exception]:
        """As `predict_all`, with the error in the place of an image that fails. `n`: the number of images, where it is known."""
        return (attempt(self.predict, image) for image in images)  # type: ignore[arg-type]


class CheckpointPredictor(Predictor):
    """The predictor of one checkpoint, on one device."""

    def __init__(
        self,
        model: SegmentationModel | ExportedModel,
        metadata: Metadata,
        config: Train,
        hardware: Hardware,
        allow: Sequence[str] = (),
        inference: Mapping[str, Any] | None = None,
    ) -> None:
        self.metadata, self.hardware = metadata, hardware
        self.config = config.model_copy(update={"inference": config.inference.model_copy(update=dict(inference or {}))})
        self.labels, self._has_converted, self._has_warned = metadata.label_map(), False, False
        self.intensity = Intensity(self.config.preprocess, metadata.intensity_max)
        self.decide = Decision.of(self.config.inference, self.labels, allow)
        self.views = views(self.config.inference.tta, metadata.dims)
        self.model = memory_order(model.eval(), self.config.trainer.channels_last, metadata.dims).to(hardware.device)
        batch_size = self.config.inference.batch_size
        self.at_once = images_at_once(batch_size, hardware.device)
        fills = batch_size == "auto" and self.at_once > 1
        self.windows = self.at_once if fills else AT_ONCE
        self.network = averaged(Batched(self.model, self.at_once) if fills else self.model, self.views, together=fills)

    def predict_all(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Reads ahead; images of equal size on the network's grid share a batch."""
        for result in self.attempts(images):
            if isinstance(result, Exception):
                raise result
            yield result

    def attempts(self, images: Iterable[Image | Exception], n: int | None = None) -> Iterator[Prediction | Exception]:
        """Reading, network, and the way from probabilities to masks side by side in threads; on a processor also several images."""
        n = length_hint(images, STREAMS) if n is None else n
        streams = self.streams(n)
        readers = READERS if self.hardware.device == "cpu" else max(READERS, min(GPU_READERS, self.hardware.threads))
        one_share = partial(torch.set_num_threads, self.hardware.threads // streams)
        try:
            with Workers(max(streams, readers) if n > 1 else 0, one_share, ahead=self.at_once) as workers:
                if streams > 1 and self.at_once == 1:  # each image stays in one thread, and so in the cache of its core
                    yield from workers.map(self.attempt_one, images)  # type: ignore[arg-type]
                    return
                ready = workers.map(self.prepare, images)  # type: ignore[arg-type]
                groups = batches(ready, self.at_once, lambda one: (one.pixels.shape, one.pixels.dtype))
                computed = workers.map(self.compute, groups) if streams > 1 else map(self.compute, groups)
                results = (one for group in computed for one in ([group] if isinstance(group, Exception) else group))
                yield from workers.map(self.finish, results)
        finally:
            torch.set_num_threads(self.hardware.threads)  # also of threads that others start later

    def attempt_one(self, image: Image) -> Prediction | Exception:
        (computed,) = self.compute([self.prepare(image)])
        return computed if isinstance(computed, Exception) else self.finish(computed)

    def streams(self, n: int) -> int:
        """Networks that run side by side, each on its share of the threads.

        Threads that share the layers of one small image spend most of their time waiting for each other.
        """
        size, is_torch = self.config.preprocess.size, not isinstance(self.model, ExportedModel) and keeps_nothing(self.model.network)
        is_small = size is not None and len(size) == 2 and math.prod(size) <= STREAM_PIXELS and window_of(self.config) is None
        most = min(n, self.hardware.threads, STREAMS) if is_torch and is_small and self.hardware.device == "cpu" else 1
        return most if most > 1 and self.flop * self.at_once <= STREAM_FLOP else 1

    @cached_property
    def flop(self) -> float:
        """Floating-point operations of the network on one image of the training's size; infinite where they cannot be counted."""
        size = self.config.preprocess.size
        if size is None or not isinstance(self.model, SegmentationModel):
            return math.inf
        return flop_per_image(self.model, self.metadata.channels, size) or math.inf

    def compute(self, group: Sequence[Ready | Exception]) -> list[tuple[Ready, Array] | Exception]:
        """Each image with its probabilities; one by one where they fail together."""
        ready = [one for one in group if isinstance(one, Ready)]
        if not ready:
            return [one for one in group if isinstance(one, Exception)]
        try:
            return list(zip(ready, self._probabilities(np.stack([one.pixels for one in ready])), strict=True))
        except FAILURES as error:
            if len(ready) == 1:
                return [error]
        if torch.cuda.is_available():  # behind the block: there the error still holds all that the failed batch has allocated
            torch.cuda.empty_cache()
        return [result for one in ready for result in self.compute([one])]

    def finish(self, computed: tuple[Ready, Array]) -> Prediction:
        """From the network's probabilities to the mask on the grid of the image."""
        ready, probs = computed
        check_finite(probs, ready.pixels, ready.name)
        on_grid = restore(probs, ready.steps, self.labels)
        return Prediction(self.decide(on_grid, ready.pixel_mm), on_grid, ready.image, ready.pixel_mm)

    def prepare(self, image: Image) -> Ready:
        """Read an image and bring it to the network's grid."""
        dims = self.metadata.dims
        case = as_case(image, dims, self.config.data.source.get("orient", "LPS"))
        if self.config.data.exif == "stored":
            case = replace(case, image=as_stored(case.image), whole=as_stored(case.whole))
        raw = case.image.read()
        if raw.ndim == dims:
            raw = raw[..., None]
            case = replace(case, image=InMemory(raw))
        if raw.ndim == dims + 1 and raw.shape[-1] != self.metadata.channels:
            case, raw = self._converted(case, raw)
        if raw.ndim != dims + 1 or raw.shape[-1] != self.metadata.channels:
            axes = "rows, columns" if dims == 2 else "slices, rows, columns"
            kind = f"{self.metadata.channels}-channel {'images' if dims == 2 else 'volumes'}"
            where = case.image.paths[0] if case.image.paths else "the image"
            offsets = self.config.data.neighbours
            if offsets != [0] and not case.volume:
                fix = "give a volume, or a data set with  data.root=FOLDER"
                raise SegkitError(f"{where} is a single image, but this checkpoint takes the slices at {offsets} as channels;   {fix}")
            what = f"{where} has shape {raw.shape}, but this checkpoint was trained on {kind} ({axes}, {self.metadata.channels})"
            fix = ";   channels in files of their own are read with  data.root=FOLDER, laid out as for the training"
            raise SegkitError(what + (fix if raw.shape[-1] == 1 else ""))
        self._compare_types(case, raw)
        pixels, steps, found = to_grid(case, raw, self.config.preprocess, self.intensity)
        name = str(case.image.paths[0]) if case.image.paths else case.id
        return Ready(raw, np.moveaxis(self.intensity.normalize(pixels, found), -1, 0), name, steps, case.pixel_mm)

    def _converted(self, case: Case, raw: Array) -> tuple[Case, Array]:
        """The case with gray for color or the other way round, where that is what the checkpoint lacks; which is printed once."""
        typed, stacked = self.config.data.channels, len(self.config.data.neighbours)
        have, wanted = raw.shape[-1] // stacked, self.metadata.channels // stacked
        if {have, wanted} != {GRAY, COLOR} or (wanted == COLOR and typed == "auto" and not is_picture(case)):
            return case, raw
        name = case.image.paths[0].name if case.image.paths else "the image"
        try:
            case = with_channels(case, wanted, luminance=typed == GRAY)
            raw = case.image.read()
        except ReadError as error:
            if error.reason != IS_COLOR:
                raise
            fix = "to read color as gray (its luminance):  data.channels=1"
            raise SegkitError(f"{error.path} is a color image, but this checkpoint takes gray ones;   {fix}") from None
        done = "gray is repeated as red, green and blue" if wanted == COLOR else "color is read as gray, one channel"
        if not self._has_converted:
            self._has_converted = True
            takes = "color" if wanted == COLOR else "gray"
            console.print(f"channels   this checkpoint takes {takes}: {done}, in {name} and all images like it", markup=False)
        return case, raw

    def _compare_types(self, case: Case, raw: Array) -> None:
        """Print, once, where `scale=auto` may bring the numbers of an image to another scale than those of the training images."""
        ours, its = self.metadata.dtypes, str(raw.dtype)
        if self._has_warned or self.config.preprocess.scale != "auto" or not ours or its in ours:
            return
        low, high = float(raw.min()), float(raw.max())
        if (its == "uint8" and ours == ["uint16"]) or (its == "float32" and low >= 0 and high <= 1):
            return  # shares of the whole scale, too
        self._has_warned = True
        span = {"uint8": "0 to 255", "uint16": f"0 to {self.intensity.intensity_max}"}.get(its, "the range of each image")
        name = case.image.paths[0].name if case.image.paths else "the image"
        what = f"{name} holds {its} ({low:g} to {high:g}), of which preprocess.scale=auto maps {span} to 0..1"
        fix = f"the training images hold {' and '.join(ours)}: convert the images alike"
        console.print(f"warning    {what};   {fix}", markup=False)

    @torch.inference_mode()
    def _probabilities(self, stack: Array) -> Array:
        """(B, C, *s) -> (B, n_outputs, *s) float32."""
        device, dtype = self.hardware.device, self.hardware.autocast_dtype
        images = torch.from_numpy(np.ascontiguousarray(stack)).to(device)
        with torch.autocast(device, dtype=dtype or torch.float32, enabled=dtype is not None):
            probs: Array = sliding(self.network, images, window_of(self.config), self.config.inference.overlap, self.windows).cpu().numpy()
        return probs


def as_case(image: object, dims: int = 2, orient: str | None = "LPS") -> Case:
    """The case of an `Image`; the file of a network for volumes is a volume, turned to `orient`. SegkitError for all else."""
    if isinstance(image, Case):
        return image
    if isinstance(image, np.ndarray):
        return Case("image", InMemory(image))
    if not isinstance(image, str | Path):
        kind = type(image).__name__
        raise SegkitError(f"predict takes the name of a file, a NumPy array or a Case, not {kind};   convert it with  numpy.asarray(IMAGE)")
    path = Path(image)
    if dims == 3:
        volume = VolumeFile(path, orient)
        return Case(stem(path), volume, spacing_mm=volume.spacing_mm, dims=3)
    return Case(path.stem, ImageFile(path))


def memory_order(model: M, channels_last: bool, dims: int) -> M:
    """Channels last, where it is asked for: the memory order in which convolutions are fastest."""
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    return model.to(memory_format=last) if channels_last else model


def load(
    ckpt: str | Path,
    accelerator: Accelerator = "auto",
    precision: str | None = None,
    threads: str | int = "auto",
    allow: Sequence[str] = (),
    inference: Mapping[str, Any] | None = None,
    channels: Literal["auto", 1, 3] | None = None,
) -> CheckpointPredictor:
    """Load a checkpoint for prediction.

    Args:
        ckpt: A checkpoint file, a run folder (its best.ckpt), a shared folder, `hf://OWNER/NAME` on the Hugging Face hub, or a file
            that `segkit export` wrote.
        accelerator: "auto", "cpu", "gpu" or "mps"; exported files run on the processor.
        precision: "auto", "32", "bf16" or "16"; None: that of the training, where this machine has it. Exported files have their own.
        threads: Processor threads of torch, or "auto".
        allow: Packages whose classes the checkpoint may name besides segkit's own and those it trusts.
        inference: Keys of the inference section that replace the checkpoint's, such as `{"tta": "flips"}`.
        channels: Replaces `data.channels` of the training: 1 lets a checkpoint for gray images read color as its luminance.

    Raises:
        SegkitError: There is no such checkpoint, it is damaged, or it was written by another program.
    """
    path = find(ckpt)
    model, metadata, config = runtime.load(path, allow, threads) if runtime.is_exported(path) else load_model(path, allow)
    if not config.data.source:
        what = f"{path} was trained on batches of {config.data.target}, whose preprocessing of files segkit does not know"
        raise SegkitError(f"{what};   use it in Python:  segkit.SegmentationModule.load_from_checkpoint({str(path)!r})")
    if channels is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"channels": channels})})
    chosen = runtime.hardware(path, accelerator, precision) if runtime.is_exported(path) else (accelerator, precision)
    hardware = Hardware.choose(*chosen, threads)
    if precision is None and metadata.precision == "32":
        hardware = replace(hardware, precision="32")
    torch.set_num_threads(hardware.threads)
    try:
        predictor = CheckpointPredictor(model, metadata, config, hardware, allow, inference)
        warn_of_mirrors(predictor.config.inference.tta, predictor.labels.classes)
        return predictor
    except SegkitError as error:
        raise of_file(path, "cannot be used", error) from error
