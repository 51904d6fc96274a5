"""Checks of a training before it starts: of its config, of its network on images of this size, and of the smallest batch."""

from __future__ import annotations

import math

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from segkit.config.schema import Train
from segkit.data.datamodule import SegmentationData, resizing_of
from segkit.data.labels import LabelMap, sided
from segkit.losses import check_shares
from segkit.models.metadata import Metadata
from segkit.models.probe import layer_in_need, probe
from segkit.models.segmentation import SegmentationModel
from segkit.system.errors import SegkitError
from segkit.training.callbacks.ending import Timer
from segkit.training.optim import scheduler_node

MIRRORS = frozenset({"HorizontalFlip", "VerticalFlip", "D4", "SquareSymmetry", "Transpose"})
SMALLER_IS_BETTER = ("hd_", "hd95_", "assd_", "adapted_rand_error", "missed", "invented", "uw_hausdorff")


def check_sense(cfg: Train) -> None:
    """Raise SegkitError for values that are valid alone but not together."""
    monitor, own = cfg.metric.monitor, cfg.trainer
    if own.max_time and own.max_minutes:
        raise SegkitError("trainer.max_time and trainer.max_minutes are one limit;   leave one out")
    if own.limit_train_batches == 0:
        raise SegkitError("trainer.limit_train_batches=0 leaves nothing to train on;   give 1 or more, or null for all")
    if own.max_time:
        check_duration(own.max_time)
    if cfg.sampling.progressive_resizing and (own.max_steps != -1 or (own.max_epochs or -1) < 0):
        key = f"trainer.max_steps={own.max_steps}" if own.max_steps != -1 else f"trainer.max_epochs={own.max_epochs}"
        what = "sampling.progressive_resizing has to know in which epoch the training ends"
        raise SegkitError(f"{key}: {what};   give  trainer.max_epochs=N  alone,  or add  sampling.progressive_resizing=null")
    if own.max_epochs == -1 and own.max_steps == -1 and cfg.scheduler.name not in ("constant", "plateau"):
        what = f"scheduler={cfg.scheduler.name} has to know where a training without limit ends"
        raise SegkitError(f"trainer.max_epochs=-1: {what};   add  trainer.max_steps=N,  or  scheduler=constant")
    if cfg.scheduler.target:
        scheduler_node(cfg.scheduler, cfg.metric, cfg.allow_targets)
    if not any(cfg.loss.parts.values()) or not any(cfg.metric.cases.values()):
        raise SegkitError("loss.parts and metric.cases need at least one entry each that is not null")
    if cfg.metric.mode == "max" and (monitor == "loss" or "_mae_" in monitor or monitor.startswith(SMALLER_IS_BETTER)):
        raise SegkitError(f"metric.monitor={monitor} is best where it is smallest;   add  metric.mode=min")
    if cfg.data.batch_size == "auto" and cfg.data.source and not (cfg.sampling.patch or cfg.preprocess.size):
        fix = "type a number:  data.batch_size=N,  or choose one size:  'preprocess.size=[ROWS,COLUMNS]'"
        raise SegkitError(f"data.batch_size=auto cannot tell how many images of unequal size fit;   {fix}")
    if cfg.preprocess.size is None and cfg.preprocess.normalize in ("image", "minmax") and cfg.data.batch_size != 1:
        raise SegkitError(
            f"preprocess.normalize={cfg.preprocess.normalize} with images of unequal size would count the padding of a batch;\n"
            "  use  data.batch_size=1,  or  preprocess.normalize=dataset,  or a common  preprocess.size"
        )


def check_duration(limit: str | dict[str, float]) -> None:
    """Raise SegkitError for what Lightning's Timer does not take."""
    try:
        Timer(limit)
    except (MisconfigurationException, TypeError, ValueError, OverflowError) as error:
        what = f"trainer.max_time={limit} is no time: days:hours:minutes:seconds, or keywords of timedelta"
        raise SegkitError(f"{what};   write  trainer.max_time=00:12:00:00  or  'trainer.max_time={{hours: 12}}'") from error


def check_weights(network: nn.Module, cfg: Train, trains_itself: bool = False) -> None:
    """Raise SegkitError for a network without weights of floating point, which cannot be trained or averaged.

    `trains_itself`: an own LightningModule, of which only what averages asks for such weights.
    """
    averages = [
        f"callbacks.{name}"
        for name, node in cfg.callbacks.items()
        if node and str(node["_target_"]).endswith("WeightAveraging") and node.get("decay", True) is not None
    ]
    if any(weight.is_floating_point() or weight.is_complex() for weight in network.parameters()) or (trains_itself and not averages):
        return
    what = f"{type(network).__name__} has no weights of floating point"
    if trains_itself:
        raise SegkitError(f"{averages[0]} has nothing to average: {what};   add  '~{averages[0]}'")
    nothing = ["nothing to train", *(f"nothing for {name} to average" for name in averages)]
    raise SegkitError(f"model: {what}: {', and '.join(nothing)};   choose another  model=NAME")


