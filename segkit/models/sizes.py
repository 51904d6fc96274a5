"""Which sizes a U-Net can take, and what comes out: arithmetic of unpadded convolutions and of remainders.

With four levels of two unpadded 3x3 convolutions, n = 12 (mod 16), n >= 188, and n - 184 comes out: 252 -> 68, 572 -> 388.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from segkit.system.errors import SegkitError
from segkit.system.shell import override

SEARCHED = 4096
"""No network of use needs a larger step to its next possible size."""


def box(starts: Sequence[int], size: Sequence[int]) -> Any:
    """Index of a part of a tensor (..., *S)."""
    return (..., *(slice(a, a + n) for a, n in zip(starts, size, strict=True)))


def every(steps: tuple[int, ...]) -> Any:
    """Index of every s-th pixel along each of the last axes."""
    return (..., *(slice(None, None, step) for step in steps))


@dataclass(frozen=True)
class Shape:
    """How sizes go through a U-Net. `steps`: reduction by level and axis; `margin`: pixels lost in a block, along each axis."""

    steps: tuple[tuple[int, ...], ...]
    margin: int = 0
    drops_remainder: bool = False

    def output(self, n: int, axis: int) -> int | None:
        """Pixels that come out for `n` along an axis; None: not possible."""
        skips = []
        for step in (steps[axis] for steps in self.steps):
            n -= self.margin
            skips.append(n)
            if n < step or (n % step and not self.drops_remainder):
                return None
            n //= step
        n -= self.margin
        for step, skip in zip((steps[axis] for steps in reversed(self.steps)), reversed(skips), strict=True):
            n *= step
            if n < 1 or n > skip or ((skip - n) % 2 and not self.drops_remainder):
                return None  # the skip's middle would lie between two pixels
            n -= self.margin
        return n if n > 0 else None

    @property
    def is_smaller(self) -> bool:
        """Whether less may come out than goes in."""
        return self.margin > 0 or self.drops_remainder

    def to_cover(self, n: int, axis: int) -> tuple[int, int]:
        """Smallest input whose output has at least `n` pixels, and that output."""
        return self._first(range(n, n + SEARCHED), axis, lambda out: out >= n)

    def _first(self, candidates: Iterable[int], axis: int, wanted: Callable[[int], bool] = bool) -> tuple[int, int]:
        for m in candidates:
            out = self.output(m, axis)
            if out is not None and wanted(out):
                return m, out
        raise SegkitError("model: no size is possible with these levels;   use fewer widths, or  model.padding=same")

    def check(self, size: Sequence[int], key: str = "preprocess.size") -> tuple[int, ...]:
        """The output's size; an impossible one is an error that names the nearest right ones."""
        outputs = [self.output(n, axis) for axis, n in enumerate(size)]
        if None in outputs:
            below = [self._below(n, axis) for axis, n in enumerate(size)]
            above = [self._first(range(n, n + SEARCHED), axis)[0] for axis, n in enumerate(size)]
            smaller = [n for n in below if n is not None]
            choices = [above] if len(smaller) < len(below) else [smaller, above]
            ways = "  or  ".join(override(key, list(choice)) for choice in choices)
            raise SegkitError(f"{key} = {list(size)}: this network cannot take that size, for its levels would not meet;   use  {ways}")
        return tuple(out for out in outputs if out is not None)

    def _below(self, n: int, axis: int) -> int | None:
        return next((m for m in range(n, 0, -1) if self.output(m, axis) is not None), None)
