"""BraTS 2020: gliomas on MR, four modalities on one grid of 1 mm (Menze et al., IEEE TMI 2015; med.upenn.edu/cbica/brats2020).

    ROOT/**/BraTS20_Training_NNN/BraTS20_Training_NNN_{flair,t1,t1ce,t2,seg}.nii[.gz]     240 x 240 x 155, skull-stripped

Label maps hold 1 (necrotic core), 2 (oedema) and 4 (enhancing). The challenge scores three regions that lie in one another:
whole tumour {1, 2, 4}, tumour core {1, 4}, enhancing tumour {4}. Any file of the folder with "seg" in its name is the label
map: in the Kaggle copy that of patient 355 is called W39_1998.09.19_Segm.nii. Folders without one are unlabelled. Releases of
other years with these file names (2018 to 2021) are read, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segkit.data.case import Case, Pixels, relative
from segkit.data.io.base import ReadError
from segkit.data.phantoms import brain
from segkit.data.slices import Region, shape_of
from segkit.data.sources.base import natural, unreadable
from segkit.data.sources.nnunet import on_one_grid
from segkit.data.views import slice_of
from segkit.system.errors import Problem, nearest

MODALITIES = ("flair", "t1", "t1ce", "t2")
REGIONS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
NAMES: dict[int | str, str] = {"WT": "whole_tumor", "TC": "tumor_core", "ET": "enhancing_tumor"}
CLASSES: dict[int | str, str] = {0: "background", 1: "necrosis", 2: "oedema", 4: "enhancing"}
_CASE = re.compile(r"BraTS.*_\d+", re.IGNORECASE)
_VOLUME = re.compile(r"[^.].*\.nii(\.gz)?", re.IGNORECASE)
DEPTH = 4
"""Folders below root in which patients are looked for; copies nest them differently."""


class BraTS:
    """Modalities become channels in the order given. `regions`: overlapping planes; else one class a voxel.

    `slices` [start, stop, step], counted as `range` does, takes these slices as images instead of whole volumes. `orient`
    null leaves the axes as they are stored.
    """

    def __init__(
        self,
        root: Path,
        modalities: Sequence[str] = MODALITIES,
        regions: bool = True,
        slices: Sequence[int] | None = None,
        orient: str | None = None,
    ) -> None:
        self.root = Path(root)
        self.modalities, self.regions, self.slices, self.orient = tuple(modalities), regions, slices, orient
        self.problems: list[Problem] = []

    @property
    def default_labels(self) -> dict[int | str, str] | None:
        return dict(NAMES if self.regions else CLASSES)

    def cases(self) -> Iterator[Case]:
        if not self._keys_are_right():
            return
        folders = self._folders()
        if not folders:
            fix = "data.root = the folder that holds them, in any subfolders"
            self.problems.append(Problem(str(self.root), "no folders BraTS20_Training_NNN in it", fix))
        seen: dict[str, Path] = {}
        for folder in folders:
            if folder.name in seen:
                self._say(folder, f"is there twice: also {relative(seen[folder.name], self.root)}", "keep one of them")
                continue
            seen[folder.name] = folder
            for case in self._case(folder):
                yield from self._sliced(case) if self.slices else [case]

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        for patient, drawn in brain.volumes(n, seed):
            name = f"BraTS20_Training_{patient:03d}"
            for modality, voxels in (*drawn.images.items(), ("seg", drawn.tumor)):
                brain.write_nifti(root / "MICCAI_BraTS2020_TrainingData" / name / f"{name}_{modality}.nii.gz", voxels)

    def _keys_are_right(self) -> bool:
        before = len(self.problems)
        for modality in (m for m in self.modalities if m not in MODALITIES):
            fix = nearest(modality, MODALITIES) or f"choose among {', '.join(MODALITIES)}"
            self.problems.append(Problem("data.source.modalities", f"there is no modality {modality!r}", fix))
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            what = "names one twice" if self.modalities else "is empty"
            self.problems.append(Problem("data.source.modalities", what, f"data.source.modalities=[{','.join(MODALITIES)}]"))
        if self.slices is not None and (len(self.slices) != 3 or min(self.slices) < 0 or self.slices[2] < 1 or not range(*self.slices)):
            what = f"{list(self.slices)} is no [start, stop, step] that holds a slice"
            self.problems.append(Problem("data.source.slices", what, "data.source.slices=[50,105,10]"))
        return len(self.problems) == before

    def _folders(self) -> list[Path]:
        found = []
        for current, folders, _ in os.walk(self.root):
            here = Path(current)
            found += [here / name for name in folders if _CASE.fullmatch(name)]
            deeper = len(here.relative_to(self.root).parts) + 1 < DEPTH
            folders[:] = [name for name in folders if deeper and not _CASE.fullmatch(name) and not name.startswith(".")]
        return sorted((folder for folder in found if any(_volumes(folder))), key=lambda folder: natural(folder.name))

    def _case(self, folder: Path) -> Iterator[Case]:
        images = [self._modality(folder, modality) for modality in self.modalities]
        masks = [path for path in _volumes(folder) if "seg" in path.name.lower().removeprefix(folder.name.lower())]
        if len(masks) > 1:
            self._say(folder, f"ambiguous: {' and '.join(path.name for path in masks)} could be the label map", "keep one of them")
        elif not masks and "training" in folder.name.lower():
            self._say(folder, "has no label map *seg*.nii", "add it, or move the folder away")
        elif all(images):
            yield from self._read(folder.name, [path for path in images if path], masks[0] if masks else None)

    def _modality(self, folder: Path, modality: str) -> Path | None:
        wanted = f"{folder.name}_{modality}.nii".lower()
        found = [path for path in _volumes(folder) if path.name.lower() in (wanted, f"{wanted}.gz")]
        if len(found) == 1:
            return found[0]
        if found:
            self._say(folder, f"ambiguous: {' and '.join(path.name for path in found)}", "keep one of them")
        else:
            others = [m for m in self.modalities if m != modality]
            fix = f"add it, or  data.source.modalities=[{','.join(others)}]" if others else "add it, or move the folder away"
            self._say(folder / f"{folder.name}_{modality}.nii.gz", "is missing", fix)
        return None

    def _read(self, name: str, images: list[Path], mask: Path | None) -> Iterator[Case]:
        try:
            files = on_one_grid(images, {"": mask} if mask else {}, self.orient)
        except ReadError as error:
            self.problems.append(unreadable(error, relative(error.path, self.root)))
            return
        yield Case(name, files.image, self._truth(files.masks.get("")), group=name, spacing_mm=files.spacing_mm, dims=files.dims)

    def _truth(self, mask: Pixels | None) -> Pixels | dict[str, Pixels] | None:
        if mask is None or not self.regions:
            return mask
        return {region: Region(mask, values) for region, values in REGIONS.items()}

    def _sliced(self, volume: Case) -> list[Case]:
        assert self.slices is not None
        depth = shape_of(volume.image)[0]
        wanted = [z for z in range(*self.slices) if z < depth]
        if not wanted:
            what = f"has {depth} slices, of which data.source.slices={list(self.slices)} takes none"
            self._say(volume.image.paths[0], what, f"data.source.slices=[0,{depth},1]", "warning")
        return [slice_of(volume, z) for z in wanted]

    def _say(self, path: Path, what: str, fix: str, severity: Any = "error") -> None:
        self.problems.append(Problem(relative(path, self.root), what, fix, severity))


def _volumes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _VOLUME.fullmatch(path.name) and path.is_file())
