"""Masks on the original grid, probabilities and sizes.

Every file is written whole or not at all, so a file that exists is a case that is done.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
from PIL import Image

from segkit.data.io.base import Array, stem, suffix_of
from segkit.data.io.volumes import on_grid_of, write_like
from segkit.data.labels import IGNORE_NAME, LabelMap
from segkit.inference.writers.tables import Row
from segkit.system.errors import SegkitError
from segkit.system.files import atomic_path, write_bytes_atomic

SIZE_HEADER = ("case", "class", "n_px", "area_mm2", "volume_mm3")


def mask_paths(path: Path, labels: LabelMap) -> list[Path]:
    """Return the files of the mask `path`: itself, or one `NAME_<class>.png` a class where classes overlap."""
    if not labels.overlap:
        return [path]
    paths = [path.with_name(f"{stem(path)}_{file_name(name)}{suffix_of(path.name)}") for name in labels.classes]
    if len(set(paths)) < len(paths):
        raise SegkitError(f"classes {', '.join(labels.classes)} give equal file names;   rename one in data.labels")
    return paths


def is_written(path: Path, labels: LabelMap) -> bool:
    """Whether this case is done and may be skipped."""
    return all(part.is_file() for part in mask_paths(path, labels))


def write_mask(
    path: Path, mask: Array, labels: LabelMap, like: Path | None = None, orient: str | None = "LPS", palette: bool = False
) -> list[Path]:
    """Write a predicted mask in the values that the training masks had, so that it can serve as a mask again.

    Args:
        path: the file, or the stem of one file a class where classes overlap (see `mask_paths`).
        mask: class indices (*S), or planes (K, *S) where classes overlap, which become files of 0 and 255.
        labels: the label map of the checkpoint.
        like: a volume file whose format and grid the mask takes; None writes one PNG: gray of 8 or 16 bit, or RGB where the
            map holds colors.
        orient: the orientation in which `like` was read.
        palette: write a palette of `labels.colors` instead of gray, so that a viewer shows colors; the values stay the same.

    Returns:
        The files written.

    Raises:
        SegkitError: the values do not fit the format.
    """
    paths = mask_paths(path, labels)
    images = [plane.astype(np.uint8) * 255 for plane in mask == 1] if labels.overlap else [labels.decode(mask)]
    if like is None:
        images = [_unsigned(part, image) for part, image in zip(paths, images, strict=True)]
    colors = palettes(labels) if palette else [None] * len(paths)
    for part, image, of_part in zip(paths, images, colors, strict=True):
        if like is not None:
            write_like(part, image, like, orient)
        elif of_part is not None:
            write_indexed_png(part, image, of_part)
        else:
            write_png(part, image)
    return paths


Palette = Mapping[int, tuple[int, int, int]]
"""Color of each value; others are black."""


def palettes(labels: LabelMap) -> list[Palette]:
    """Return the palette of each mask file of an image. SegkitError where the values cannot index one."""
    if labels.overlap:
        return [{255: color} for color in labels.colors]
    if labels.uses_colors:
        raise SegkitError("palette: the masks of this checkpoint hold colors, not numbers;   leave palette=false")
    if any(not 0 <= int(raw) <= 255 for raw, name in labels.values if name != IGNORE_NAME):
        raise SegkitError("palette: a palette has the indices 0 to 255, and data.labels has other numbers;   leave palette=false")
    of_class = dict(zip(labels.classes, labels.colors, strict=True))
    return [{int(raw): of_class[name] for raw, name in labels.values if name in of_class}]


def write_indexed_png(path: Path, image: Array, palette: Palette) -> None:
    """Write (H, W) uint8 as the indices of a palette."""
    indexed = Image.fromarray(image)
    indexed.putpalette([channel for value in range(256) for channel in palette.get(value, (0, 0, 0))])
    encoded = io.BytesIO()
    indexed.save(encoded, format="png")
    write_bytes_atomic(path, encoded.getvalue())


def _unsigned(path: Path, image: Array) -> Array:
    """A signed mask, of a label map with negative values, as PNG holds it. SegkitError where a negative value occurs."""
    if image.dtype.kind == "u":
        return image
    if image.min(initial=0) < 0:
        raise SegkitError(f"{path}: a PNG holds no negative values such as {image.min()};   name a class 0 or above in data.labels")
    return image.astype(np.min_scalar_type(int(image.max(initial=0))))


def write_png(path: Path, image: Array) -> None:
    """Write (H, W) of 8 or 16 bit, or RGB (H, W, 3) of 8 bit."""
    if image.dtype not in (np.uint8, np.uint16):
        raise SegkitError(f"{path}: a PNG holds label values up to 65535;   use smaller numbers in data.labels")
    if image.ndim == 2 and image.size:
        # the flat areas of masks need no filter
        options = {"strategy": imagecodecs.PNG.STRATEGY.RLE, "filter": imagecodecs.PNG.FILTER.NO}
        write_bytes_atomic(path, bytes(imagecodecs.png_encode(np.ascontiguousarray(image), level=2, **options)))
        return
    ok, encoded = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
    if not ok:
        raise SegkitError(f"{path}: OpenCV could not encode an image of shape {image.shape}")
    write_bytes_atomic(path, encoded.tobytes())


def write_probabilities(path: Path, probs: Array, classes: Sequence[str], like: Path | None = None, orient: str | None = "LPS") -> None:
    """Write an NPZ with `probs` (C, *S), float16, and `classes`, the names of its C channels.

    With `like`, the volume file that was read as `orient`, they lie on the grid of that file, as its mask does: (C, slices, rows, columns).
    """
    if len(classes) != len(probs):
        raise ValueError(f"{len(probs)} channels, {len(classes)} names")
    if like is not None:
        probs = np.stack([on_grid_of(like, of_class[None] if of_class.ndim == 2 else of_class, orient) for of_class in probs])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, probs=probs.astype(np.float16), classes=np.array(classes))


def size_rows(case_id: str, mask: Array, labels: LabelMap, pixel_mm: tuple[float, ...] = ()) -> list[Row]:
    """Measure each class of a predicted mask: class indices (*S), or planes (K, *S) where classes overlap.

    Returns:
        A row a class, as `SIZE_HEADER`: pixels (voxels), and mm2 or mm3 where the pixel size is known.
    """
    rows: list[Row] = []
    for k, name in enumerate(labels.classes):
        n = int(np.count_nonzero(labels.plane(mask, k)))
        size = repr(float(n * math.prod(pixel_mm))) if pixel_mm else ""
        rows.append((case_id, name, str(n), *(("", size) if mask.ndim - labels.overlap == 3 else (size, ""))))
    return rows


def file_name(class_name: str) -> str:
    """Return the class name with `_` in place of characters that some file systems refuse."""
    return re.sub(r"[^\w.-]+", "_", class_name)
