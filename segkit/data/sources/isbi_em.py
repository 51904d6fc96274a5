"""Membranes of neurons in serial-section electron microscopy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from segkit.data.case import Case, Pixels
from segkit.data.io.base import IMAGE_SUFFIXES
from segkit.data.io.images import ImageFile, MaskFile
from segkit.data.io.tiff import tiff_pages
from segkit.data.phantoms import microscopy
from segkit.data.phantoms.base import write_png
from segkit.data.sources.base import Labels, Source, Unusable
from segkit.data.sources.files import Keyed, files_in

VOLUME = "train"
SPACING_MM = (50e-6, 4e-6, 4e-6)
STACKS = ("train-volume", "train-labels")
FOLDERS = (("image", "label"), ("images", "labels"))
LABELS: dict[str, Labels] = {
    "membrane": {0: "membrane", 255: "background"},
    "cell": {0: "background", 255: "cell"},
}
PHANTOM_DEPTH = 20
"""Fewer slices than these are taken from a stack of so many, so that there are four blocks of them."""
_NUMBER = re.compile(r"(\d+)\D*$")

Slices = dict[int, tuple[str, Pixels, Pixels]]
"""Position -> id, image, mask."""


class IsbiEm(Source):
    """ISBI 2012: one stack of 30 slices (Drosophila larva, 50 x 4 x 4 nm) with membranes 0 and cells 255.

        ROOT/train-volume.tif, ROOT/train-labels.tif          30 pages each, as released
        ROOT/train/image/N.png, ROOT/train/label/N.png        one file a slice, as mirrors have it
        ROOT/train/images/*.tif, ROOT/train/labels/*.tif      the same; the last number in a name is the slice

    ROOT may be train itself, or the folder around ROOT. Neighboring slices look alike, so runs of `blocks` slices form a group
    that stays in one subset of a split. The unlabeled test stack is not part of the cases.

    Reference: Arganda-Carreras et al., Front. Neuroanat. 9, 2015; imagej.net/events/isbi-2012-segmentation-challenge.

    Args:
        root: folder of the data set.
        foreground: class to find, membrane or the cells between them.
        blocks: slices of a group.
    """

    def __init__(self, root: Path, foreground: Literal["membrane", "cell"] = "membrane", blocks: int = 5) -> None:
        super().__init__(root, LABELS.get(foreground))
        self.foreground, self.blocks = foreground, blocks

    def cases(self) -> Iterator[Case]:
        self.check_choice("foreground", self.foreground, LABELS)
        if self.blocks < 1:
            self.report("data.source.blocks", f"is {self.blocks}; a group has one slice or more", "data.source.blocks=5")
        if self.problems:
            return
        with self.reporting("get the file again"):
            slices = self._slices()
            first = min(slices, default=0)
            for position, (name, image, mask) in sorted(slices.items()):
                group = f"block_{(position - first) // self.blocks}"
                yield Case(name, image, mask, group, spacing_mm=SPACING_MM, volume=VOLUME, position=position)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        step = max(1, -(-PHANTOM_DEPTH // n))
        for i, drawn in enumerate(microscopy.sections(n, seed, step)):
            write_png(root / "train" / "image" / f"{i * step}.png", drawn.image)
            write_png(root / "train" / "label" / f"{i * step}.png", np.where(drawn.membrane, 0, 255).astype(np.uint8))

    def _slices(self) -> Slices:
        """The slices of the first layout that is found, near the root first."""
        folders = sorted(path for path in self.root.glob("[!.]*") if path.is_dir())
        for place in (self.root / "train", self.root, *(folder / "train" for folder in folders), *folders):
            stacks = [next((path for path in files_in(place, ".tif", ".tiff") if path.stem == name), None) for name in STACKS]
            if any(stacks):
                return self._pages(place, *stacks)
            for images, labels in FOLDERS:
                if (place / images).is_dir():
                    return self._paired(place / images, place / labels)
        fix = "data.root = the folder that holds train-volume.tif and train-labels.tif, or train/image and train/label"
        raise Unusable(self.root, "holds no slices in any known layout", fix)

    def _pages(self, place: Path, images: Path | None, labels: Path | None) -> Slices:
        if images is None or labels is None:
            there, missing = (images, STACKS[1]) if images else (labels, STACKS[0])
            raise Unusable(there or place, f"has no {missing}.tif beside it", f"put it into {place}")
        n, m = tiff_pages(images), tiff_pages(labels)
        if n != m:
            raise Unusable(labels, f"has {m} pages, {images.name} has {n}", "get both files of one release")
        return {i: (f"{images.stem}_{i:02d}", ImageFile(images, page=i), MaskFile(labels, page=i)) for i in range(n)}

    def _paired(self, images: Path, labels: Path) -> Slices:
        if not labels.is_dir():
            raise Unusable(images, f"has no folder {labels.name} beside it", f"put the masks into {labels}")
        numbered, masks = (
            Keyed.of(self._numbered(folder), folder, key=lambda path: str(int(_NUMBER.findall(path.stem)[0])))
            for folder in (images, labels)
        )
        return {int(n): (image.stem, ImageFile(image), MaskFile(mask)) for n, image, mask in self.pairs(numbered, masks)}

    def _numbered(self, folder: Path) -> Iterator[Path]:
        for path in files_in(folder, *IMAGE_SUFFIXES):
            if _NUMBER.search(path.stem):
                yield path
            else:
                self.report(path, "has no number in its name, so nothing says which slice it is", "rename it, or move it away")
