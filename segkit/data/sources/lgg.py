"""Lower-grade glioma on brain MR, and the preprocessing that the authors' network was trained with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from segkit.data.case import Case, Pixels
from segkit.data.io.base import Array, ReadError
from segkit.data.io.images import ImageFile, MaskFile
from segkit.data.phantoms import tomography
from segkit.data.phantoms.base import write_tiff
from segkit.data.slices import Slice, Volume, recent
from segkit.data.sources.base import Source
from segkit.data.sources.files import Keyed, files_in
from segkit.system.files import natural

FOLDER = "kaggle_3m"
NAME = re.compile(r"(?P<volume>(?P<patient>TCGA_[^_]+_[^_]+)_[^_]+)_(?P<n>\d+)(?P<mask>_mask)?\.tiff?", re.IGNORECASE)
SIDE = 256
"""Rows and columns after the published preprocessing."""
LEAST = 0.1
"""Of the maximum: what is darker is set to 0, and the volume cropped to the rest."""
PERCENTILES = (10, 99)
CHANNELS = ("t1", "flair", "t1ce")


@dataclass(frozen=True)
class PublishedVolume:
    """Slices (H, W, 3) in order as the volume (D, 256, 256, 3) float32 that the published network takes.

    The preprocessing of github.com/mateuszbuda/brain-segmentation-pytorch.
    Dark voxels to 0, crop to the rest, pad to a square, resize (bi-quadratic), clip between percentiles of the whole volume,
    z-score of each channel over the volume. The published recipe cuts dark slices off both ends as well; here they stay, so
    that each keeps its place, but they do not count in the statistics.
    """

    slices: tuple[Pixels, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return Volume(self.slices).paths

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.slices), SIDE, SIDE

    def read(self) -> Array:
        volume = recent.read(Volume(self.slices)).astype(np.float32)
        depth, rows, columns = bounding_box(self.slices)
        volume[volume < LEAST * volume.max()] = 0
        volume = resized(squared(volume[:, rows, columns]), order=2)
        low, high = np.percentile(volume[depth], PERCENTILES)
        volume = np.clip((volume - low) / max(high - low, 1e-6), 0, 1)
        mean, std = volume[depth].mean(axis=(0, 1, 2)), volume[depth].std(axis=(0, 1, 2))
        return np.asarray((volume - mean) / np.maximum(std, 1e-6), np.float32)


@dataclass(frozen=True)
class PublishedMask:
    """The masks (D, 256, 256) of a `PublishedVolume`: cropped, padded and resized with it (nearest neighbor)."""

    slices: tuple[Pixels, ...]
    masks: tuple[Pixels, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return Volume((*self.slices, *self.masks)).paths

    def read(self) -> Array:
        _, rows, columns = bounding_box(self.slices)
        return resized(squared(Volume(self.masks).read()[:, rows, columns]), order=0)


def bounding_box(slices: tuple[Pixels, ...]) -> tuple[slice, slice, slice]:
    """Slices, rows and columns that hold a voxel of at least a tenth of the maximum, in any channel."""
    volume = recent.read(Volume(slices))
    if not volume.any():
        raise ReadError(slices[0].paths[0], "every voxel of its volume is 0: no brain to crop to")
    bright = (volume >= LEAST * volume.max()).any(axis=-1)
    box = ndimage.find_objects(bright.astype(np.uint8))[0]
    return box[0], box[1], box[2]


def squared(volume: Array) -> Array:
    """Zeros on both sides of the shorter of rows and columns; an odd one goes to the end."""
    rows, columns = volume.shape[1:3]
    side = max(rows, columns)
    pads = [((side - n) // 2, side - n - (side - n) // 2) for n in (rows, columns)]
    return np.pad(volume, [(0, 0), *pads, *[(0, 0)] * (volume.ndim - 3)])


def resized(volume: Array, order: int) -> Array:
    """Rows and columns to 256 by splines of `order`, pixels being areas, no smoothing before; within the range of `volume`."""
    zoom = (1, SIDE / volume.shape[1], SIDE / volume.shape[2], 1)[: volume.ndim]
    larger = ndimage.zoom(volume, zoom, order=order, mode="grid-constant", grid_mode=True)
    return np.asarray(np.clip(larger, volume.min(), volume.max()))


class LGG(Source):
    """LGG: gliomas on brain MR of 110 patients, a case a slice.

        ROOT/kaggle_3m/TCGA_<site>_<patient>_<date>/TCGA_<site>_<patient>_<date>_<n>.tif        RGB: pre-contrast, FLAIR, post-contrast
        ROOT/kaggle_3m/TCGA_<site>_<patient>_<date>/TCGA_<site>_<patient>_<date>_<n>_mask.tif   0 and 255

    A folder is a volume, n the place in it, and TCGA_<site>_<patient> the group. ROOT may be kaggle_3m itself.

    Reference: Buda et al., Comput. Biol. Med. 109, 2019; kaggle.com/mateuszbuda/lgg-mri-segmentation.

    Args:
        root: folder that holds kaggle_3m/.
        drop_ends: leave the first and last slice of each volume out.
        published_preprocessing: preprocess whole volumes as published (see `PublishedVolume`), which also drops the ends.
    """

    def __init__(self, root: Path, drop_ends: bool = False, published_preprocessing: bool = False) -> None:
        super().__init__(root, {0: "background", 255: "tumor"})
        self.published = published_preprocessing
        self.drop_ends = drop_ends or published_preprocessing

    def cases(self) -> Iterator[Case]:
        folders = self._folders()
        if not folders:
            self.report(self.root, "no folders TCGA_<site>_<patient>_<date> in it", f"data.root = the folder that holds {FOLDER}/")
        for folder in folders:
            cases = self._slices(folder)
            if self.drop_ends:
                if 0 < len(cases) < 3:
                    what = f"has {len(cases)} slices, and without its first and last there are none"
                    self.report(folder, what, "data.source.drop_ends=false data.source.published_preprocessing=false", "warning")
                cases = cases[1:-1]
            yield from published(cases) if self.published else cases

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        for patient, drawn in tomography.brain_slices(n, seed):
            volume = f"TCGA_{('CS', 'DU', 'FG', 'HT')[patient % 4]}_{4940 + patient}_{19970000 + patient}"
            colors = np.stack([gray(drawn.images[name]) for name in CHANNELS], axis=-1)
            for z, (image, tumor) in enumerate(zip(colors, drawn.tumor, strict=True), 1):
                write_tiff(root / FOLDER / volume / f"{volume}_{z}.tif", image)
                write_tiff(root / FOLDER / volume / f"{volume}_{z}_mask.tif", np.uint8(255) * (tumor > 0))

    def _folders(self) -> list[Path]:
        """Mirrors nest the folder once more."""
        for place in (self.root, self.root / FOLDER, self.root / "lgg-mri-segmentation" / FOLDER, self.root / FOLDER / FOLDER):
            found = [folder for folder in place.glob("TCGA_*") if folder.is_dir()]
            if found:
                return sorted(found, key=lambda folder: natural(folder.name))
        return []

    def _slices(self, folder: Path) -> list[Case]:
        """The slices of a volume in order."""
        names = {path: NAME.fullmatch(path.name) for path in files_in(folder, ".tif", ".tiff")}
        for path in [path for path, name in names.items() if name is None or name["volume"] != folder.name]:
            self.report(path, f"is not called {folder.name}_<n>.tif or _<n>_mask.tif", "rename it, or move it away")
            del names[path]
        named = {path: name for path, name in names.items() if name is not None}

        def key(path: Path) -> str:
            return f"{folder.name}_{int(named[path]['n'])}"

        images = Keyed.of((path for path, name in named.items() if not name["mask"]), folder, ending=".tif", key=key)
        masks = Keyed.of((path for path, name in named.items() if name["mask"]), folder, ending="_mask.tif", key=key)
        return [
            Case(image.stem, ImageFile(image), MaskFile(mask), named[image]["patient"], volume=folder.name, position=int(named[image]["n"]))
            for _, image, mask in self.pairs(images, masks)
        ]


def published(cases: list[Case]) -> Iterator[Case]:
    """Yield the slices of one volume after the published preprocessing of the whole volume."""
    slices = tuple(case.image for case in cases)
    image = PublishedVolume(slices)
    masks = PublishedMask(slices, tuple(case.masks[""] for case in cases))
    for i, case in enumerate(cases):
        yield Case(case.id, Slice(image, i), Slice(masks, i), case.group, volume=case.volume, position=case.position, whole=image)


def gray(volume: Array) -> Array:
    """uint8, the brightest 0.1 % at 255."""
    return np.asarray(np.clip(volume * (255 / np.quantile(volume, 0.999)), 0, 255), np.uint8)
