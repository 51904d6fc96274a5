"""The inputs of a prediction: one item for each mask to write, from files or from a data set."""

from __future__ import annotations

import fnmatch
import glob
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from segkit.data.case import Case, Pixels
from segkit.data.channels import WithChannels
from segkit.data.io.base import Array, stem, suffix_of
from segkit.data.io.images import ImageFile
from segkit.data.io.volumes import VolumeFile, is_volume_file, n_volumes
from segkit.data.slices import Channels, Volume, by_volume, slices, with_neighbours
from segkit.data.sources.files import all_files, image_files, unread_files
from segkit.data.sources.proposals import speaks_of_masks
from segkit.system.errors import Problem, ProblemsFound, SegkitError
from segkit.system.files import natural
from segkit.system.progress import console
from segkit.system.text import readable


@dataclass(frozen=True)
class InputItem:
    """One mask to write. `cases` are the image, or all slices of a volume that a 2-D network predicts one by one.

    `like` is the volume file whose format and grid the mask takes; None: PNG. For a volume file `cases` are empty until its
    turn comes (`cases_of`), so that a damaged one does not stop the others.
    """

    name: str
    source: Path
    cases: tuple[Case, ...] = ()
    like: Path | None = None

    @property
    def slice_images(self) -> tuple[Pixels, ...]:
        """The images of a volume whose slices are image files; empty for all else."""
        image = self.cases[0].image if self.like is None and self.cases else None
        return image.slices if isinstance(image, Volume) else ()

    @property
    def is_series(self) -> bool:
        """Whether its slices are files of their own, which a format needs together."""
        return self.like is None and len(self.cases) > 1

    def is_stack(self, cases: Sequence[Case]) -> bool:
        """Whether slices are predicted one by one and stacked: those of one file, or of one series of files."""
        return cases[0].dims == 2 and (len(cases) > 1 or (self.like is not None and bool(cases[0].volume)))

    def files(self, output: Path, suffix: str = ".png") -> list[Path]:
        """The files of its mask: one, or an image per slice of a volume whose slices were image files."""
        if self.is_series:
            return [output / f"{case.id}{suffix}" for case in self.cases]
        if self.slice_images:
            return [output / self.name / f"{image.paths[0].stem}_{z:03d}{suffix}" for z, image in enumerate(self.slice_images)]
        return [output / f"{self.name}{suffix if self.like is None else suffix_of(self.like.name)}"]

    def split(self, mask: Array, overlap: bool) -> list[Array]:
        """Cut a mask into the parts that belong into each of its files."""
        if not (self.slice_images or self.is_series):
            return [mask]
        return list(np.moveaxis(mask, 1, 0)) if overlap else list(mask)


def of_files(source: str, output: Path) -> list[InputItem]:
    """List the items of a file, a folder (with its subfolders) or a glob; masks keep the relative names."""
    images, root = find_images(source, output)
    items = []
    for image, name in name_masks(images, root).items():
        is_volume = is_volume_file(image)
        items.append(InputItem(name, image, () if is_volume else (Case(name, ImageFile(image)),), image if is_volume else None))
    clash = [item for item in items if item.files(output)[0].resolve() == item.source.resolve()]
    if clash:
        raise SegkitError(f"output={output} would overwrite the input {clash[0].source};   choose another output folder")
    return items


def cases_of(item: InputItem, dims: int, neighbours: Sequence[int], orient: str | None, channels: int = 1) -> tuple[Case, ...]:
    """The network's inputs of an item; of a volume file all slices that its header declares, or the whole.

    Raises:
        SegkitError: the file is 4-D, and its volumes are not as many as the `channels` of the network.
    """
    if item.cases or item.like is None:
        return item.cases
    if (n := n_volumes(item.like)) > 1 and n * len(neighbours) != channels:
        takes = f"{channels} channel{'s' * (channels > 1)}"
        fix = "save each volume as a file of its own"
        raise SegkitError(f"{item.like} is 4-D: {n} volumes in one file (time points?), but this checkpoint takes {takes};   {fix}")
    image = VolumeFile(item.like, orient)
    volume = Case(item.name, image, spacing_mm=image.spacing_mm, dims=3, whole=image)
    if dims == 3:
        return (volume,)
    problems: list[Problem] = []
    found = tuple(with_neighbours(slices([volume], problems), neighbours, problems))
    if problems:
        raise ProblemsFound(problems, before="prediction starts")
    return found


