"""A volume file as it is stored, before its axes are turned: what each format has to say, and the rules that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from segkit.data.io.base import Array, ReadError

Size = tuple[int, int, int]

MAX_VOXELS = 4 * 10**9
"""A larger volume is taken for a decompression bomb."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stored:
    """A file's grid in its own axes (x, y, z), and how to reach its numbers."""

    size: Size
    channels: int
    affine: Array | None
    """Voxel (x, y, z) to millimeters right, anterior, superior (RAS), 4 x 4. None: the file does not say where it lies."""
    voxels: Callable[[], Array]
    """Read (X, Y, Z, C) after the file's own scale; raises `ReadError`."""
    encode: Callable[[Array, bool], bytes]
    """Encode a mask (X, Y, Z) in the file's format, grid and axes, gzipped or not: the same bytes for the same mask."""
    n_volumes: int = 1
    """Along a fourth axis of space and time; the channels that a format calls so (vectors, colors) do not count."""

    def check(self, path: Path) -> Stored:
        """Return it. Raises `ReadError` where its header claims no voxels, or too many."""
        claimed = " x ".join(map(str, self.size)) + (f" x {self.channels}" if self.channels != 1 else "")
        if min(*self.size, self.channels) < 1:
            raise ReadError(path, f"holds no voxels ({claimed})")
        if prod(self.size) * self.channels > MAX_VOXELS:
            raise ReadError(path, f"claims {claimed} voxels, more than {MAX_VOXELS:.0e}: a decompression bomb?")
        return self


def check_length(path: Path, claimed: int, found: int) -> None:
    """Raise `ReadError` where a header claims another number of bytes than follow it: half of a volume is never read in silence."""
    if found < claimed:
        raise ReadError(path, f"truncated (its header claims {claimed} bytes of voxels, {found} follow)")
    if found > claimed:
        raise ReadError(path, f"damaged (its header claims {claimed} bytes of voxels, but {found} follow)")


def is_usable(matrix: Array) -> bool:
    """Finite, no axis without length, and none a million times as long as another."""
    if not np.isfinite(matrix).all():
        return False
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    return bool(abs(np.linalg.det(matrix[:3, :3])) > 1e-12 and lengths.max() < 1e6 * lengths.min())
