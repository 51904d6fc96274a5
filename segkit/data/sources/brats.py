"""Gliomas on MR, four modalities on one grid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from segkit.data.case import Case
from segkit.data.phantoms import tomography
from segkit.data.phantoms.base import write_nifti
from segkit.data.slices import Region, shape_of, slice_of
from segkit.data.sources.base import Source
from segkit.data.sources.files import files_in, walk
from segkit.system.files import natural
from segkit.system.shell import override

MODALITIES = ("flair", "t1", "t1ce", "t2")
REGIONS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
NAMES: dict[int | str, str] = {"WT": "whole_tumor", "TC": "tumor_core", "ET": "enhancing_tumor"}
CLASSES: dict[int | str, str] = {0: "background", 1: "necrosis", 2: "oedema", 4: "enhancing"}
_CASE = re.compile(r"BraTS.*_\d+", re.IGNORECASE)
SINCE_2023 = {"image": "(?P<id>.+)-(?P<channel>t1c|t1n|t2f|t2w)", "mask": "(?P<id>.+)-seg"}
"""The rule of the later releases, whose enhancing tumor is 3, and which data=folder reads."""
DEPTH = 4
"""Folders below root in which patients are looked for; copies nest them differently."""


class BraTS(Source):
    """BraTS 2020: gliomas on skull-stripped MR, four modalities on one grid of 1 mm.

        ROOT/**/BraTS20_Training_NNN/BraTS20_Training_NNN_{flair,t1,t1ce,t2,seg}.nii[.gz]     240 x 240 x 155

    Label maps hold 1 (necrotic core), 2 (edema) and 4 (enhancing). The challenge scores three regions that lie in one another:
    whole tumor {1, 2, 4}, tumor core {1, 4}, enhancing tumor {4}. Any file of the folder with "seg" in its name is the label
    map: in the Kaggle copy that of patient 355 is called W39_1998.09.19_Segm.nii. Folders of the validation set have none, and
    are unlabeled. Releases of other years with these file names (2018 to 2021) are read, too.

    Reference: Menze et al., IEEE Trans. Med. Imaging 34, 2015; med.upenn.edu/cbica/brats2020.

    Args:
        root: folder that holds the patients, in any subfolders.
        modalities: they become channels, in this order.
        regions: yield the overlapping regions; False yields one class a voxel.
        slices: start, stop and step, counted as `range` does, of the slices to take as images; None takes whole volumes.
        orient: axes that volumes are turned to, such as LPS; None leaves them as they are stored.
    """

    def __init__(
        self,
        root: Path,
        modalities: Sequence[str] = MODALITIES,
        regions: bool = True,
        slices: Sequence[int] | None = None,
        orient: str | None = None,
    ) -> None:
        super().__init__(root, NAMES if regions else CLASSES)
        self.modalities, self.regions, self.slices, self.orient = tuple(modalities), regions, slices, orient

    def cases(self) -> Iterator[Case]:
        self._check_keys()
        if self.problems:
            return
        folders = self._folders()
        if not folders:
            fix = "data.root = the folder that holds them, in any subfolders"
            if next(self.root.rglob("*-t1c.nii*"), None):
                line = " ".join(override(f"data.source.{key}", pattern) for key, pattern in SINCE_2023.items())
                fix = f"the files are called as those of BraTS 2023 and later:  data=folder data.dims=3 {line}"
            self.report(str(self.root), "no folders BraTS20_Training_NNN in it", fix)
        seen: dict[str, Path] = {}
        for folder in folders:
            if folder.name in seen:
                self.report(folder, f"is there twice: also {self.shown(seen[folder.name])}", "keep one of them")
                continue
            seen[folder.name] = folder
            for case in self._case(folder):
                yield from self._sliced(case) if self.slices else [case]

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        for patient, drawn in tomography.brains(n, seed):
            name = f"BraTS20_Training_{patient:03d}"
            for modality, voxels in (*drawn.images.items(), ("seg", drawn.tumor)):
                path = root / "MICCAI_BraTS2020_TrainingData" / name / f"{name}_{modality}.nii.gz"
                write_nifti(path, voxels, tomography.BRAIN_MM)

    def _check_keys(self) -> None:
        for modality in self.modalities:
            self.check_choice("modalities", modality, MODALITIES)
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            what = "names one twice" if self.modalities else "is empty"
            self.report("data.source.modalities", what, override("data.source.modalities", MODALITIES))
        if self.slices is not None and (len(self.slices) != 3 or min(self.slices) < 0 or self.slices[2] < 1 or not range(*self.slices)):
            what = f"{list(self.slices)} is not a [start, stop, step] that holds a slice"
            self.report("data.source.slices", what, override("data.source.slices", [50, 105, 10]))

    def _folders(self) -> list[Path]:
        found = []
        for here, folders, _ in walk(self.root):
            found += [here / name for name in folders if _CASE.fullmatch(name)]
            deeper = len(here.relative_to(self.root).parts) + 1 < DEPTH
            folders[:] = [name for name in folders if deeper and not _CASE.fullmatch(name)]
        return sorted((folder for folder in found if any(_volumes(folder))), key=lambda folder: natural(folder.name))

    def _case(self, folder: Path) -> Iterator[Case]:
        images = [self._modality(folder, modality) for modality in self.modalities]
        masks = [path for path in _volumes(folder) if "seg" in path.name.lower().removeprefix(folder.name.lower())]
        if len(masks) > 1:
            self.report(folder, f"ambiguous: {' and '.join(path.name for path in masks)} could be the label map", "keep one of them")
        elif not masks and "training" in folder.name.lower():
            self.report(folder, "has no label map *seg*.nii", "add it, or move the folder away")
        elif all(images):
            files = self.read_pair([path for path in images if path], {"": masks[0]} if masks else {}, self.orient)
            if files:
                mask = files.masks.get("")
                planes = {region: Region(mask, values) for region, values in REGIONS.items()} if mask and self.regions else mask
                yield Case(folder.name, files.image, planes, group=folder.name, spacing_mm=files.spacing_mm, dims=files.dims)

    def _modality(self, folder: Path, modality: str) -> Path | None:
        wanted = f"{folder.name}_{modality}.nii".lower()
        found = [path for path in _volumes(folder) if path.name.lower() in (wanted, f"{wanted}.gz")]
        if len(found) == 1:
            return found[0]
        if found:
            self.report(folder, f"ambiguous: {' and '.join(path.name for path in found)}", "keep one of them")
        else:
            others = [m for m in self.modalities if m != modality]
            fix = f"add it, or  {override('data.source.modalities', others)}" if others else "add it, or move the folder away"
            self.report(folder / f"{folder.name}_{modality}.nii.gz", "is missing", fix)
        return None

    def _sliced(self, volume: Case) -> list[Case]:
        assert self.slices is not None
        depth = shape_of(volume.image)[0]
        wanted = [z for z in range(*self.slices) if z < depth]
        if not wanted:
            what = f"has {depth} slices, of which data.source.slices={list(self.slices)} takes none"
            self.report(volume.image.paths[0], what, override("data.source.slices", [0, depth, 1]), "warning")
        return [slice_of(volume, z) for z in wanted]


def _volumes(folder: Path) -> list[Path]:
    return files_in(folder, ".nii", ".nii.gz")
