"""The label map: the classes that mask values stand for, and the network output of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segkit.system.errors import SegkitError

Array = npt.NDArray[Any]
Mode = Literal["binary", "multiclass", "multilabel"]

BACKGROUND = "background"
IGNORE_NAME = "ignore"
_SIDE = re.compile(r"(^|[_\s-])(left|right|l|r)($|[_\s-])", re.IGNORECASE)
IGNORE = 255
"""Class index of pixels that are left out of the loss and of metrics."""

# Okabe and Ito (2008): distinguishable by color-blind readers as well.
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


@dataclass(frozen=True)
class LabelMap:
    """Maps raw mask values to class names, class indices and network outputs.

    Exclusive maps (`overlap=False`) have one class a pixel: `values` maps integers (or colors `#rrggbb`) to names; the
    name `background` is class 0, the other names become classes 1, 2, … in the order given; several values may share a
    name; the name `ignore` marks pixels that do not count. Overlapping maps have one binary plane a class: `values` maps
    the plane's name in the source (a column, a LabelMe label) to the class name.

    Args:
        values: Pairs (raw value or plane, name), in the order of the classes.
        overlap: Whether classes may overlap.
    """

    values: tuple[tuple[str, str], ...]
    overlap: bool = False

    @classmethod
    def of(cls, values: Mapping[Any, str], overlap: bool = False) -> LabelMap:
        """Build and validate a map.

        Raises:
            SegkitError: No class or no background is named, a value is negative, or a name is reserved.
        """
        label_map = cls(tuple((str(raw), str(name)) for raw, name in values.items()), overlap)
        if not label_map.classes:
            raise SegkitError(f"data.labels = {dict(values)} names no structure;   add  data.labels='{{0: background, 1: NAME}}'")
        if "overall" in label_map.classes:
            raise SegkitError("data.labels names a class 'overall', which tables use for the mean of all classes;   choose another name")
        negative = [] if overlap else [raw for raw, _ in label_map.values if raw.startswith("-")]
        if negative:
            raise SegkitError(f"data.labels has the negative value {negative[0]}, which mask files cannot hold")
        if not overlap and BACKGROUND not in dict(label_map.values).values():
            raise SegkitError(f"data.labels = {dict(values)} names no background;   add  0: background")
        return label_map

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the foreground classes, in the order of the network's outputs."""
        names = (name for _, name in self.values if name not in (BACKGROUND, IGNORE_NAME))
        return tuple(dict.fromkeys(names))

    @property
    def mode(self) -> Mode:
        if self.overlap:
            return "multilabel"
        return "binary" if len(self.classes) == 1 else "multiclass"

    @property
    def n_outputs(self) -> int:
        """Channels of the logits: one for a binary task, background + classes for softmax, one a class for overlap."""
        return len(self.classes) + (self.mode == "multiclass")

    @property
    def colors(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(PALETTE[i % len(PALETTE)] for i in range(len(self.classes)))

    def index(self, name: str) -> int:
        """Class index in an encoded exclusive mask: background 0, ignore 255, classes from 1."""
        if name in (BACKGROUND, IGNORE_NAME):
            return 0 if name == BACKGROUND else IGNORE
        return self.classes.index(name) + 1

    @cached_property
    def uses_colors(self) -> bool:
        return any(key.startswith("#") for key, _ in self.values)

    def as_key(self, value: str) -> str:
        """The key of a raw value in this map: in a map of colors, gray levels are colors, too."""
        return value if value.startswith("#") or not self.uses_colors else "#" + f"{min(int(value), 255):02x}" * 3

    @cached_property
    def _names(self) -> dict[str, str]:
        return {raw if self.overlap else self.as_key(raw): name for raw, name in self.values}

    def name_of(self, plane: str, value: str) -> str:
        """The name of a raw value of a mask, or of the plane where classes overlap; empty where it has none."""
        return self._names.get(plane if self.overlap else self.as_key(value), "")

    def encode(self, raw: Array) -> tuple[Array, tuple[str, ...]]:
        """Convert the raw values of an exclusive mask to class indices.

        Args:
            raw: Integers (*S), or RGB (H, W, 3) whose colors are matched as `#rrggbb`.

        Returns:
            Class indices (*S) uint8, 255 (ignore) where a value has no name; and the values without a name.
        """
        is_rgb = raw.ndim >= 3 and raw.shape[-1] in (3, 4)
        flat = pack_rgb(raw) if is_rgb else raw.astype(np.uint32) * 0x010101 if self.uses_colors else raw
        keys = {self.as_key(key): self.index(name) for key, name in self.values}
        wanted = {int(key.lstrip("#"), 16 if self.uses_colors else 10): index for key, index in keys.items()}
        classes = np.full(flat.shape, IGNORE, np.uint8)
        unknown = []
        for value in counted(flat)[0].tolist():
            if value in wanted:
                classes[flat == value] = wanted[value]
            else:
                unknown.append(f"#{value:06x}" if flat is not raw else str(value))
        return classes, tuple(unknown)

    def decode(self, classes: Array) -> Array:
        """Convert class indices (*S) to raw values, the first one of each class; RGB (*S, 3) where the map has colors."""
        table = {self.index(name): self.as_key(key) for key, name in reversed(self.values)}
        if self.uses_colors:
            palette = np.zeros((256, 3), np.uint8)
            for index, key in table.items():
                palette[index] = [int(key[i : i + 2], 16) for i in (1, 3, 5)]
            return palette[classes]
        largest = max(int(key) for key in table.values())
        lut = np.zeros(256, np.uint8 if largest < 256 else np.uint16 if largest < 65536 else np.uint32)
        for index, key in table.items():
            lut[index] = int(key)
        return lut[classes]

    def plane(self, mask: Array, k: int) -> Array:
        """The pixels of the k-th class (*S) bool, of class indices (*S) or planes (K, *S); ignored pixels are in no class."""
        return np.asarray(mask[k] == 1 if self.overlap else mask == k + 1)

    def planes(self, mask: Array) -> Array:
        """One bool plane a class (K, *S)."""
        return np.stack([self.plane(mask, k) for k in range(len(self.classes))])

    def as_dict(self) -> dict[str, Any]:
        return {"values": dict(self.values), "overlap": self.overlap}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelMap:
        return cls.of(data["values"], bool(data["overlap"]))


def sided(classes: Sequence[str]) -> str:
    """The first class name with a side (left_lung, kidney R), which mirrored images would get wrong; empty if there is none."""
    return next((name for name in classes if _SIDE.search(name)), "")


def counted(array: Array) -> tuple[Array, Array]:
    """Distinct integers and how often each occurs; a histogram where that is faster than sorting."""
    if array.size and np.can_cast(array.dtype, np.intp) and array.min() >= 0 and array.max() <= 65535:
        histogram = np.bincount(array.reshape(-1))
        values = np.flatnonzero(histogram)
        return values, histogram[values]
    return np.unique(array, return_counts=True)


def pack_rgb(rgb: Array) -> Array:
    """(…, 3 or 4) uint8 colors -> (…) integers 0xrrggbb; alpha is dropped."""
    r, g, b = (rgb[..., i].astype(np.uint32) for i in range(3))
    return (r << 16) | (g << 8) | b
