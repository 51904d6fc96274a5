"""Test-time augmentation: the mean over flipped and turned copies of an image, each turned back exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

from torch import Tensor

Kind = Literal["none", "horizontal", "flips", "turns"]
"""none; left and right; flips along every axis and their combinations; those and quarter turns in the plane of the rows and
columns (8 in images, 16 in volumes)."""


@dataclass(frozen=True)
class Copy:
    """Quarter `turns` of the last two axes, then flips along `axes`, counted from the last."""

    turns: int = 0
    axes: tuple[int, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        turned = x.rot90(self.turns, (-2, -1)) if self.turns else x
        return turned.flip(self.axes) if self.axes else turned

    def undo(self, x: Tensor) -> Tensor:
        back = x.flip(self.axes) if self.axes else x
        return back.rot90(-self.turns, (-2, -1)) if self.turns else back


def copies(kind: Kind, dims: int) -> list[Copy]:
    """Each different, the image itself first."""
    if kind not in get_args(Kind):
        raise ValueError(f"tta must be one of {', '.join(get_args(Kind))}, got {kind}")
    if kind == "none":
        return [Copy()]
    if kind == "horizontal":
        return [Copy(), Copy(axes=(-1,))]
    axes = range(-1, -1 - dims, -1)
    flips = [Copy(axes=chosen) for n in range(dims + 1) for chosen in combinations(axes, n)]
    return flips if kind == "flips" else [*flips, *(Copy(1, flip.axes) for flip in flips)]


def averaged(model: Callable[[Tensor], Tensor], over: Sequence[Copy]) -> Callable[[Tensor], Tensor]:
    """`model`, images (B, C, *S) -> probabilities (B, K, *S), as the mean over copies of the images."""
    if len(over) == 1:
        return model

    def mean(image: Tensor) -> Tensor:
        total = over[0].undo(model(over[0](image)))
        for copy in over[1:]:
            total = total + copy.undo(model(copy(image)))
        return total / len(over)

    return mean
