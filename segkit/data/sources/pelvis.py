"""Pelvic bones on AP X-ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from segkit.data.case import Case
from segkit.data.io.base import Array
from segkit.data.phantoms import xray
from segkit.data.phantoms.base import write_nifti
from segkit.data.slices import Region
from segkit.data.sources.base import Source
from segkit.data.sources.files import Keyed, files_in, key_of

SPLITS = {"train": "train", "valid": "val", "test": "test"}
"""Subset by folder."""
IMAGES, TARGETS = "imgs", "targets"
CLASSES = {1: "femur", 2: "ilium", 3: "obturator_foramen", 4: "pubis", 5: "acetabular_roof", 6: "teardrop"}


class KeptLabels(Region):
    """A label map (H, W) uint8 in which values other than `values` are 0."""

    def read(self) -> Array:
        mask = self.mask.read()
        return np.where(np.isin(mask, self.values), mask, 0).astype(np.uint8)


class Pelvis(Source):
    """Pelvic bones on AP X-ray: 458 images in 2-D NIfTI.

        ROOT/train/imgs/NAME.nii.gz       one channel, stored [x, y] as ITK writes a PNG
        ROOT/train/targets/NAME.nii.gz    label map on the same grid: 1 femur to 6 teardrop, left and right alike
        ROOT/valid/...   ROOT/test/...    the data set's own split

    Stray values above 6 are background. Patients are not known: each image is a group of its own. The files were made of
    PNGs of unknown pixel size: the 1 mm in their headers stands for one pixel.

    Reference: universe.roboflow.com/ks-fsm9o/pelvis-ap-x-ray, CC BY 4.0.

    Args:
        root: folder that holds train/, valid/ and test/.
        labels: values to keep, of 1 to 6; None keeps all.
        orient: axes that images are turned to; None takes them as they are stored.
        exclude: places in the sorted files of each folder, from 0. These cases are left out of train; of the other folders
            they are yielded with the fact `excluded`.
    """

    def __init__(
        self,
        root: Path,
        labels: Sequence[int] | None = None,
        orient: str | None = "LPS",
        exclude: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.labels = tuple(CLASSES if labels is None else labels)
        super().__init__(root, {0: "background", **{value: name for value, name in CLASSES.items() if value in self.labels}})
        self.orient, self.exclude = orient, dict(exclude or {})

    def cases(self) -> Iterator[Case]:
        if not self.labels:
            self.report("data.source.labels", "is empty", f"choose among {', '.join(map(str, CLASSES))}")
        for value in self.labels:
            self.check_choice("labels", value, CLASSES)
        for folder in self.exclude:
            self.check_choice("exclude", folder, SPLITS)
        if self.problems:
            return
        folders = [folder for folder in SPLITS if (self.root / folder / IMAGES).is_dir()]
        if not folders:
            self.report_root(f"has no folder train/{IMAGES}", f"train/{IMAGES}", "train/, valid/ and test/")
        found = [case for folder in folders for case in self._folder(folder)]
        pixels = sum(case.spacing_mm == (1.0, 1.0) for case in found)
        if pixels:
            what = f"1 mm in the headers of {pixels} files, which stands for one pixel: results in mm are in pixels"
            self.report("spacing", what, severity="note")
        yield from found

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        """Seven of ten images in train, two in valid. Some masks have a stray value, as in the original."""
        test, valid = max(1, round(0.1 * n)), max(2, round(0.2 * n))
        folders = ["train"] * max(1, n - valid - test) + ["valid"] * valid + ["test"] * test
        for i, drawn in enumerate(xray.radiographs(n, seed)):
            labels = drawn.labels.copy()
            if i % 5 == 3:
                corner = labels[-9:-4, 4:10]
                corner[corner == 0] = 7 + i % 3
            for name, pixels in ((IMAGES, drawn.image), (TARGETS, labels)):
                write_nifti(root / folders[i] / name / f"pelvis_{i:03d}.nii.gz", pixels, (1.0, 1.0))

    def _folder(self, folder: str) -> Iterator[Case]:
        places = [self.root / folder / name for name in (IMAGES, TARGETS)]
        images, targets = (sorted(files_in(place, ".nii", ".nii.gz")) for place in places)  # as text, as indices count: 10 before 2
        excluded = self._excluded(folder, images)
        left_out = {key_of(image, places[0]) for image in excluded} if folder == "train" else set()
        if left_out:
            what = f"{len(left_out)} of {len(images)} images are left out, as data.source.exclude says"
            self.report(f"{folder}/{IMAGES}", what, severity="note")
        kept, masks = (
            Keyed.of((path for path in paths if key_of(path, place) not in left_out), place, ending=".nii.gz")
            for paths, place in zip((images, targets), places, strict=True)
        )
        for key, image, mask in self.pairs(kept, masks):
            files = self.read_pair(image, {"": mask}, self.orient)
            if files and files.dims == 3:
                self.report(image, "is a volume; one image is expected", "save its slices as files, or use  data=nnunet")
            elif files:
                kept_mask, facts = KeptLabels(files.masks[""], self.labels), {"excluded": "yes"} if image in excluded else {}
                yield Case(f"{folder}/{key}", files.image, kept_mask, "", SPLITS[folder], files.spacing_mm, facts)

    def _excluded(self, folder: str, images: list[Path]) -> set[Path]:
        listed = set(self.exclude.get(folder, ()))
        beyond = sorted(i for i in listed if not 0 <= i < len(images))
        if beyond:
            places = f"{', '.join(map(str, beyond))} {'is' if len(beyond) == 1 else 'are'}"
            what = f"{places} beyond the {len(images)} files of {folder}/{IMAGES}"
            fix = f"indices count from 0 to {len(images) - 1}" if images else f"take {folder} out of it"
            self.report(f"data.source.exclude.{folder}", what, fix)
        return {images[i] for i in listed if 0 <= i < len(images)}
