"""Images and masks paired by name: two folders, or one folder with a suffix rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from segkit.data.case import Case
from segkit.data.io.base import stem
from segkit.data.io.images import KINDS
from segkit.data.io.masks import MaskRules
from segkit.data.phantoms import ultrasound
from segkit.data.phantoms.base import write_png
from segkit.data.sources.base import Keyed, Source, image_files

# What people call these folders, for the suggestion where one is missing.
_SYNONYMS = {
    "images": ("images", "image", "imgs", "img", "pictures", "scans", "input", "imagestr"),
    "masks": ("masks", "mask", "labels", "label", "annotations", "targets", "target", "segmentations", "gt", "truth", "labelstr"),
}


class Folder(Source):
    """Images and masks of one name, in two folders or distinguished by a suffix.

        ROOT/images/**/KEY.png     an image or a volume (NIfTI, NRRD, MHA, NPY, TIFF of several pages)
        ROOT/masks/**/KEY.png      its mask

    The key of a case is the path of its image below `images`, without extension and `image_suffix`; it is also the id.

    Args:
        root: folder of the data set.
        images: folder below root; "." is root itself.
        masks: folder below root; None takes the images as unlabeled.
        image_suffix: what stands behind the key in an image's name, such as _img.
        mask_suffix: what stands behind the key in a mask's name, such as _mask.
        group: regular expression searched in the id; its first group, or the whole match, is the patient.
        orient: axes that volumes are turned to, such as LPS; None leaves them as stored, whatever the affines say.
        threshold: mask values from this number on are the structure (255), all others background (0); None: values are labels.
        resize_masks: bring masks of another size than their image to its size (nearest neighbor).
    """

    def __init__(
        self,
        root: Path,
        images: str = "images",
        masks: str | None = "masks",
        image_suffix: str = "",
        mask_suffix: str = "",
        group: str | None = None,
        orient: str | None = "LPS",
        threshold: float | None = None,
        resize_masks: bool = False,
    ) -> None:
        super().__init__(root, group=group)
        self.mask_rules = MaskRules(threshold, resize_masks)
        self.images_name, self.masks_name = images, masks
        self.images, self.masks = self.root / images, self.root / masks if masks is not None else None
        self.image_suffix, self.mask_suffix, self.orient = image_suffix, mask_suffix, orient

    def cases(self) -> Iterator[Case]:
        if not self._folders_exist():
            return
        images, masks = self._images(), self._masks()
        if self.masks is None:
            self.report_ambiguous(images, masks)
            found: list[tuple[str, Path, Path | None]] = [(key, image, None) for key, image in images.one.items()]
        elif not self._pairs_at_all(images, masks):
            return
        else:
            found = list(self.pairs(images, masks))
        for key, image, mask in found:
            files = self.read_pair(image, {"": mask} if mask else {}, self.orient)
            if files:
                drawn = files.masks.get("", files.masks or None)
                yield Case(key, files.image, drawn, self.group_of(key), spacing_mm=files.spacing_mm, dims=files.dims)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        masks = self.masks_name if self.masks_name is not None else "masks"
        for exam, k, drawing in ultrasound.exams(n, seed):
            write_png(root / self.images_name / f"{exam:03d}_{k}{self.image_suffix}.png", drawing.image)
            write_png(root / masks / f"{exam:03d}_{k}{self.mask_suffix}.png", drawing.mask)

    # finding files

    def _images(self) -> Keyed:
        below = [self.masks] if self.masks is not None and self.masks != self.images else []
        files = [path for path in image_files(self.images, below) if not self._is_mask(path)]
        named = [path for path in files if stem(path).endswith(self.image_suffix)]
        if len(named) < len(files):
            left_out = next(path for path in files if not stem(path).endswith(self.image_suffix))
            what = f"{len(files) - len(named)} images do not end in {self.image_suffix!r} and are left out, e.g. {left_out.name}"
            self.report(self.images, what, severity="warning")
        if not named:
            fix = "data.source.image_suffix=''" if files else "put the images there, or name another data.source.images"
            self.report(str(self.images), f"holds no images{_ending(self.image_suffix)} ({KINDS})", fix)
        return Keyed.of(named, self.images, self.image_suffix)

    def _masks(self) -> Keyed:
        if self.masks is None:
            return Keyed.of((), self.images)
        below = [self.images] if self.masks != self.images else []
        files = [path for path in image_files(self.masks, below) if stem(path).endswith(self.mask_suffix)]
        if not files:
            fix = "put the masks there, or data.source.masks=null for images without masks"
            self.report(str(self.masks), f"holds no masks{_ending(self.mask_suffix)} ({KINDS})", fix)
        return Keyed.of(files, self.masks, self.mask_suffix)

    def _is_mask(self, path: Path) -> bool:
        """Whether a file is a mask, in a folder that holds both."""
        if self.masks != self.images or not stem(path).endswith(self.mask_suffix):
            return False
        return len(self.mask_suffix) > len(self.image_suffix) or not stem(path).endswith(self.image_suffix)

    def _folders_exist(self) -> bool:
        if not self.root.is_dir():
            beside = [child.name for child in self.root.parent.iterdir() if child.is_dir()] if self.root.parent.is_dir() else []
            near = get_close_matches(self.root.name, beside, n=1)
            fix = f"data.root={self.root.parent / near[0]}" if near else "name the folder as data.root=..."
            self.report(self.root, "no such folder", fix)
            return False
        if self.masks == self.images and not self.mask_suffix:
            fix = "data.source.mask_suffix=_mask, or another folder as data.source.masks"
            self.report("data.source", "images and masks share a folder, and no suffix distinguishes them", fix)
            return False
        wanted = {key: path for key, path in (("images", self.images), ("masks", self.masks)) if path is not None}
        missing = {key: path for key, path in wanted.items() if not path.is_dir()}
        names = [path.relative_to(self.root) for path in wanted.values()]
        inner = [child for child in self._subfolders(1) if all((child / name).is_dir() for name in names)]
        if missing and inner:
            what = f"holds no {' and '.join(missing)}, but its folder {inner[0].name} does"
            self.report(str(self.root), what, f"data.root={inner[0]}")
            return False
        for key, path in missing.items():
            self._report_missing_folder(key, path)
        return not missing

    def _subfolders(self, depth: int) -> list[Path]:
        return [path for pattern in ("*", "*/*")[:depth] for path in sorted(self.root.glob(pattern)) if path.is_dir()]

    def _report_missing_folder(self, key: str, path: Path) -> None:
        folders = self._subfolders(2)
        by_name = {folder.name: folder.relative_to(self.root).as_posix() for folder in reversed(folders)}
        close = [*get_close_matches(path.name, by_name, n=1), *(name for name in by_name if name.lower() in _SYNONYMS[key])]
        fix = f"data.source.{key}={by_name[close[0]] if close else '...'}"
        if key == "masks" and not close:
            fix += "  (null for images without masks)"
        there = [folder.relative_to(self.root).as_posix() for folder in folders[:12]] + ["..."] * (len(folders) > 12)
        found = f"there are: {', '.join(there)}" if there else "there are no folders at all"
        self.report(str(path), f"no such folder; in {self.root} {found}", fix)

    def _pairs_at_all(self, images: Keyed, masks: Keyed) -> bool:
        """Where no name matches, one line says so; a line a file would bury the reason."""
        if not images.keys or not masks.keys:
            return False
        if any(key in masks for key in images.keys):
            return True
        image, mask = images.keys[0], masks.keys[0]
        what = f"none of {len(images.keys)} images has a mask of its name: images are called {image!r}, masks {mask!r}"
        self.report(self.root, what, _suffix_rule(images.keys, masks.keys))
        return False


def _ending(suffix: str) -> str:
    return f" whose names end in {suffix!r}" if suffix else ""


def _suffix_rule(images: Sequence[str], masks: Sequence[str]) -> str:
    """The suffix that would make the pairs, where there is one."""
    for short, long, key in ((images, masks, "mask_suffix"), (masks, images, "image_suffix")):
        rest = {name[len(short[0]) :] for name in long if name.startswith(short[0])}
        for suffix in sorted(rest - {""}):
            if all(f"{name}{suffix}" in set(long) for name in short[:20]):
                return f"data.source.{key}={suffix}"
    return "data.source.image_suffix=... or data.source.mask_suffix=..."