def of_cases(cases: Iterable[Case]) -> list[InputItem]:
    """List the items of a data set: slices of a volume file become one volume again; every other case has a mask named by its id."""
    cases = list(cases)
    whole_files = {case.volume for case in cases if case.whole is not None and case.dims == 2 and is_file(case)}
    stacked = by_volume([case for case in cases if case.volume in whole_files])
    items = [InputItem(name, members[0].image.paths[0], tuple(members), members[0].image.paths[0]) for name, members in stacked.items()]
    for case in (case for case in cases if case.volume not in whole_files):
        items.append(InputItem(case.id, case.image.paths[0], (case,), like_of(case)))
    return sorted(items, key=lambda item: natural(item.name))


def like_of(case: Case) -> Path | None:
    """The volume file whose format a mask takes; None: an image, also of one page of a stack."""
    first = case.image.paths[0]
    image = case.image.parts[0] if isinstance(case.image, Channels) else case.image
    image = image.image if isinstance(image, WithChannels) else image
    return first if is_volume_file(first) and getattr(image, "page", None) is None else None


def is_file(case: Case) -> bool:
    """Whether the slice was cut out of a volume file, rather than a file of its own."""
    return not isinstance(case.whole, Volume) and is_volume_file(case.image.paths[0])


def find_images(source: str, output: Path) -> tuple[list[Path], Path]:
    """Images in natural order, but not what an earlier prediction left in `output`; and the folder their names are relative to."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path], path.parent
    if path.is_dir():
        found, root = list(image_files(path, below=[output])), path
        print_doubtful(path, found, output)
    else:
        root = Path(*takewhile(lambda part: not set(part) & set("*?["), path.parts[:-1]))  # up to the first wildcard
        files = [match for match in matches(path, root) if match.is_file()]
        found = [file for file in files if not file.resolve().is_relative_to(output.resolve())]
    if not found:
        what = "folder holds no image" if path.is_dir() else "there is no such file, folder or match"
        raise SegkitError(
            f"input={source}: {what};   images, NIfTI, NRRD, MHA, NPY are read (DICOM and other layouts: data=NAME data.root=FOLDER)"
        )
    return found, root


def print_doubtful(folder: Path, images: Sequence[Path], output: Path) -> None:
    """Say which images of a folder are of a kind that is not read, and which are called like masks but predicted all the same."""
    if unread := unread_files(folder, below=[output]):
        what = f"{len(unread)} files of a kind that is not read are left out, e.g. {unread[0].relative_to(folder)}"
        console.print(f"input      {what};   save them as PNG or NIfTI (DICOM: data=dicom data.root=FOLDER)", markup=False)
    masks = [image.relative_to(folder) for image in images if speaks_of_masks(str(image.relative_to(folder)))]
    if 0 < len(masks) < len(images):
        what = f"{len(masks)} of {len(images)} images are called like masks and predicted as the others, e.g. {masks[0]}"
        console.print(f"input      {what};   input='{folder}/PATTERN'  names the images alone", markup=False)


def matches(path: Path, root: Path) -> list[Path]:
    """The files that fit a glob; `**` follows links to folders, but not back into a folder above them."""
    if "**" not in path.parts:
        return sorted((Path(match) for match in glob.glob(str(path))), key=lambda match: natural(str(match)))  # noqa: PTH207 (absolute)
    parts = (path / "*" if path.name == "**" else path).relative_to(root).parts
    below = [r"(?:[^/]+/)*" if part == "**" else fnmatch.translate(part).replace(".*", "[^/]*")[:-2] + "/" for part in parts]
    pattern = re.compile("".join(below).removesuffix("/"))
    return [file for file in all_files(root) if pattern.fullmatch(file.relative_to(root).as_posix())]


def name_masks(images: Sequence[Path], root: Path) -> Mapping[Path, str]:
    """The name of each mask, without suffix. Two images that would share a name keep their suffix in it."""
    plain = {image: readable((image.relative_to(root).parent / stem(image)).as_posix()) for image in images}
    taken = Counter(plain.values())
    names = {image: name if taken[name] == 1 else readable(image.relative_to(root).as_posix()) for image, name in plain.items()}
    if len(set(names.values())) < len(images):
        raise SegkitError("input holds images whose masks would share a name;   predict them one folder at a time")
    return names
