"""Images and masks paired by name: two folders, or one folder with a suffix rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

from segkit.data.case import Case, relative
from segkit.data.io.base import ReadError, stem
from segkit.data.io.images import KINDS
from segkit.data.phantoms import base, ultrasound
from segkit.data.sources.base import Keyed, image_files, pair, unreadable
from segkit.system.errors import Problem

# What people call these folders, for the suggestion where one is missing.
_SYNONYMS = {
    "images": ("images", "image", "imgs", "img", "pictures", "scans", "input", "imagestr"),
    "masks": ("masks", "mask", "labels", "label", "annotations", "targets", "target", "segmentations", "gt", "truth", "labelstr"),
}


class Folder:
    """The key of a case is its image's path below `images`, without extension and `image_suffix`; it is also the id.

    `masks=None` takes the images as unlabelled. `group` is a regular expression searched in the id; its first group (or the
    whole match) is the patient. Volumes (NIfTI, NRRD, MHA, NPY, TIFF of several pages) are turned to `orient`, see `volumes`.
    """

    default_labels: ClassVar[dict[int | str, str] | None] = None

    def __init__(
        self,
        root: Path,
        images: str = "images",
        masks: str | None = "masks",
        image_suffix: str = "",
        mask_suffix: str = "",
        group: str | None = None,
        orient: str | None = "LPS",
    ) -> None:
        self.root = Path(root)
        self.images_name, self.masks_name = images, masks
        self.images, self.masks = self.root / images, self.root / masks if masks is not None else None
        self.image_suffix, self.mask_suffix = image_suffix, mask_suffix
        self.group, self.orient = group, orient
        self.problems: list[Problem] = []

    def cases(self) -> Iterator[Case]:
        pattern = self._group_pattern()
        if not self._folders_exist():
            return
        images, masks = self._images(), self._masks()
        self._report_several(images, "images")
        self._report_several(masks, "masks")
        if self.masks is not None and not self._pairs_at_all(images, masks):
            return
        for key, image in images.one.items():
            if self.masks is None or key in masks.one:
                yield from self._case(key, image, masks.one.get(key), pattern)
            elif key not in masks:
                self._say(self._shown(image), f"has no mask {self._mask_name(key)}", "add the mask, or move the image away")
        for key in (k for k in masks.one if k not in images):
            self._say(self._shown(masks.one[key]), "is a mask without an image", "add the image, or move the mask away")

    def _case(self, key: str, image: Path, mask: Path | None, pattern: re.Pattern[str] | None) -> Iterator[Case]:
        try:
            files = pair(image, {"": mask} if mask else {}, self.orient)
        except ReadError as error:
            self.problems.append(unreadable(error, self._shown(error.path)))
            return
        group = self._group_of(key, pattern)
        yield Case(key, files.image, files.masks.get(""), group, spacing_mm=files.spacing_mm, dims=files.dims)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        """Under this source's own folder names and suffixes, so an instance is needed."""
        masks = self.masks_name if self.masks_name is not None else "masks"
        for name, drawing in ultrasound.drawings(n, seed):
            base.write_png(root / self.images_name / f"{name}{self.image_suffix}.png", drawing.image)
            base.write_png(root / masks / f"{name}{self.mask_suffix}.png", drawing.mask)

    # finding files

    def _images(self) -> Keyed:
        below = [self.masks] if self.masks is not None and self.masks != self.images else []
        files = [path for path in image_files(self.images, below) if not self._is_mask(path)]
        named = [path for path in files if stem(path).endswith(self.image_suffix)]
        if len(named) < len(files):
            left_out = next(path for path in files if not stem(path).endswith(self.image_suffix))
            what = f"{len(files) - len(named)} images do not end in {self.image_suffix!r} and are left out, e.g. {left_out.name}"
            self._say(self._shown(self.images), what, severity_is_error=False)
        if not named:
            fix = "data.source.image_suffix=''" if files else "put the images there, or name another data.source.images"
            self._say(str(self.images), f"holds no images{self._ending(self.image_suffix)} ({KINDS})", fix)
        return Keyed.of(named, self.images, self.image_suffix)

    def _masks(self) -> Keyed:
        if self.masks is None:
            return Keyed({}, {})
        below = [self.images] if self.masks != self.images else []
        files = [path for path in image_files(self.masks, below) if stem(path).endswith(self.mask_suffix)]
        if not files:
            fix = "put the masks there, or data.source.masks=null for images without masks"
            self._say(str(self.masks), f"holds no masks{self._ending(self.mask_suffix)} ({KINDS})", fix)
        return Keyed.of(files, self.masks, self.mask_suffix)

    def _is_mask(self, path: Path) -> bool:
        """Of the files in a folder that holds both."""
        if self.masks != self.images or not stem(path).endswith(self.mask_suffix):
            return False
        return len(self.mask_suffix) > len(self.image_suffix) or not stem(path).endswith(self.image_suffix)

    def _folders_exist(self) -> bool:
        if not self.root.is_dir():
            near = _nearest_path(self.root)
            self._say(str(self.root), "no such folder", f"data.root={near}" if near else "name the folder as data.root=...")
            return False
        if self.masks == self.images and not self.mask_suffix:
            fix = "data.source.mask_suffix=_mask, or another folder as data.source.masks"
            self._say("data.source", "images and masks share a folder, and no suffix tells them apart", fix)
            return False
        wanted = {key: path for key, path in (("images", self.images), ("masks", self.masks)) if path is not None}
        missing = {key: path for key, path in wanted.items() if not path.is_dir()}
        names = [path.relative_to(self.root) for path in wanted.values()]
        inner = [child for child in self._subfolders(1) if all((child / name).is_dir() for name in names)]
        if missing and inner:
            self._say(str(self.root), f"holds no {' and '.join(missing)}, but its folder {inner[0].name} does", f"data.root={inner[0]}")
            return False
        for key, path in missing.items():
            self._report_missing_folder(key, path)
        return not missing

    def _subfolders(self, depth: int) -> list[Path]:
        patterns = ["/".join("*" * (level + 1)) for level in range(depth)]
        return [path for pattern in patterns for path in sorted(self.root.glob(pattern)) if path.is_dir()]

    # what to say

    def _report_missing_folder(self, key: str, path: Path) -> None:
        folders = self._subfolders(2)
        by_name = {folder.name: folder.relative_to(self.root).as_posix() for folder in reversed(folders)}
        close = [*get_close_matches(path.name, by_name, n=1), *(name for name in by_name if name.lower() in _SYNONYMS[key])]
        near = [by_name[name] for name in close]
        there = [folder.relative_to(self.root).as_posix() for folder in folders[:12]] + ["..."] * (len(folders) > 12)
        fix = f"data.source.{key}={near[0]}" if near else f"data.source.{key}=..."
        if key == "masks" and not near:
            fix += "  (null for images without masks)"
        found = f"there are: {', '.join(there)}" if there else "there are no folders at all"
        self._say(str(path), f"no such folder; in {self.root} {found}", fix)

    def _report_several(self, keyed: Keyed, kind: str) -> None:
        for paths in keyed.several.values():
            names = " and ".join(path.name for path in paths)
            self._say(self._shown(paths[0]), f"ambiguous: {names} are {kind} of the same name", "keep one of them")

    def _pairs_at_all(self, images: Keyed, masks: Keyed) -> bool:
        """Where no name matches, one line says so; a line a file would bury the reason."""
        if not images.keys or not masks.keys:
            return False
        if any(key in masks for key in images.keys):
            return True
        image, mask = images.keys[0], masks.keys[0]
        what = f"none of {len(images.keys)} images has a mask of its name: images are called {image!r}, masks {mask!r}"
        self._say(self._shown(self.root), what, _suffix_rule(images.keys, masks.keys))
        return False

    def _group_pattern(self) -> re.Pattern[str] | None:
        try:
            return re.compile(self.group) if self.group else None
        except re.error as error:
            self._say("data.source.group", f"{self.group!r} is no regular expression ({error})", "e.g. '^(\\d+)_'")
            return None

    def _group_of(self, key: str, pattern: re.Pattern[str] | None) -> str:
        if pattern is None:
            return ""
        match = pattern.search(key)
        if match is None:
            self._say("data.source.group", f"{self.group!r} does not match {key!r}", "every case needs a group, or none")
            return ""
        return str(match.group(1) if pattern.groups else match.group(0))

    def _mask_name(self, key: str) -> str:
        assert self.masks is not None
        return f"{self._shown(self.masks / key)}{self.mask_suffix}.*"

    def _ending(self, suffix: str) -> str:
        return f" whose names end in {suffix!r}" if suffix else ""

    def _shown(self, path: Path) -> str:
        shown = relative(path, self.root)
        return str(path) if shown == "." else shown

    def _say(self, where: str, what: str, fix: str = "", severity_is_error: bool = True) -> None:
        self.problems.append(Problem(where, what, fix, "error" if severity_is_error else "warning"))


def _suffix_rule(images: Sequence[str], masks: Sequence[str]) -> str:
    """The suffix that would make the pairs, where there is one."""
    for short, long, key in ((images, masks, "mask_suffix"), (masks, images, "image_suffix")):
        rest = {name[len(short[0]) :] for name in long if name.startswith(short[0])}
        for suffix in sorted(rest - {""}):
            if all(f"{name}{suffix}" in set(long) for name in short[:20]):
                return f"data.source.{key}={suffix}"
    return "data.source.image_suffix=... or data.source.mask_suffix=..."


def _nearest_path(path: Path) -> str:
    """A folder beside the one that was meant."""
    if not path.parent.is_dir():
        return ""
    there = [child.name for child in path.parent.iterdir() if child.is_dir()]
    close = get_close_matches(path.name, there, n=1)
    return str(path.parent / close[0]) if close else ""
