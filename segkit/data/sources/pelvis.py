"""Pelvic bones on AP X-ray: 458 images in 2-D NIfTI (universe.roboflow.com/ks-fsm9o/pelvis-ap-x-ray, CC BY 4.0).

    ROOT/train/imgs/NAME.nii.gz       one channel, stored [x, y] as ITK writes a PNG
    ROOT/train/targets/NAME.nii.gz    label map on the same grid: 1 femur to 6 teardrop, left and right alike
    ROOT/valid/...   ROOT/test/...    the data set's own split

Stray values above 6 are background. Nobody knows whose images they are: each is a group of its own. The files were made of
PNGs, whose pixel size is unknown: the 1 mm in their headers stands for one pixel.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from segkit.data.case import Case, Pixels, relative
from segkit.data.io.base import ReadError
from segkit.data.io.formats import LPS_TO_RAS
from segkit.data.phantoms import xray
from segkit.data.sources.base import Keyed, pair, unreadable
from segkit.system.errors import Problem, nearest

Array = npt.NDArray[Any]

SPLITS = {"train": "train", "valid": "val", "test": "test"}
"""Folder -> side."""
IMAGES, TARGETS = "imgs", "targets"
CLASSES = {1: "femur", 2: "ilium", 3: "obturator_foramen", 4: "pubis", 5: "acetabular_roof", 6: "teardrop"}
_FILE = re.compile(r"[^.].*\.nii(\.gz)?", re.IGNORECASE)


@dataclass(frozen=True)
class KeptLabels:
    """A label map (H, W) uint8 in which values other than `values` are 0."""

    mask: Pixels
    values: tuple[int, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.mask.paths

    def read(self) -> Array:
        mask = self.mask.read()
        return np.where(np.isin(mask, self.values), mask, 0).astype(np.uint8)


class Pelvis:
    """`labels` keeps some of the six. `exclude` lists cases by folder and place in its sorted files, counted from 0: in train
    they are left out, elsewhere they are yielded with the fact `excluded`. `orient` null takes the axes as they are stored."""

    def __init__(
        self,
        root: Path,
        labels: Sequence[int] | None = None,
        orient: str | None = "LPS",
        exclude: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.root = Path(root)
        self.labels = tuple(CLASSES if labels is None else labels)
        self.orient, self.exclude = orient, dict(exclude or {})
        self.problems: list[Problem] = []

    @property
    def default_labels(self) -> dict[int | str, str] | None:
        return {0: "background", **{value: name for value, name in CLASSES.items() if value in self.labels}}

    def cases(self) -> Iterator[Case]:
        if not self._keys_are_right():
            return
        folders = [folder for folder in SPLITS if (self.root / folder / IMAGES).is_dir()]
        if not folders:
            inner = sorted(self.root.glob(f"*/train/{IMAGES}"))
            fix = f"data.root={inner[0].parent.parent}" if inner else "data.root = the folder that holds train/, valid/ and test/"
            self.problems.append(Problem(str(self.root), f"has no folder train/{IMAGES}", fix))
        found = [case for folder in folders for case in self._folder(folder)]
        pixels = sum(case.spacing_mm == (1.0, 1.0) for case in found)
        if pixels:
            what = f"1 mm in the headers of {pixels} files, which stands for one pixel: results in mm are in pixels"
            self.problems.append(Problem("spacing", what, severity="note"))
        yield from found

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        """Seven of ten images in train, two in valid. Some masks have a value that means nothing, as in the original."""
        test, valid = max(1, round(0.1 * n)), max(2, round(0.2 * n))
        folders = ["train"] * max(1, n - valid - test) + ["valid"] * valid + ["test"] * test
        for i, drawn in enumerate(xray.radiographs(n, seed)):
            labels = drawn.labels.copy()
            if i % 5 == 3:
                corner = labels[-9:-4, 4:10]
                corner[corner == 0] = 7 + i % 3
            for name, pixels in ((IMAGES, drawn.image), (TARGETS, labels)):
                write_nifti(root / folders[i] / name / f"pelvis_{i:03d}.nii.gz", pixels)

    def _keys_are_right(self) -> bool:
        before = len(self.problems)
        unknown = [value for value in self.labels if value not in CLASSES]
        if unknown or not self.labels:
            what = f"there is no label {unknown[0]}" if unknown else "is empty"
            self.problems.append(Problem("data.source.labels", what, f"choose among {', '.join(map(str, CLASSES))}"))
        for folder in (folder for folder in self.exclude if folder not in SPLITS):
            fix = nearest(folder, SPLITS) or f"choose among {', '.join(SPLITS)}"
            self.problems.append(Problem("data.source.exclude", f"there is no folder {folder!r}", fix))
        return len(self.problems) == before

    def _folder(self, folder: str) -> Iterator[Case]:
        images, targets = (self._files(self.root / folder / name) for name in (IMAGES, TARGETS))
        excluded = self._excluded(folder, images)
        if folder == "train" and excluded:
            what = f"{len(excluded)} of {len(images)} images are left out, as data.source.exclude says"
            self.problems.append(Problem(f"{folder}/{IMAGES}", what, severity="note"))
        pictures, masks = self._keyed(images, folder, IMAGES), self._keyed(targets, folder, TARGETS)
        for key, image in pictures.one.items():
            if folder == "train" and image in excluded:
                continue
            if key in masks.one:
                yield from self._case(folder, key, image, masks.one[key], image in excluded)
            elif key not in masks:
                self._say(image, f"has no mask {folder}/{TARGETS}/{key}.nii.gz", "add the mask, or move the image away")
        for key in (key for key in masks.one if key not in pictures):
            self._say(masks.one[key], f"has no image {folder}/{IMAGES}/{key}.nii.gz", "add the image, or move the mask away")

    def _files(self, folder: Path) -> list[Path]:
        """In the order that indices count in: of names as text, so that 10 comes before 2."""
        return sorted(path for path in folder.iterdir() if _FILE.fullmatch(path.name)) if folder.is_dir() else []

    def _excluded(self, folder: str, images: list[Path]) -> set[Path]:
        listed = set(self.exclude.get(folder, ()))
        beyond = sorted(i for i in listed if not 0 <= i < len(images))
        if beyond:
            what = (
                f"{', '.join(map(str, beyond))} {'is' if len(beyond) == 1 else 'are'} beyond the {len(images)} files of {folder}/{IMAGES}"
            )
            fix = f"indices count from 0 to {len(images) - 1}" if images else f"take {folder} out of it"
            self.problems.append(Problem(f"data.source.exclude.{folder}", what, fix))
        return {images[i] for i in listed if 0 <= i < len(images)}

    def _keyed(self, files: list[Path], folder: str, name: str) -> Keyed:
        keyed = Keyed.of(files, self.root / folder / name)
        for paths in keyed.several.values():
            self._say(paths[0], f"ambiguous: {' and '.join(path.name for path in paths)}", "keep one of them")
        return keyed

    def _case(self, folder: str, key: str, image: Path, mask: Path, excluded: bool) -> Iterator[Case]:
        try:
            files = pair(image, {"": mask}, self.orient)
        except ReadError as error:
            self.problems.append(unreadable(error, relative(error.path, self.root)))
            return
        if files.dims == 3:
            self._say(image, "is a volume; one image is wanted", "save its slices as files, or use  data=nnunet")
            return
        yield Case(
            id=f"{folder}/{key}",
            image=files.image,
            mask=KeptLabels(files.masks[""], self.labels),
            split=SPLITS[folder],
            spacing_mm=files.spacing_mm,
            facts={"excluded": "yes"} if excluded else {},
        )

    def _say(self, path: Path, what: str, fix: str) -> None:
        self.problems.append(Problem(relative(path, self.root), what, fix))


def write_nifti(path: Path, pixels: Array) -> None:
    """(H, W) as ITK converts a PNG: stored [x, y], pixels of 1 mm, x to the patient's left, y to the back."""
    untyped: Any = nibabel.Nifti1Image
    image = untyped(np.ascontiguousarray(pixels.T), LPS_TO_RAS)
    image.set_qform(LPS_TO_RAS, code=1)
    image.set_sform(LPS_TO_RAS, code=1)
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), mtime=0))
