"""The base of all sources: finding files, pairing images with masks, and reporting what does not fit.

Pairs are made by exact key, never by position in a sorted list. The headers of volumes are read as well, because image and
mask must lie on one grid in the patient.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from segkit.data.case import Case, Pixels, relative
from segkit.data.io.base import ReadError, read_json
from segkit.data.io.images import ImageFile, MaskFile
from segkit.data.io.masks import AS_STORED, MaskRules
from segkit.data.io.slicer import is_slicer, segment_files
from segkit.data.io.volumes import VolumeFile, VolumeMask, header, is_volume_file, same_grid
from segkit.data.slices import Channels
from segkit.data.sources.files import Exclude, Keyed
from segkit.system.errors import Problem, SegkitError, Severity, nearest
from segkit.system.shell import override

Labels = Mapping[int | str, str]


class Source(ABC):
    """Base class of an on-disk layout: lists the cases of a data set, and decodes nothing.

    A subclass implements `cases`, and `write_phantom` where presets are to run without a download. `data.source._target_`
    names it, and it is called with `root` and the other keys of `data.source`. A class without this base needs `cases`,
    `problems` and `default_labels`.

    Args:
        root: folder of the data set.
        labels: class name by raw mask value, or by name of the mask where each structure has its own. Used where
            `data.labels` is not set. None: unknown, so the audit looks at the values (0/1 and 0/255 need no map).
        group: regular expression searched in the id of a case; its first group, or the whole match, is the patient.

    Attributes:
        problems: one `Problem` for everything that is not well paired (an orphan, an ambiguous pair), filled by `cases`.
        default_labels: `labels`, or what `cases` has found in the files of the layout.
        is_excluded: `data.exclude`, so that what is left out needs no partner.
        needs_masks: false in a prediction, where an image without mask is a case as any other.
    """

    def __init__(self, root: Path, labels: Labels | None = None, group: str | None = None) -> None:
        self.root, self.group = Path(root), group
        self.default_labels = labels
        self.problems: list[Problem] = []
        self.mask_rules: MaskRules = AS_STORED
        self.is_excluded = Exclude()
        self.needs_masks = True
        self._warned: dict[str, tuple[int, int]] = {}
        try:
            self._pattern = re.compile(group) if group else None
        except re.error as error:
            self._pattern = None
            self.report("data.source.group", f"{group!r} is not a regular expression ({error})", "e.g. '^(\\d+)_'")

    @abstractmethod
    def cases(self) -> Iterator[Case]:
        """Yield the cases that are well paired."""

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        """Write `n` synthetic images to `root` in this layout, byte-identical for equal `n` and `seed`."""
        raise SegkitError(f"{type(self).__name__} has no phantom;   data.root=FOLDER")

    # problems

    def report(self, where: Path | str, what: str, fix: str = "", severity: Severity = "error") -> None:
        """Add a problem of a file below root, or of a key."""
        self.problems.append(Problem(self.shown(where) if isinstance(where, Path) else where, what, fix, severity))

    def warn(self, kind: str, where: str, what: str, fix: str = "") -> None:
        """Add a warning; those of one kind are reported as one, with their number."""
        first, more = self._warned.get(kind, (len(self.problems), -1))
        if more < 0:
            self.report(where, what, fix, "warning")
        else:
            plain = self.problems[first].what.removesuffix(f" (the same in {more} more)")
            self.problems[first] = replace(self.problems[first], what=f"{plain} (the same in {more + 1} more)")
        self._warned[kind] = (first, more + 1)

    def root_exists(self) -> bool:
        """Whether root exists; reported, with a folder of nearly that name, where it does not."""
        if self.root.exists():
            return True
        beside = [child.name for child in self.root.parent.iterdir() if child.is_dir()] if self.root.parent.is_dir() else []
        near = get_close_matches(self.root.name, beside, n=1)
        self.report(self.root, "no such folder", override("data.root", str(self.root.parent / near[0]) if near else "FOLDER"))
        return False

    def report_root(self, what: str, pattern: str, holds: str, where: Path | None = None) -> None:
        """Report that root is not the folder it should be, naming a folder in it that is, by what lies in that one."""
        names = dict.fromkeys(path.relative_to(self.root).parts[0] for path in sorted(self.root.glob(f"*/{pattern}")))
        fix = (
            "  or  ".join(override("data.root", str(self.root / name)) for name in list(names)[:4])
            if names
            else f"data.root = the folder that holds {holds}"
        )
        self.report(str(where or self.root), what, fix)

    def check_choice(self, key: str, value: Any, choices: Iterable[Any], severity: Severity = "error") -> None:
        """Report a value of the key `data.source.<key>` that is not one of `choices`."""
        known = list(map(str, choices := list(choices)))
        if value not in choices:
            what = f"{value!r} is not a valid option; available: {', '.join(known) or 'none'}"
            self.report(f"data.source.{key}", what, nearest(str(value), known), severity)

    def reporting(self, fix: str = "") -> Reporting:
        """Report a `ReadError` of the block, which ends there, with its own fix, or else this one, or else that of `unreadable`."""
        return Reporting(self, fix)

    def shown(self, path: Path) -> str:
        """A path below root as messages name it."""
        shown = relative(path, self.root)
        return str(path) if shown == "." else shown

    # files

    def pairs(self, images: Keyed, masks: Keyed) -> Iterator[tuple[str, Path, Path]]:
        """Yield key, image and mask; report what is ambiguous or alone, with the name that the missing partner would have."""
        self.report_ambiguous(images, masks)
        self._report_without_partner("image", images, "mask", masks)
        yield from ((key, image, masks.one[key]) for key, image in images.one.items() if key in masks.one)
        self._report_without_partner("mask", masks, "image", images)

    def _report_without_partner(self, kind: str, these: Keyed, partner: str, others: Keyed) -> None:
        alone = {key: path for key, path in these.one.items() if key not in others and not self.is_excluded(key)}
        if alone:
            what = f"has no {partner} {self.shown(others.folder / next(iter(alone)))}{others.ending}"
            self.report_alone(list(alone.values()), what, f"add the {partner}, or move the {kind} away")

    def report_alone(self, paths: Sequence[Path], what: str, fix: str, severity: Severity = "error") -> None:
        """Report files without partner as one problem: the first, and how many more."""
        more = f" (and {len(paths) - 1} more, such as {paths[1].name})" if len(paths) > 1 else ""
        self.report(paths[0], what + more, fix, severity)

    def report_ambiguous(self, images: Keyed, masks: Keyed) -> None:
        """Report keys that several files have."""
        for kind, keyed in (("image", images), ("mask", masks)):
            for key, paths in ((key, paths) for key, paths in keyed.several.items() if not self.is_excluded(key)):
                names = " and ".join(path.name for path in paths)
                self.report(paths[0], f"ambiguous: {names} could be the {kind} of {key}", "keep one of them")

    def read_pair(self, images: Path | Sequence[Path], masks: Mapping[str, Path], orient: str | None) -> Pair | None:
        """An image, or several as channels on one grid, and its masks (see `pair`); None, and reported, where they do not fit."""
        first, *others = [images] if isinstance(images, Path) else images
        with self.reporting():
            found = pair(first, masks, orient, self.mask_rules)
            for other in others:
                with as_channel(other):
                    pair(first, {"": other}, orient)
            parts = [found.image, *(pair(other, {}, orient).image for other in others)]
            return replace(found, image=Channels(tuple(parts))) if others else found
        return None

    def file_named(self, where: str, name: Any, folder: Path) -> Path | None:
        """The file that an annotation names relative to `folder`; None, and reported, where it is missing or outside root."""
        if not isinstance(name, str) or not name:
            self.report(where, "names no image", "name it, or remove the entry")
            return None
        try:
            for path in places_of(name, folder):
                if not self.is_below(path):
                    fix = "put the file itself below data.root, or set data.root to a folder above all files"
                    self.report(where, f"names {name}, which leads out of data.root to {path.resolve()}", fix)
                    return None
                if path.is_file():
                    short = Path(os.path.normpath(path))  # without `..`, if that is the same file: behind a link it need not be
                    return short if short.is_file() and short.samefile(path) else path
        except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have, a link to itself
            self.report(where, f"names {name[:80]!r}, which cannot be opened ({error})", "fix the name")
            return None
        self.report(where, f"names {name}, which is missing", f"put it into {self.shown(folder)}, or fix the name")
        return None

    def is_below(self, path: Path) -> bool:
        """Whether a path lies below root, also where links lead."""
        return path.resolve().is_relative_to(self.root.resolve())

    # what is known of a case

    def group_of(self, id_: str) -> str:
        """The patient in the id of a case; empty without a rule."""
        if self._pattern is None:
            return ""
        match = self._pattern.search(id_)
        if match is None:
            self.report("data.source.group", f"{self.group!r} does not match {id_!r}", "every case needs a group, or none")
            return ""
        return str(match.group(1) if self._pattern.groups else match.group(0))

    def check_size(self, where: str, stated: tuple[Any, Any], size: tuple[int, int], image: str) -> None:
        """Warn where an annotation file states another size (rows, columns) than that of its image."""
        if None not in stated and stated != size:
            what = f"says {stated[0]} x {stated[1]}, but {image} is {size[0]} x {size[1]}: shapes are taken as drawn on the latter"
            self.warn("size", where, what, "make sure that it is the image which was annotated")


@dataclass(frozen=True)
class Reporting:
    """See `Source.reporting`; a class, as type checkers take a generator for one that lets every error through."""

    source: Source
    fix: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> bool:
        if isinstance(error, ReadError):
            problem = unreadable(error, self.source.shown(error.path))
            fix = problem.fix if isinstance(error, Unusable) else self.fix or problem.fix
            self.source.problems.append(replace(problem, fix=fix))
        return isinstance(error, ReadError)


def places_of(name: str, folder: Path) -> Iterator[Path]:
    """Where a named file may be: as written, and as Windows writes it. Drives of another computer are ignored."""
    windows = PureWindowsPath(name)
    if windows.drive:
        yield folder / windows.name
        return
    yield folder / name
    if "\\" in name:
        yield folder / windows.as_posix()


# pairs


@dataclass(frozen=True)
class Pair:
    """An image and its masks by name ("" where there is one), as pixels."""

    image: Pixels
    masks: Mapping[str, Pixels]
    spacing_mm: tuple[float, ...] = ()
    dims: Literal[2, 3] = 2


class Unusable(ReadError):
    """A file or folder of a data set that cannot be used as it is, and how to fix that."""

    def __init__(self, path: Path | str, reason: str, fix: str) -> None:
        super().__init__(path, reason)
        self.fix = fix


def read_card(path: Path) -> dict[str, Any]:
    """Read a JSON file of keys and values. Raises `ReadError`."""
    card = read_json(path)
    if not isinstance(card, dict):
        raise Unusable(path, f"holds a {type(card).__name__}, not keys and values", "copy it again from the data set")
    return card


def pair(image: Path, masks: Mapping[str, Path], orient: str | None, rules: MaskRules = AS_STORED) -> Pair:
    """Return files as pixels, after comparing the grids of volumes and of single slices in their formats.

    Args:
        image: image or volume; a file of several slices is a volume.
        masks: mask files by name.
        orient: axes that volumes are turned to, such as LPS. None trusts the arrays alone, whatever the affines say.
        rules: how the masks are made label maps.

    Raises:
        ReadError: a header cannot be read, or a mask does not lie on the grid of its image.
    """
    headers = {path: header(path, orient) for path in (image, *masks.values()) if is_volume_file(path)}
    grid = headers.get(image)
    volumetric = grid is not None and grid.shape[0] > 1
    segments = segment_files(image, [mask for mask in masks.values() if is_slicer(mask)], grid, orient)
    masks = {name: mask for name, mask in masks.items() if not is_slicer(mask)}
    for mask in masks.values():
        one = headers.get(mask)
        if one is not None and grid is not None:
            other = same_grid(one, grid if orient else replace(grid, orientation=""))
        elif volumetric or (one is not None and one.shape[0] > 1):
            other = f"is {'one image' if volumetric else 'a volume'}, its image {image.name} is not"
        else:
            other = ""
        if "affine" in other or "spacing" in other:
            fix = "save the mask with its image's affine; if only the affines are wrong, data.source.orient=null trusts the arrays"
            raise Unusable(mask, other, fix)
        if other:
            raise Unusable(mask, other, "replace it by the mask of this image, or move both away")
    if volumetric:
        assert grid is not None
        volumes = {name: VolumeMask(mask, orient, rules.threshold) for name, mask in masks.items()}
        return Pair(VolumeFile(image, orient), {**volumes, **segments}, grid.spacing_mm, 3)
    planes = {name: MaskFile(mask, orient, None, rules.threshold, image if rules.resize else None) for name, mask in masks.items()}
    return Pair(ImageFile(image, orient), {**planes, **segments}, grid.spacing_mm[1:] if grid else ())


@contextmanager
def as_channel(path: Path) -> Iterator[None]:
    """Say of a file that does not lie on the grid of another that it is a channel, not a mask."""
    try:
        yield
    except Unusable as error:
        fix = "save it on the grid of the first channel"
        if "affine" in error.reason or "spacing" in error.reason:
            fix += "; if only the affines are wrong, data.source.orient=null trusts the arrays"
        reason = error.reason.replace("the image", "its first channel").replace("its image", "the first channel")
        raise Unusable(path, reason, fix) from error


def unreadable(error: ReadError, where: str) -> Problem:
    """The problem of a pair that cannot be read."""
    fix = error.fix if isinstance(error, Unusable) else "replace the file, or move it and its partner away"
    return Problem(where, error.reason, fix)


def is_own(source: Mapping[str, Any]) -> bool:
    """Whether `data.source` names a class of segkit."""
    return str(source["_target_"]).startswith("segkit.data.sources.")


def source_name(source: Mapping[str, Any]) -> str:
    """'hc18' for segkit's own sources, as their YAML is called; a class of someone else goes by its name."""
    name = str(source["_target_"]).rpartition(".")[2]
    found = getattr(import_module("segkit.data.sources"), name, None) if is_own(source) else None
    return found.__module__.rpartition(".")[2] if found else name.lower()
