"""Nerves of the brachial plexus on ultrasound of the neck."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from segkit.data.case import Case, Pixels
from segkit.data.io import rle
from segkit.data.io.base import read_table
from segkit.data.io.images import ImageFile, MaskFile, image_shape
from segkit.data.phantoms import ultrasound
from segkit.data.phantoms.base import write_tiff
from segkit.data.sources.base import Source
from segkit.data.sources.files import Keyed, files_in

FOLDER, TABLE, SUFFIX = "train", "train_masks.csv", "_mask"
COLUMNS = ("subject", "img", "pixels")
NAME = re.compile(r"(?P<subject>\d+)_(?P<image>\d+)(_mask)?")
INSIDE = 255
Codes = dict[str, tuple[Path, int, str]]
"""Table, line and run-length code by key."""


class Nerve(Source):
    """Brachial plexus on ultrasound: frames of 580 x 420 gray pixels.

        ROOT/train/{subject}_{image}.tif        images
        ROOT/train/{subject}_{image}_mask.tif   masks, 0 and 255; all 0 where there is no nerve
        ROOT/train_masks.csv                    subject,img,pixels: the same masks as run-length codes along columns

    Mask files are what counts; a code of the table stands in where one is missing. Subjects are the groups: frames of one
    follow each other and look alike. ROOT may be train/ itself. The unlabeled test/ is not part of the cases.

    Reference: kaggle.com/c/ultrasound-nerve-segmentation, 2016.

    Args:
        root: folder that holds train/.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root, {0: "background", INSIDE: "nerve"})

    def cases(self) -> Iterator[Case]:
        folder = self.root / FOLDER if (self.root / FOLDER).is_dir() else self.root
        files = self._files(folder)
        images = Keyed.of((path for path in files if not path.stem.endswith(SUFFIX)), folder, ending=".tif")
        masks = Keyed.of((path for path in files if path.stem.endswith(SUFFIX)), folder, SUFFIX, f".tif, and no line in {TABLE}")
        codes = self._codes(folder) if any(key not in masks for key in images.one) else {}
        coded = {key: images.one[key] for key in codes if key in images.one and key not in masks}
        for key, image, mask in self.pairs(images, replace(masks, one={**masks.one, **coded})):
            pixels = self._coded(image, codes[key]) if mask == image else MaskFile(mask)
            if pixels is not None:
                yield Case(key, ImageFile(image), pixels, group=key.partition("_")[0])

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        lines = [",".join(COLUMNS)]
        for frame in ultrasound.frames(n, seed):
            stem = f"{frame.subject}_{frame.number}"
            write_tiff(root / FOLDER / f"{stem}.tif", frame.image)
            write_tiff(root / FOLDER / f"{stem}{SUFFIX}.tif", frame.mask)
            lines.append(f"{frame.subject},{frame.number},{rle.encode(frame.mask, 'columns')}")
        (root / TABLE).write_bytes(("\n".join(lines) + "\n").encode())

    def _files(self, folder: Path) -> list[Path]:
        paths = files_in(folder, ".tif", ".tiff")
        named = [path for path in paths if NAME.fullmatch(path.stem)]
        if not named:
            self.report(str(folder), "holds no SUBJECT_IMAGE.tif", f"data.root = the folder that holds {FOLDER}/")
            return []
        for path in (path for path in paths if not NAME.fullmatch(path.stem)):
            self.report(path, f"is not called SUBJECT_IMAGE.tif or SUBJECT_IMAGE{SUFFIX}.tif", "rename it, or move it away")
        return named

    def _codes(self, folder: Path) -> Codes:
        """Empty where there is no table."""
        found = [place / TABLE for place in (folder, folder.parent) if (place / TABLE).is_file()]
        codes: Codes = {}
        with self.reporting(f"its first line is  {','.join(COLUMNS)}"):
            for line, row in read_table(found[0], COLUMNS)[1] if found else ():
                key = f"{row['subject']}_{row['img']}"
                if key in codes:
                    self.report(found[0], f"line {line}: {key} stands in line {codes[key][1]} already", "keep one of them")
                codes.setdefault(key, (found[0], line, row["pixels"]))
        return codes

    def _coded(self, image: Path, coded: tuple[Path, int, str]) -> Pixels | None:
        """The mask of an image that has no file of its own; None, and reported, where its code does not fit."""
        table, line, code = coded
        try:
            with self.reporting("replace the file, or move it away"):
                rows, columns, _ = image_shape(image)
                rle.runs(code, rows, columns)
                return rle.RunLength(code, rows, columns, "columns", table, INSIDE)
        except rle.RunLengthError as error:
            self.report(table, f"line {line}: {image.stem}: {error}", f"fix the line, or add {image.stem}{SUFFIX}.tif")
        return None
