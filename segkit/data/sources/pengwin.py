"""Fragments of broken pelves on simulated X-ray."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from segkit.data.case import Case, Pixels
from segkit.data.io.base import Array, File, ReadError
from segkit.data.io.images import ImageFile, MaskFile
from segkit.data.phantoms import xray
from segkit.data.phantoms.base import write_tiff
from segkit.data.slices import recent
from segkit.data.sources.base import Source
from segkit.data.sources.files import Keyed, files_in

CATEGORIES = {"SA": 1, "LI": 2, "RI": 3}
FRAGMENTS = 10
"""Of a bone, at most."""
INPUT, OUTPUT = Path("input/images/x-ray"), Path("output/images/x-ray")
NAME = re.compile(r"(\d+)_\d+")
LEAST = 0.01
"""Added, with the minimum, before the logarithm."""


def bit(category: int, fragment: int) -> int:
    """Which bit stands for a fragment, 1 to 10, of a category, 1 to 3."""
    if not (1 <= category <= len(CATEGORIES) and 1 <= fragment <= FRAGMENTS):
        raise ValueError(f"category {category}, fragment {fragment}: categories are 1 to 3, fragments 1 to {FRAGMENTS}")
    return FRAGMENTS * (category - 1) + fragment


def encode_bits(planes: Mapping[tuple[int, int], Array]) -> Array:
    """The mask (H, W) uint32 of planes by (category, fragment), which may overlap."""
    if not planes:
        raise ValueError("no planes: nothing says how large the mask is")
    mask = np.zeros(next(iter(planes.values())).shape, np.uint32)
    for place, plane in planes.items():
        mask |= (plane > 0).astype(np.uint32) << np.uint32(bit(*place))
    return mask


@dataclass(frozen=True)
class Bits(File):
    """One bone of a bit mask, all its fragments: (H, W) of 0 and 1, uint8."""

    category: int

    def decode(self) -> Array:
        mask = recent.read(MaskFile(self.path))
        if mask.ndim != 2:
            raise ReadError(self.path, "a mask of bits has one channel, this file has colors")
        mask = mask.astype(np.uint32)
        if (mask & np.uint32(1 | 1 << 31)).any():
            raise ReadError(self.path, "is not a mask of bits: bit 0 or 31 is set, and only 1 to 30 stand for fragments")
        own = sum(1 << bit(self.category, fragment) for fragment in range(1, FRAGMENTS + 1))
        return ((mask & np.uint32(own)) > 0).astype(np.uint8)


@dataclass(frozen=True)
class PublishedIntensity:
    """The image (H, W, 1) uint8 as the challenge shows it: bone is dark.

    Attenuation (negative logarithm) from its minimum to its maximum, contrast-limited adaptive histogram equalization (clip
    limit 4, 8 x 8 tiles), inverted.
    """

    image: Pixels

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.image.paths

    def read(self) -> Array:
        image = self.image.read()
        path = self.paths[0]
        if image.shape[2] != 1 or not np.isfinite(image).all():
            raise ReadError(path, "one channel of finite numbers is expected")
        detected = image[..., 0].astype(np.float64)
        detected += detected.min() + LEAST
        if detected.min() <= 0:
            raise ReadError(path, "holds negative intensities, which have no logarithm;   data.source.published_intensity=false")
        beam = -np.log(detected)
        gray = (255 * (beam - beam.min()) / max(float(np.ptp(beam)), 1e-12)).astype(np.uint8)
        equalized: Array = cv2.createCLAHE(4, (8, 8)).apply(gray)
        return (255 - equalized)[..., None]


class Pengwin(Source):
    """PENGWIN 2024, task 2: three bones of broken pelves, which overlap on simulated X-ray.

        ROOT/train/input/images/x-ray/CCC_VVVV.tif     float32, what reaches the detector, of case CCC in view VVVV
        ROOT/train/output/images/x-ray/CCC_VVVV.tif    uint32, one bit for each fragment

    Bit 10 * (category - 1) + fragment stands for fragment 1 to 10 of sacrum (1), left (2) or right (3) hip bone; bit 0 is not
    used. Bones and fragments hide one another, so a pixel may have several bits: the three bones are planes that overlap. The
    views of a case show one patient, its group. ROOT may be the folder that holds input/ and output/.

    Reference: Sang et al., arXiv 2504.02382; zenodo.org/records/10913196.

    Args:
        root: folder that holds train/.
        published_intensity: show images as the challenge does (see `PublishedIntensity`); False takes them as stored.
    """

    def __init__(self, root: Path, published_intensity: bool = True) -> None:
        super().__init__(root, {"SA": "sacrum", "LI": "left_ilium", "RI": "right_ilium"})
        self.published = published_intensity

    def cases(self) -> Iterator[Case]:
        place = next((place for place in (self.root / "train", self.root) if (place / INPUT).is_dir()), None)
        if place is None:
            self.report(str(self.root), f"has no folder train/{INPUT}", "data.root = the folder that holds train/")
            return
        images, masks = (Keyed.of(files_in(place / folder, ".tif", ".tiff"), place / folder, "", ".tif") for folder in (INPUT, OUTPUT))
        for key, image, mask in self.pairs(images, masks):
            name, stored = NAME.fullmatch(key), ImageFile(image)
            if name is None:
                self.report(image, "is not called CASE_VIEW.tif, such as 001_0000.tif", "rename it and its mask, or move both away")
                continue
            planes = {bone: Bits(mask, category) for bone, category in CATEGORIES.items()}
            yield Case(key, PublishedIntensity(stored) if self.published else stored, planes, group=name[1])

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        for case, view, drawn in xray.projections(n, seed):
            for folder, pixels in ((INPUT, drawn.image), (OUTPUT, encode_bits(drawn.fragments))):
                write_tiff(root / "train" / folder / f"{case:03d}_{view:04d}.tif", pixels, compression="zlib")
