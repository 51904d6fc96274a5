"""Memory: the largest batch that fits on a GPU (`data.batch_size=auto`), and what to make smaller where a step does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import lightning as L
import torch

from segkit.config.schema import BATCH_SIZE, Train
from segkit.data.audit.audit import Prepared
from segkit.data.transforms.intensity import IntensityStatistics
from segkit.inference.predictor import memory_order
from segkit.inference.sliding_window import window_of
from segkit.models.recompute import KEY
from segkit.system.errors import CHOOSE, SegkitError, is_out_of_memory
from segkit.system.hardware import Hardware, numbers_of
from segkit.system.progress import console
from segkit.system.shell import override
from segkit.training.building import build_parts, make_metadata
from segkit.training.module import SegmentationModule
from segkit.training.own import build_module

AUTO = "data.batch_size=auto"
MARGIN = 0.9
"""Share of the GPU's free memory that a trial may take: memory is cut up in a long training, and averaged weights need some, too."""


def with_batch_size(cfg: Train, n: int) -> Train:
    return cfg.model_copy(update={"data": cfg.data.model_copy(update={"batch_size": n})})


def found_batch_size(cfg: Train, prepared: Prepared, seen: IntensityStatistics, hardware: Hardware) -> Train:
    """The config with a number in place of `data.batch_size=auto`: the most images of which a training step fits on the GPU.

    Not Lightning's BatchSizeFinder: that trains by `trainer.fit` before the training does, from a run folder that then holds another
    number, takes all memory there is, and only powers of two or odd numbers.

    Raises:
        SegkitError: not even one image fits, or the LightningModule is not segkit's.
    """
    if cfg.data.batch_size != "auto":
        return cfg
    if hardware.device != "cuda":
        console.print(f"note       {AUTO} needs a GPU, whose memory it fills: {BATCH_SIZE} images a step, as by default", markup=False)
        return with_batch_size(cfg, BATCH_SIZE)
    most = len(prepared.split.train) * cfg.sampling.patches_per_image // hardware.world
    if numbers := numbers_of(cfg.trainer.devices):
        torch.cuda.set_device(numbers[0])  # the one that will train, as Lightning does later
    with memory_limit(MARGIN) as gb:
        n = largest_batch(Trials(with_batch_size(cfg, 1), prepared, seen, hardware).fits, max(1, most))
    if not n:
        size = " x ".join(map(str, cfg.sampling.patch or cfg.preprocess.size or ()))
        fix = f"choose a smaller  sampling.patch, preprocess.size or model.widths,  or add  {KEY}=true"
        raise SegkitError(f"{AUTO}: a training step on one image of {size} needs more than {gb:.1f} GB of the GPU;   {fix}")
    why = "all there are" if n >= most - most % 2 else f"the most that fit into {gb:.1f} GB ({MARGIN:.0%} of what is free)"
    console.print(f"batch      {n} images a step, {why}; learn at a rate for so many: optimizer.lr={cfg.optimizer.get('lr')}", markup=False)
    return with_batch_size(cfg, n)


def largest_batch(fits: Callable[[int], bool], most: int) -> int:
    """The largest batch that fits: doubled until one does not, then narrowed down to an eighth. Even above 1; 0: none fits.

    Args:
        fits: whether a batch of so many images does.
        most: images there are.
    """
    most -= most % 2 and most > 1
    good, n = 0, min(2, most)
    while fits(n):
        good, n = n, min(2 * n, most)
        if good == most:
            return good
    if not good:
        return int(n > 1 and fits(1))
    step = max(2, good // 8)
    while (middle := good + (n - good) // 2 // step * step) > good:
        good, n = (middle, n) if fits(middle) else (good, middle)
    return good


class Trials:
    """Training steps on noise: forward, backward and the optimizer, of a network that nobody keeps."""

    def __init__(self, cfg: Train, prepared: Prepared, seen: IntensityStatistics, hardware: Hardware) -> None:
        metadata = make_metadata(cfg, prepared, seen, hardware.precision)
        module = build_module(cfg, build_parts(cfg, metadata, is_new=False))
        if not isinstance(module, SegmentationModule):
            raise SegkitError(f"{AUTO} tries steps of segkit's own LightningModule;   type a number:  data.batch_size=N")
        memory_order(module.model, cfg.trainer.channels_last, metadata.dims)
        self.device, self.dtype = hardware.device, hardware.autocast_dtype
        self.module = module.to(self.device).train()
        self.optimizer = module.build_optimizer()
        size = cfg.sampling.patch or cfg.preprocess.size or ()
        self.shape = (metadata.channels, *size)
        self.mask = (*([len(module.labels.classes)] if module.labels.overlap else []), *size)

    def fits(self, n: int) -> bool:
        """Whether a step on `n` images stays within memory. An error of another kind is raised."""
        try:
            self.step(n)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            does_fit = False
        else:
            does_fit = True
        self.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return does_fit

    def step(self, n: int) -> None:
        image = torch.rand(n, *self.shape, device=self.device)
        mask = torch.zeros(n, *self.mask, dtype=torch.uint8, device=self.device)
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            loss = self.module.loss(*self.module.model.supervised(image, mask))["loss"]
        loss.backward()
        self.optimizer.step()


@contextmanager
def memory_limit(share: float) -> Iterator[float]:
    """Inside, this process gets no more than a share of the GPU's free memory; yields it in GB."""
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(share * free / total)
    try:
        yield share * free / 1e9
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


class MemoryAdvice(L.Callback):
    """Notes on an error of too little memory where it happened, and what to type."""

    def __init__(self, cfg: Train) -> None:
        self.cfg = cfg

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Exception) and is_out_of_memory(exception):
            in_training = not (trainer.validating or trainer.sanity_checking or trainer.testing)
            exception.add_note(training_advice(self.cfg) if in_training else validation_advice(self.cfg, trainer.testing))


def training_advice(cfg: Train) -> str:
    n = cfg.data.images_per_step
    ways = [*([override("data.batch_size", n // 2)] if n > 1 else []), "a smaller  sampling.patch or preprocess.size"]
    ways += [] if cfg.trainer.activation_checkpointing else [f"{KEY}=true"]
    return f"{CHOOSE}  {',  or  '.join(ways)}: it was a training step of {n} image{'s' * (n > 1)}"


def validation_advice(cfg: Train, is_test: bool = False) -> str:
    """`is_test`: of test cases, whose number at once is `inference.batch_size`; a validation takes as many whole images as a step."""
    size: Sequence[int] = cfg.sampling.patch or cfg.preprocess.size or (256, 256)
    window = override("inference.window", [max(16, side // 2) for side in size])
    one = [override("inference.batch_size", 1)] if cfg.inference.batch_size != 1 else []
    is_enough = is_test or cfg.sampling.patch is not None or window_of(cfg) is not None
    ways = one if one and is_enough else [window, *one]
    return f"{CHOOSE}  {' '.join(ways)}: it was a validation, which takes windows, or whole images as many at once as a training step"
