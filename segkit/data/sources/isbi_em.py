"""ISBI 2012: membranes of neurons in serial-section electron microscopy (Arganda-Carreras et al., Front. Neuroanat. 2015).

    ROOT/train-volume.tif, ROOT/train-labels.tif          30 pages each, as released (imagej.net/events/isbi-2012-segmentation-challenge)
    ROOT/train/image/N.png, ROOT/train/label/N.png        one file a slice, as mirrors have it
    ROOT/train/images/*.tif, ROOT/train/labels/*.tif      the same; the last number in a name is the slice

Which of them is there is found out; ROOT may be train itself, or the folder around ROOT. Labels: membrane 0, cell 255. The
slices are of one stack (Drosophila larva, 50 x 4 x 4 nm), so neighbours look alike: runs of `blocks` slices form a group that
stays on one side of a split. The unlabelled test stack is not part of the cases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from segkit.data.case import Case, Pixels, relative
from segkit.data.io.base import IMAGE_SUFFIXES, ReadError
from segkit.data.io.images import ImageFile, MaskFile
from segkit.data.io.tiff import TiffPage, TiffPageMask, tiff_pages
from segkit.data.phantoms import base
from segkit.data.phantoms import microscopy as membranes
from segkit.system.errors import Problem

VOLUME = "train"
SPACING_MM = (50e-6, 4e-6, 4e-6)
STACKS = ("train-volume", "train-labels")
FOLDERS = (("image", "label"), ("images", "labels"))
LABELS: dict[str, dict[int | str, str]] = {
    "membrane": {0: "membrane", 255: "background"},
    "cell": {0: "background", 255: "cell"},
}
PHANTOM_DEPTH = 20
"""Fewer slices than these are taken from a stack of so many, so that there are four blocks of them."""
_NUMBER = re.compile(r"(\d+)\D*$")

Slices = dict[int, tuple[str, Pixels, Pixels]]
"""Position -> id, image, mask."""


class IsbiEm:
    """`foreground`: what is to be found, the membranes or the cells between them. `blocks`: slices of a group."""

    def __init__(self, root: Path, foreground: Literal["membrane", "cell"] = "membrane", blocks: int = 5) -> None:
        self.root = Path(root)
        self.foreground, self.blocks = foreground, blocks
        self.problems: list[Problem] = []

    @property
    def default_labels(self) -> dict[int | str, str] | None:
        return LABELS.get(self.foreground)

    def cases(self) -> Iterator[Case]:
        if not self._keys_are_right():
            return
        slices = self._slices()
        first = min(slices, default=0)
        for position, (name, image, mask) in sorted(slices.items()):
            group = f"block_{(position - first) // self.blocks}"
            yield Case(name, image, mask, group, spacing_mm=SPACING_MM, volume=VOLUME, position=position)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        step = max(1, -(-PHANTOM_DEPTH // n))
        for i, drawn in enumerate(membranes.sections(n, seed, step)):
            base.write_png(root / "train" / "image" / f"{i * step}.png", drawn.image)
            base.write_png(root / "train" / "label" / f"{i * step}.png", np.where(drawn.membrane, 0, 255).astype(np.uint8))

    def _keys_are_right(self) -> bool:
        if self.foreground not in LABELS:
            fix = " or ".join(f"data.source.foreground={name}" for name in LABELS)
            self.problems.append(Problem("data.source.foreground", f"there is no {self.foreground!r} in these images", fix))
        if self.blocks < 1:
            self.problems.append(Problem("data.source.blocks", f"is {self.blocks}; a group has one slice or more", "data.source.blocks=5"))
        return not self.problems

    def _slices(self) -> Slices:
        """Of the first layout that is found, near the root first."""
        for place in self._places():
            stacks = [_stack(place, name) for name in STACKS]
            if any(stacks):
                return self._pages(place, *stacks)
            for images, labels in FOLDERS:
                if (place / images).is_dir():
                    return self._paired(place / images, place / labels)
        fix = "data.root = the folder that holds train-volume.tif and train-labels.tif, or train/image and train/label"
        self.problems.append(Problem(str(self.root), "holds no slices in any known layout", fix))
        return {}

    def _places(self) -> Iterable[Path]:
        folders = sorted(path for path in self.root.glob("[!.]*") if path.is_dir()) if self.root.is_dir() else []
        return [self.root / "train", self.root, *(folder / "train" for folder in folders), *folders]

    def _pages(self, place: Path, images: Path | None, labels: Path | None) -> Slices:
        if images is None or labels is None:
            there, missing = (images, STACKS[1]) if images else (labels, STACKS[0])
            assert there is not None
            self._say(there, f"has no {missing}.tif beside it", f"put it into {place}")
            return {}
        try:
            n, m = tiff_pages(images), tiff_pages(labels)
        except ReadError as error:
            self._say(error.path, error.reason, "get the file again")
            return {}
        if n != m:
            self._say(labels, f"has {m} pages, {images.name} has {n}", "get both files of one release")
            return {}
        return {page: (f"{images.stem}_{page:02d}", TiffPage(images, page), TiffPageMask(labels, page)) for page in range(n)}

    def _paired(self, images: Path, labels: Path) -> Slices:
        if not labels.is_dir():
            self._say(images, f"has no folder {labels.name} beside it", f"put the masks into {labels}")
            return {}
        pictures, masks = self._numbered(images), self._numbered(labels)
        for n in sorted(pictures.keys() - masks.keys()):
            self._say(pictures[n], f"has no mask of number {n} in {relative(labels, self.root)}", "add the mask, or move the image away")
        for n in sorted(masks.keys() - pictures.keys()):
            self._say(masks[n], f"has no image of number {n} in {relative(images, self.root)}", "add the image, or move the mask away")
        both = sorted(pictures.keys() & masks.keys())
        return {n: (pictures[n].stem, ImageFile(pictures[n]), MaskFile(masks[n])) for n in both}

    def _numbered(self, folder: Path) -> dict[int, Path]:
        """Files by the last number in their names."""
        found: dict[int, Path] = {}
        for path in sorted(folder.glob("[!.]*")):
            number = _NUMBER.search(path.stem)
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            if number is None:
                self._say(path, "has no number in its name, so nothing says which slice it is", "rename it, or move it away")
            elif int(number[1]) in found:
                other = found[int(number[1])].name
                self._say(path, f"ambiguous: {other} and {path.name} have one number", "keep one of them")
            else:
                found[int(number[1])] = path
        return found

    def _say(self, path: Path, what: str, fix: str) -> None:
        self.problems.append(Problem(relative(path, self.root), what, fix))


def _stack(place: Path, name: str) -> Path | None:
    found = [path for path in (place / f"{name}.tif", place / f"{name}.tiff") if path.is_file()]
    return found[0] if found else None