def mirrored(cfg: Train, labels: LabelMap) -> list[str]:
    """A warning if augmentation mirrors structures that have a side."""
    name = sided(labels.classes)
    mirrors = [key for key, node in cfg.augment.transforms.items() if node and str(node["_target_"]).rpartition(".")[2] in MIRRORS]
    if not name or not mirrors:
        return []
    off = "  ".join(f"augment.transforms.{key}=null" for key in mirrors)
    return [f"warning    class {name} has a side, but augmentation mirrors the images;   add  {off}"]


def check_size(model: SegmentationModel, cfg: Train, metadata: Metadata) -> None:
    """Raise SegkitError if the network does not take images of the configured size."""
    key, size = ("sampling.patch", cfg.sampling.patch) if cfg.sampling.patch else ("preprocess.size", cfg.preprocess.size)
    if size is None:
        if model.target in ("center_crop", "resize"):
            raise SegkitError(f"model.target={model.target} needs images of one size;   add  'preprocess.size=[ROWS,COLUMNS]'")
        return
    if len(size) != metadata.dims:
        kind, other = ("images", 3) if metadata.dims == 2 else ("volumes", 2)
        raise SegkitError(f"{key} = {list(size)}, but the data are {kind};   give {metadata.dims} numbers, or  data.dims={other}")
    batch_size = max(2, cfg.data.images_per_step)  # a batch of one is the matter of `check_smallest_batch`
    for shape in dict.fromkeys((size, smallest_size(cfg, size))):
        if model.shape and model.target != "overlap_tile":
            model.shape.check(shape, key if shape == size else "sampling.progressive_resizing.initial_scale")
        n = probe(model, metadata.channels, shape, batch_size, metadata.label_map().n_outputs)
        check_shares(cfg.loss.deep_supervision, n)


def smallest_size(cfg: Train, size: tuple[int, ...]) -> tuple[int, ...]:
    """Of the first training images, where full ones have `size`."""
    resizing = resizing_of(cfg)
    return size if resizing is None else resizing.size(size, epoch=0)


def check_smallest_batch(model: SegmentationModel, cfg: Train, data: SegmentationData, channels: int, world: int) -> None:
    """Raise SegkitError, before anything is written, if a layer cannot train on the smallest batch that will occur.

    A last, smaller batch is dropped, unless it is the only one: so few cases can make a batch of one, whatever `data.batch_size` is.
    """
    n = len(data.train)
    batch = min(cfg.data.images_per_step, max(1, n // world))
    size = cfg.sampling.patch or cfg.preprocess.size
    if batch > 1 and size is not None:
        return  # `check_size` has tried it
    size = smallest_size(cfg, size or smallest_image(data))
    if layer := layer_in_need(model, (batch, channels, *size)):
        one = f"batch of {batch} {'image' if len(size) == 2 else 'volume'}{'s' * (batch > 1)} of {' x '.join(map(str, size))}"
        few = f"{n} training case{'s' * (n > 1)} make{'s' * (n == 1)} a" if cfg.data.images_per_step > batch else "each step has a"
        what = f"layer {layer} needs two values a channel in training, but {few} {one}"
        is_helped = not layer_in_need(model, (2, channels, *size))
        fix = a_larger_batch(cfg, n, world) if is_helped else "choose larger images, or a network of fewer levels"
        raise SegkitError(f"model: {what};   {fix}")


def a_larger_batch(cfg: Train, n: int, world: int) -> str:
    """What to type."""
    if n // world > 1:
        return "add  data.batch_size=2"
    if n > 1:
        return "add  trainer.devices=1"
    if cfg.sampling.patch:
        return "add  sampling.patches_per_image=2"
    return "train on more cases, or choose another network, such as  model=unet"


def smallest_image(data: SegmentationData) -> tuple[int, ...]:
    """The shape of the smallest training image on the network's grid, where they keep their sizes."""
    pixels = [math.prod(data.prepared.statistics[case.id].shape) for case in data.train.cases]
    return data.train.decode(pixels.index(min(pixels))).image.shape[:-1]
