"""The label map: what the values in a mask file mean, and which output of the network stands for each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
"""Class index of pixels that count neither in the loss nor in a metric."""

# Okabe and Ito (2008), told apart by colour-blind readers as well.
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


@dataclass(frozen=True)
class LabelMap:
    """Raw value in the file -> class name.

    Exclusive maps (`overlap=False`) have one class a pixel: `values` maps integers (or colours `#rrggbb`) to names; the
    name `background` is class 0, the other names become classes 1, 2, … in the order given; several values may share a
    name; the name `ignore` marks pixels that do not count. Overlapping maps have one binary plane a class: `values` maps
    the plane's name in the source (a column, a LabelMe label) to the class name.
    """

    values: tuple[tuple[str, str], ...]
    overlap: bool = False

    @classmethod
    def of(cls, values: Mapping[Any, str], overlap: bool = False) -> LabelMap:
        label_map = cls(tuple((str(raw), str(name)) for raw, name in values.items()), overlap)
        if not label_map.classes:
            raise SegkitError(f"data.labels = {dict(values)} names no structure;   add  data.labels='{{0: background, 1: NAME}}'")
        if "overall" in label_map.classes:
            raise SegkitError("data.labels names a class 'overall', which is what tables call the mean of all;   choose another name")
        negative = [] if overlap else [raw for raw, _ in label_map.values if raw.startswith("-")]
        if negative:
            raise SegkitError(f"data.labels has the negative value {negative[0]}, which no mask file can hold")
        if not overlap and BACKGROUND not in dict(label_map.values).values():
            raise SegkitError(f"data.labels = {dict(values)} names no background;   add  0: background")
        return label_map

    @property
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
    def colours(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(PALETTE[i % len(PALETTE)] for i in range(len(self.classes)))

    def index(self, name: str) -> int:
        """Class index in an encoded exclusive mask: background 0, ignore 255, classes from 1."""
        if name in (BACKGROUND, IGNORE_NAME):
            return 0 if name == BACKGROUND else IGNORE
        return self.classes.index(name) + 1

    @property
    def in_colours(self) -> bool:
        return any(key.startswith("#") for key, _ in self.values)

    def as_key(self, value: str) -> str:
        """How this map would name a raw value: among colours, the grey of an all-black mask is black."""
        return value if value.startswith("#") or not self.in_colours else "#" + f"{min(int(value), 255):02x}" * 3

    def encode(self, raw: Array) -> tuple[Array, tuple[str, ...]]:
        """Class indices (uint8, the raw array's spatial shape) of an exclusive mask, and the raw values that have no name.

        `raw` is integer (H, W), or RGB (H, W, 3) whose colours are matched as `#rrggbb`.
        """
        coloured = raw.ndim >= 3 and raw.shape[-1] in (3, 4)
        flat = pack_rgb(raw) if coloured else raw.astype(np.uint32) * 0x010101 if self.in_colours else raw
        keys = {self.as_key(key): self.index(name) for key, name in self.values}
        wanted = {int(key.lstrip("#"), 16 if self.in_colours else 10): index for key, index in keys.items()}
        classes = np.full(flat.shape, IGNORE, np.uint8)
        unknown = []
        for value in unique_values(flat):
            if value in wanted:
                classes[flat == value] = wanted[value]
            else:
                unknown.append(f"#{value:06x}" if flat is not raw else str(value))
        return classes, tuple(unknown)

    def decode(self, classes: Array) -> Array:
        """Raw values (the first one of each class) of class indices: what a written mask holds. Colours give (H, W, 3)."""
        table = {self.index(name): self.as_key(key) for key, name in reversed(self.values)}
        if self.in_colours:
            palette = np.zeros((256, 3), np.uint8)
            for index, key in table.items():
                palette[index] = [int(key[i : i + 2], 16) for i in (1, 3, 5)]
            return palette[classes]
        largest = max(int(key) for key in table.values())
        lut = np.zeros(256, np.uint8 if largest < 256 else np.uint16 if largest < 65536 else np.uint32)
        for index, key in table.items():
            lut[index] = int(key)
        return lut[classes]

    def as_dict(self) -> dict[str, Any]:
        return {"values": dict(self.values), "overlap": self.overlap}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelMap:
        return cls.of(data["values"], bool(data["overlap"]))


def sided(classes: Sequence[str]) -> str:
    """The first class that has a side (left_lung, kidney R), which a mirrored image would get wrong; empty where none has."""
    return next((name for name in classes if _SIDE.search(name)), "")


def unique_values(array: Array) -> list[int]:
    """Distinct integers of an array; a histogram where that is faster than sorting."""
    if array.dtype == np.uint8:
        return [int(v) for v in np.flatnonzero(np.bincount(array.reshape(-1), minlength=256))]
    return [int(v) for v in np.unique(array)]


def pack_rgb(rgb: Array) -> Array:
    """(…, 3 or 4) uint8 colours -> (…) integers 0xrrggbb; alpha is dropped."""
    r, g, b = (rgb[..., i].astype(np.uint32) for i in range(3))
    return (r << 16) | (g << 8) | b
