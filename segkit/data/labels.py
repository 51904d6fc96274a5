"""The label map: the classes that mask values stand for, and the network output of each."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from segkit.system.errors import SegkitError

Array = npt.NDArray[Any]
Mode = Literal["binary", "multiclass", "multilabel"]

BACKGROUND = "background"
IGNORE_NAME = "ignore"
_SIDE = re.compile(r"(^|[_\s-])(left|right|l|r)($|[_\s-])", re.IGNORECASE)
_VALUE = re.compile(r"-?\d{1,18}|#[0-9a-f]{6}", re.ASCII)
IGNORE = 255
"""Class index of pixels that are left out of the loss and of metrics."""
MAX_CLASSES = IGNORE - 1
"""Classes that exclude each other: an index is one byte, of which 0 is the background and 255 what is ignored."""

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
            SegkitError: No class or no background is named, there are more than `MAX_CLASSES`, a name is reserved, or a key is
                no mask value.
        """
        label_map = cls(tuple((str(raw) if overlap else mask_value(raw), str(name)) for raw, name in values.items()), overlap)
        if not label_map.classes:
            raise SegkitError(f"data.labels = {dict(values)} names no structure;   add  data.labels='{{0: background, 1: NAME}}'")
        if "overall" in label_map.classes:
            raise SegkitError("data.labels names a class 'overall', which tables use for the mean of all classes;   choose another name")
        if not overlap and len(label_map.classes) > MAX_CLASSES:
            what = f"data.labels names {len(label_map.classes)} classes; at most {MAX_CLASSES} can exclude each other"
            raise SegkitError(f"{what};   give several values one name, or name those that are not needed background")
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
        return tuple(map(color_of, range(len(self.classes))))

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
        values = counted(flat)[0]
        classes = recoded(flat, values, np.array([wanted.get(value, IGNORE) for value in values.tolist()], np.uint8))
        unknown = [value for value in values.tolist() if value not in wanted]
        return classes, tuple(f"#{value:06x}" if flat is not raw else str(value) for value in unknown)

    def decode(self, classes: Array) -> Array:
        """Convert class indices (*S) to raw values, the first one of each class; RGB (*S, 3) where the map has colors."""
        table = {self.index(name): self.as_key(key) for key, name in reversed(self.values)}
        if self.uses_colors:
            palette = np.zeros((256, 3), np.uint8)
            for index, key in table.items():
                palette[index] = [int(key[i : i + 2], 16) for i in (1, 3, 5)]
            return palette[classes]
        keys = [int(key) for key in table.values()]
        lut = np.zeros(256, np.result_type(np.min_scalar_type(min(0, *keys)), np.min_scalar_type(max(keys))))
        for index, key in table.items():
            lut[index] = int(key)
        if classes.size and classes.dtype == np.uint8 and lut.dtype in (np.uint8, np.uint16):
            return cv2.LUT(classes.reshape(len(classes), -1), lut).reshape(classes.shape)  # four times as fast
        return np.asarray(lut[classes])

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
        """The map of `as_dict`. Raises SegkitError where `data` is not such a dict."""
        values, overlap = data.get("values"), data.get("overlap")
        if not isinstance(values, Mapping) or not isinstance(overlap, bool):
            raise SegkitError("labels are not a table 'values' of names beside 'overlap', true or false")
        return cls.of(values, overlap)


def mask_value(raw: object) -> str:
    """A whole number or a color as label maps have it: '7' of 7 and '007', '#ff0000' of '0xFF0000'. SegkitError for others."""
    text = str(raw).lower().replace("0x", "#")
    if not _VALUE.fullmatch(text):
        example = "e.g.  data.labels='{0: background, 1: NAME}'   (or data.overlap=true where each structure has its own mask)"
        raise SegkitError(f"{raw!r} is not a mask value; use whole numbers or colors 0xrrggbb;   {example}")
    return text if text.startswith("#") else str(int(text))


def sided(classes: Sequence[str]) -> str:
    """The first class name with a side (left_lung, kidney R), which mirrored images would get wrong; empty if there is none."""
    return next((name for name in classes if _SIDE.search(name)), "")


def color_of(k: int) -> tuple[int, int, int]:
    """The color of the k-th class: of `PALETTE`, then hues a golden section apart, in three shades."""
    if k < len(PALETTE):
        return PALETTE[k]
    saturation, value = ((0.85, 0.95), (0.5, 0.9), (0.9, 0.65))[k % 3]
    r, g, b = (round(255 * part) for part in colorsys.hsv_to_rgb(k * 0.618034 % 1, saturation, value))
    return r, g, b


SPAN = 65536
"""Integers of a smaller range are counted and recoded by tables, which is faster than sorting them."""


def counted(array: Array) -> tuple[Array, Array]:
    """Distinct integers in order, and how often each occurs."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, SPAN)
    if high - low >= SPAN or not np.can_cast(array.dtype, np.intp):
        return np.unique(array, return_counts=True)
    histogram = np.bincount(array.reshape(-1) if low == 0 else array.reshape(-1).astype(np.intp) - low)
    values = np.flatnonzero(histogram)
    return values + low, histogram[values]


def recoded(array: Array, values: Array, codes: Array) -> Array:
    """`array` with the i-th of `values`, which are all that it holds in order, replaced by `codes[i]`.

    The time does not depend on the number of values.
    """
    low, high = (int(values[0]), int(values[-1])) if len(values) else (0, 0)
    if high - low >= SPAN or not np.can_cast(array.dtype, np.intp):
        return np.asarray(codes[np.searchsorted(values, array)])
    table = np.zeros(high - low + 1, codes.dtype)
    table[np.asarray(values) - low] = codes
    return np.asarray(table[array if low == 0 else array.astype(np.intp) - low])


def pack_rgb(rgb: Array) -> Array:
    """(…, 3 or 4) uint8 colors -> (…) integers 0xrrggbb; alpha is dropped."""
    r, g, b = (rgb[..., i].astype(np.uint32) for i in range(3))
    return (r << 16) | (g << 8) | b
