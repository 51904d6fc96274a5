"""Test-time augmentation: the mean over flipped and rotated views of an image, each transformed back exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Literal, get_args

import torch
from torch import Tensor

from segkit.data.labels import sided
from segkit.system.progress import console

Kind = Literal["none", "horizontal", "flips", "turns"]
"""none; left-right; flips along every axis and their combinations; those and their rotations by 90 degrees in the plane of rows and
columns (8 views of an image, 16 of a volume)."""


@dataclass(frozen=True)
class View:
    """A rotation by `quarters` times 90 degrees in the last two axes, then flips along `axes`, counted from the last."""

    quarters: int = 0
    axes: tuple[int, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        rotated = x.rot90(self.quarters, (-2, -1)) if self.quarters else x
        return rotated.flip(self.axes) if self.axes else rotated

    def undo(self, x: Tensor) -> Tensor:
        back = x.flip(self.axes) if self.axes else x
        return back.rot90(-self.quarters, (-2, -1)) if self.quarters else back


def views(kind: Kind, dims: int) -> list[View]:
    """All views of a kind, each different, the image itself first."""
    if kind not in get_args(Kind):
        raise ValueError(f"tta must be one of {', '.join(get_args(Kind))}, got {kind}")
    if kind == "none":
        return [View()]
    if kind == "horizontal":
        return [View(), View(axes=(-1,))]
    axes = range(-1, -1 - dims, -1)
    flips = [View(axes=chosen) for n in range(dims + 1) for chosen in combinations(axes, n)]
    return flips if kind == "flips" else [*flips, *(View(1, flip.axes) for flip in flips)]


def averaged(model: Callable[[Tensor], Tensor], over: Sequence[View], together: bool = False) -> Callable[[Tensor], Tensor]:
    """`model`, images (B, C, *S) -> probabilities (B, K, *S), as the mean over views of the images.

    `together`: views of equal shape share a batch.
    """
    if len(over) == 1:
        return model
    groups = [list(alike) for _, alike in groupby(over, lambda view: view.quarters % 2)] if together else [[view] for view in over]

    def mean(image: Tensor) -> Tensor:
        found = (
            view.undo(out)
            for group in groups
            for view, out in zip(group, torch.split(model(torch.cat([view(image) for view in group])), len(image)), strict=True)
        )
        total = next(found)
        for out in found:
            total = total + out
        return total / len(over)

    return mean


def warn_of_mirrors(kind: Kind, classes: Sequence[str]) -> None:
    """Print where mirrored copies would name a structure after its other side."""
    if kind != "none" and (name := sided(classes)):
        what = f"class {name} has a side, but inference.tta={kind} mirrors the images"
        console.print(f"warning    {what};   use  inference.tta=none", style="yellow", markup=False)
