"""Nerves of the brachial plexus on ultrasound of the neck (kaggle.com/c/ultrasound-nerve-segmentation, 2016).

    ROOT/train/{subject}_{image}.tif        580 x 420 grey
    ROOT/train/{subject}_{image}_mask.tif   0 and 255; all 0 where there is no nerve
    ROOT/train_masks.csv                    subject,img,pixels: the same masks as run-length codes along columns

Mask files are what counts; a code of the table stands in where one is missing. Subjects are the groups: frames of one follow
each other and look alike. ROOT may be train/ itself. The unlabelled test/ is not part of the cases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt
import tifffile

from segkit.data.case import Case, Pixels, relative
from segkit.data.io import rle
from segkit.data.io.base import ReadError
from segkit.data.io.images import ImageFile, MaskFile, image_size
from segkit.data.phantoms import nerve
from segkit.data.sources.base import Keyed, natural
from segkit.system.errors import Problem

FOLDER = "train"
TABLE = "train_masks.csv"
COLUMNS = ("subject", "img", "pixels")
SUFFIX = "_mask"
NAME = re.compile(r"(?P<subject>\d+)_(?P<image>\d+)(_mask)?")
INSIDE = 255


class Nerve:
    """`root` holds train/, or is train/ itself."""

    default_labels: ClassVar[dict[int | str, str] | None] = {0: "background", INSIDE: "nerve"}

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.problems: list[Problem] = []

    def cases(self) -> Iterator[Case]:
        folder = self.root / FOLDER if (self.root / FOLDER).is_dir() else self.root
        files = self._files(folder)
        images = Keyed.of((path for path in files if not path.stem.endswith(SUFFIX)), folder)
        masks = Keyed.of((path for path in files if path.stem.endswith(SUFFIX)), folder, SUFFIX)
        for paths in (*images.several.values(), *masks.several.values()):
            self._say(paths[0], f"ambiguous: {' and '.join(path.name for path in paths)}", "keep one of them")
        codes = self._codes(folder) if any(key not in masks for key in images.one) else {}
        for key, image in images.one.items():
            mask = MaskFile(masks.one[key]) if key in masks.one else None if key in masks else self._coded(image, codes)
            if mask is not None:
                yield Case(key, ImageFile(image), mask, group=key.partition("_")[0])
        for key in (key for key in masks.one if key not in images):
            self._say(masks.one[key], f"has no image {key}.tif", "add it, or move the mask away")

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        lines = [",".join(COLUMNS)]
        for frame in nerve.frames(n, seed):
            stem = f"{frame.subject}_{frame.number}"
            _write(root / FOLDER / f"{stem}.tif", frame.image)
            _write(root / FOLDER / f"{stem}{SUFFIX}.tif", frame.mask)
            lines.append(f"{frame.subject},{frame.number},{rle.encode(frame.mask, 'columns')}")
        (root / TABLE).write_bytes(("\n".join(lines) + "\n").encode())

    def _files(self, folder: Path) -> list[Path]:
        paths = sorted(folder.glob("[!.]*.[tT][iI][fF]*"), key=lambda path: natural(path.name))
        named = [path for path in paths if NAME.fullmatch(path.stem)]
        if not named:
            fix = f"data.root = the folder that holds {FOLDER}/"
            self.problems.append(Problem(str(folder), "holds no SUBJECT_IMAGE.tif", fix))
            return []
        for path in (path for path in paths if not NAME.fullmatch(path.stem)):
            self._say(path, f"is not called SUBJECT_IMAGE.tif or SUBJECT_IMAGE{SUFFIX}.tif", "rename it, or move it away")
        return named

    def _codes(self, folder: Path) -> dict[str, tuple[Path, int, str]]:
        """Table, line and code by key; empty where there is no table."""
        found = [place / TABLE for place in (folder, folder.parent) if (place / TABLE).is_file()]
        codes: dict[str, tuple[Path, int, str]] = {}
        try:
            for line, (subject, image, code) in rle.table(found[0], COLUMNS) if found else ():
                key = f"{subject}_{image}"
                if key in codes:
                    self._say(found[0], f"line {line}: {key} stands in line {codes[key][1]} already", "keep one of them")
                codes.setdefault(key, (found[0], line, code))
        except ReadError as error:
            self._say(error.path, error.reason, f"its first line is  {','.join(COLUMNS)}")
        return codes

    def _coded(self, image: Path, codes: dict[str, tuple[Path, int, str]]) -> Pixels | None:
        """The mask of an image that has no file of its own; None, and told, where there is none at all."""
        if image.stem not in codes:
            what = f"has no mask {image.stem}{SUFFIX}.tif, and no line in {TABLE}"
            self._say(image, what, "add the mask, or move the image away")
            return None
        table, line, code = codes[image.stem]
        try:
            rows, columns = image_size(image)
            rle.runs(code, rows, columns)
        except ReadError as error:
            self._say(image, error.reason, "replace the file, or move it away")
        except rle.RunLengthError as error:
            self._say(table, f"line {line}: {image.stem}: {error}", f"fix the line, or add {image.stem}{SUFFIX}.tif")
        else:
            return rle.RunLength(code, rows, columns, "columns", table, INSIDE)
        return None

    def _say(self, path: Path, what: str, fix: str) -> None:
        self.problems.append(Problem(relative(path, self.root), what, fix))


def _write(path: Path, pixels: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, metadata=None, software="", photometric="minisblack")
