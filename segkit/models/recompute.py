"""Activation checkpointing (Chen et al., 2016. arXiv:1604.06174): memory saved by computing parts of a network twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from segkit.system.errors import SegkitError

KEY = "trainer.activation_checkpointing"


def checkpoint_activations(network: nn.Module) -> None:
    """Have a network checkpoint its activations, by its method `set_grad_checkpointing(enable)`, as timm calls it.

    Raises:
        SegkitError: it has no such method.
    """
    switch = getattr(network, "set_grad_checkpointing", None)
    if not callable(switch):
        name = f"{type(network).__module__}.{type(network).__qualname__}"
        fix = "leave it out, or use  model=unet,  or give your network a method  set_grad_checkpointing(enable)"
        raise SegkitError(f"{KEY}=true: {name} cannot compute its activations again;   {fix}")
    switch(True)


def recomputed(part: Callable[..., Any], *inputs: Any, layers: Sequence[nn.Module]) -> Any:
    """`part(*inputs)`, of which the backward pass keeps the inputs alone and computes the rest again.

    Gradients and the draws of dropout are the same, and batch norm counts the batch once.

    Args:
        part: part of a forward pass.
        inputs: its arguments.
        layers: the layers that it runs.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), statistics_kept(layers)

    if torch.compiler.is_compiling():  # it counts once by itself, as updates of buffers are no part of what it computes again
        return checkpoint(part, *inputs, use_reentrant=False)
    return checkpoint(part, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def statistics_kept(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, batch norm updates copies of its running statistics: without any, autograd would save other tensors than before."""
    norms = [norm for layer in layers for norm in layer.modules() if isinstance(norm, _BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        norm._buffers.update({name: buffer if buffer is None else buffer.clone() for name, buffer in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
