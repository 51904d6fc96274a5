"""Checks of a network before training starts: whether it takes these images, what it returns, and what it costs."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from segkit.models.segmentation import SegmentationModel
from segkit.system.errors import SegkitError, first_line

ONE_VALUE = ("Expected more than 1 value per channel", "Expected more than 1 spatial element")
"""How torch's norms complain about a single pixel, in a batch of one."""
MOST_COMPUTED = 2**22
"""Values of a batch up to which a network that depends on values is tried in earnest."""


def probe(model: SegmentationModel, channels: int, size: Sequence[int], batch_size: int, n_outputs: int) -> int:
    """Return how many logits the network returns in training; more than one is deep supervision.

    Nothing is computed, unless the network depends on values or fails without them.

    Args:
        model: the network with its normalizer.
        channels: channels of the images.
        size: pixels along each axis.
        batch_size: images a batch.
        n_outputs: planes that the logits must have.

    Raises:
        SegkitError: a training step on images (batch_size, channels, *size) would fail, or gives the wrong shape.
    """
    meta_model = copy.deepcopy(model).train()
    try:
        outputs = step(meta_model.to("meta"), (batch_size, channels, *size), "meta")
    except SegkitError:
        raise
    except Exception:
        outputs = on_cpu(copy.deepcopy(model).train(), (batch_size, channels, *size))
    wrong = [tuple(out.shape) for out in outputs if not isinstance(out, Tensor) or out.shape[:2] != (batch_size, n_outputs)]
    if wrong:
        raise SegkitError(f"model: returns {wrong[0]} for a batch of {batch_size}, but logits ({batch_size}, {n_outputs}, …) are needed")
    return len(outputs)


def step(model: SegmentationModel, shape: tuple[int, ...], device: str) -> list[Tensor]:
    mask = torch.zeros(shape[0], *shape[2:], dtype=torch.uint8, device=device)
    with torch.no_grad():
        logits, _ = model.supervised(torch.zeros(shape, device=device), mask)
    return logits if isinstance(logits, list) else [logits]


def on_cpu(model: SegmentationModel, shape: tuple[int, ...]) -> list[Tensor]:
    try:
        return step(model, shape, "cpu")
    except (ValueError, RuntimeError, IndexError, AttributeError, TypeError, AssertionError) as error:
        reason = first_line(error)
        batch, _, *size = shape
        ways = "another  model=NAME  or size"
        if any(text in reason for text in ONE_VALUE):
            reason, ways = "a norm would see a single pixel", "a larger  data.batch_size  or  preprocess.size,  or fewer levels"
        raise SegkitError(f"model: this network cannot train on batches of {batch} with size {size}: {reason}\n  use {ways}") from error


def layer_in_need(model: SegmentationModel, shape: tuple[int, ...]) -> str:
    """The layer that needs more values a channel than a training step on images of `shape` gives it, such as batch norm; "" without one.

    Nothing is computed, unless the network depends on values.
    """
    for device in ("meta", "cpu") if math.prod(shape) <= MOST_COMPUTED else ("meta",):
        tried = copy.deepcopy(model).train().to(device)
        inside = layers_at_work(tried)
        try:
            step(tried, shape, device)
        except Exception as error:  # whatever a network raises
            if any(text in str(error) for text in ONE_VALUE):
                return inside[-1].removeprefix("network.")
        else:
            return ""
    return ""


def layers_at_work(model: SegmentationModel) -> list[str]:
    """The layers whose forward pass has begun and not ended, the innermost last; kept up to date by hooks."""
    inside: list[str] = []
    for name, layer in model.named_modules():
        layer.register_forward_pre_hook(lambda module, _, name=name: inside.append(f"{name} ({type(module).__name__})"))
        layer.register_forward_hook(lambda *_: inside.pop() and None)
    return inside


def flop_per_image(model: SegmentationModel, channels: int, size: Sequence[int]) -> float:
    """Count the floating-point operations of one forward pass, without computing anything.

    0 for a network that depends on values, which cannot be counted so (and hardly compiled).
    """
    meta_model = copy.deepcopy(model).to("meta").eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            meta_model.logits(torch.empty(1, channels, *size, device="meta"))
    except Exception:  # whatever a stranger's network raises without values
        return 0.0
    return float(counter.get_total_flops())
