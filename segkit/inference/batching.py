"""Images, windows and mirrored copies in batches that fit in memory (`inference.batch_size=auto`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from segkit.system.errors import is_out_of_memory

ON_GPU = 32
"""Images or windows that a GPU gets at once, at most; from there on larger batches are hardly faster."""


def images_at_once(batch_size: int | Literal["auto"], device: str) -> int:
    """`inference.batch_size` as a number. A processor takes images one by one: its caches hold no more."""
    if batch_size != "auto":
        return batch_size
    return ON_GPU if device == "cuda" else 1


def keeps_nothing(network: nn.Module) -> bool:
    """Whether calls of the network may overlap: those of segkit and segmentation-models-pytorch hold nothing between calls."""
    return type(network).__module__.partition(".")[0] in ("segkit", "segmentation_models_pytorch")


class Batched:
    """A network that halves its batches until they fit in memory, and keeps to what fitted.

    Args:
        network: (B, C, *S) -> (B, K, *S), each image by itself.
        most: Images that it gets at once.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], most: int) -> None:
        self.network, self.most = network, most

    def __call__(self, images: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        while (done := sum(map(len, outputs))) < len(images):
            some = images[done : done + self.most]
            if (out := self.tried(some)) is not None:
                outputs.append(out)
                continue
            self.most = len(some) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def tried(self, images: Tensor) -> Tensor | None:
        """None where several images do not fit. What the failure held is free again when this returns."""
        try:
            return self.network(images)
        except RuntimeError as error:
            if len(images) == 1 or not is_out_of_memory(error):
                raise
            return None
