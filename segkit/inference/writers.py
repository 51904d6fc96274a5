"""What prediction leaves on disk: masks on the original grid, probabilities, overlays and a table of sizes.

Every file appears whole or not at all, so a file that exists is a case that is done.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import numpy as np

from segkit.data.labels import Array, LabelMap
from segkit.data.volumes import stem, write_like
from segkit.drawing import PREDICTION, outline
from segkit.errors import SegkitError
from segkit.files import atomic_path, write_bytes_atomic, write_text_atomic

SIZE_HEADER = ("case", "class", "n_px", "area_mm2", "volume_mm3")


def mask_paths(path: Path, labels: LabelMap) -> list[Path]:
    """The files that the mask `path` becomes: itself, or one `NAME_<class>.png` a class where classes overlap."""
    if not labels.overlap:
        return [path]
    suffix = path.name[len(stem(path)) :]
    paths = [path.with_name(f"{stem(path)}_{file_name(name)}{suffix}") for name in labels.classes]
    if len(set(paths)) < len(paths):
        raise SegkitError(f"classes {', '.join(labels.classes)} give equal file names;   rename one in data.labels")
    return paths


def is_written(path: Path, labels: LabelMap) -> bool:
    """Whether this case is done and may be skipped."""
    return all(part.is_file() for part in mask_paths(path, labels))


def write_mask(path: Path, mask: Array, labels: LabelMap, like: Path | None = None, orient: str | None = "LPS") -> list[Path]:
    """Write what the network said in the values that the training masks had, so that it can serve as a mask again.

    `mask` is class indices (*S) of an exclusive map, or planes (K, *S) of an overlapping one, which become a file of 0 and
    255 for each class. With `like`, a volume file that was read in orientation `orient`, in its format and on its grid; else
    one PNG: grey of 8 or 16 bit, or RGB where the map holds colours.
    """
    paths = mask_paths(path, labels)
    images = [plane.astype(np.uint8) * 255 for plane in mask == 1] if labels.overlap else [labels.decode(mask)]
    for part, image in zip(paths, images, strict=True):
        if like is None:
            write_png(part, image)
        else:
            write_like(part, image, like, orient)
    return paths


def write_png(path: Path, image: Array) -> None:
    """(H, W) of 8 or 16 bit, or RGB (H, W, 3) of 8 bit."""
    if image.dtype not in (np.uint8, np.uint16):
        raise SegkitError(f"{path}: a PNG holds label values up to 65535;   use smaller numbers in data.labels")
    ok, encoded = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
    if not ok:
        raise SegkitError(f"{path}: OpenCV could not encode an image of shape {image.shape}")
    write_bytes_atomic(path, encoded.tobytes())


def write_probabilities(path: Path, probs: Array, classes: Sequence[str]) -> None:
    """NPZ with `probs` (C, *S), float16, and `classes`, the names of its C channels."""
    if len(classes) != len(probs):
        raise ValueError(f"{len(probs)} channels, {len(classes)} names")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, probs=probs.astype(np.float16), classes=np.array(classes))


def write_overlay(path: Path, image: Array, planes: Array, colours: Sequence[tuple[int, int, int]]) -> None:
    """The image (H, W[, C]) with the outlines of `planes` (K, H, W) as an RGB PNG of the same size."""
    write_png(path, outline(image, [(planes, PREDICTION)], colours))


@dataclass(frozen=True)
class Size:
    """Of one class in one image or volume: pixels (voxels), and mm2 or mm3 where the pixel size is known, else NaN."""

    case: str
    class_name: str
    n_px: int
    area_mm2: float
    volume_mm3: float


def sizes(case_id: str, mask: Array, labels: LabelMap, pixel_mm: tuple[float, ...] = ()) -> list[Size]:
    """One for each class of a predicted mask: class indices (*S), or planes (K, *S) where classes overlap."""
    one = math.prod(pixel_mm) if pixel_mm else math.nan
    is_volume = mask.ndim - labels.overlap == 3
    planes = (mask[k] == 1 if labels.overlap else mask == k + 1 for k in range(len(labels.classes)))
    counts = [int(np.count_nonzero(plane)) for plane in planes]
    area, volume = (math.nan, one) if is_volume else (one, math.nan)
    return [Size(case_id, name, n, n * area, n * volume) for name, n in zip(labels.classes, counts, strict=True)]


def write_sizes(path: Path, new: Iterable[Size]) -> None:
    """Write the table; lines of an older one stay for the cases that were not predicted again."""
    new = list(new)
    cases = {size.case for size in new}
    old = [size for size in read_sizes(path) if size.case not in cases] if path.is_file() else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SIZE_HEADER)
    for size in [*old, *new]:
        *keys, mm2, mm3 = astuple(size)
        writer.writerow([*keys, *("" if math.isnan(mm) else repr(float(mm)) for mm in (mm2, mm3))])
    write_text_atomic(path, text.getvalue())


def read_sizes(path: Path) -> list[Size]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        if tuple(next(reader, ())) != SIZE_HEADER:
            raise SegkitError(f"{path}: not a table of sizes;   move it away, or choose another output")
        return [Size(case, name, int(px), *(float(mm) if mm else math.nan for mm in (mm2, mm3))) for case, name, px, mm2, mm3 in reader]


def file_name(class_name: str) -> str:
    """The class name with everything that file systems quarrel about as `_`."""
    return re.sub(r"[^\w.-]+", "_", class_name)
