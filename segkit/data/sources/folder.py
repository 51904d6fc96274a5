"""Images and masks paired by their names: two folders, one folder with a suffix rule, or any arrangement that a pattern describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Literal

from segkit.data.case import Case
from segkit.data.io.base import stem
from segkit.data.io.images import KINDS
from segkit.data.io.masks import MaskRules
from segkit.data.phantoms import ultrasound
from segkit.data.phantoms.base import write_png
from segkit.data.sources.base import Source
from segkit.data.sources.files import all_files, image_files, unread_files
from segkit.data.sources.pairing import IMAGE_PARTS, MASK_PARTS, Found, Rule, by_structure, name_below
from segkit.data.sources.proposals import NUMBER, Proposal, escaped, proposals, shared_end
from segkit.system.errors import Severity
from segkit.system.shell import override

SHOWN = 4
"""Rules that a message proposes."""
Parts = Mapping[tuple[str, ...], Path]


class Folder(Source):
    """Images and masks that share a part of their names.

        ROOT/images/**/KEY.png     an image or a volume (NIfTI, NRRD, MHA, NPY, TIFF of several pages)
        ROOT/masks/**/KEY.png      its mask

    The key of a case is the path of its image below `images`, without extension and `image_suffix`; it is also the id. `image`
    and `mask` describe any other arrangement: regular expressions of the end of the path below root, without extension, whose
    group `id` is what both share. Where neither folders nor patterns are set and one rule pairs every file, that rule is taken.

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
        image: pattern of the images below root, in place of `images` and `image_suffix`, such as `volume-(?P<id>\\d+)`. Further groups:
            `id2` (joined to the id), `channel` (a file for each channel), `split` (train, valid, test: the split of the data set).
        mask: pattern of the masks, in place of `masks` and `mask_suffix`. Further groups: `structure` (a mask for each, which may
            overlap), `instance` (a mask for each object, joined to one), `split`.
        ignore: glob patterns of files that are neither image nor mask, such as `*_4d*`.
        missing_masks: what an image without a mask is: an error, or left out of training and evaluation (skip).
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
        image: str | None = None,
        mask: str | None = None,
        ignore: str | list[str] | None = None,
        missing_masks: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__(root, group=group)
        self.mask_rules = MaskRules(threshold, resize_masks)
        self.images_name, self.masks_name = images, masks
        self.images, self.masks = self.root / images, self.root / masks if masks is not None else None
        self.image_suffix, self.mask_suffix, self.orient = image_suffix, mask_suffix, orient
        self.image, self.mask = image, mask
        self.ignore = [ignore] if isinstance(ignore, str) else list(ignore or [])
        self.missing_masks = missing_masks
        self._listed: dict[tuple[Path, ...], list[Path]] = {}
        self.check_choice("missing_masks", missing_masks, ("error", "skip"))

    def cases(self) -> Iterator[Case]:
        if not self.root.is_dir():
            self.report(self.root, "is a file; a folder of images is needed", override("data.root", str(self.root.parent)))
            return
        rules = self._rules()
        if rules is None:
            return
        images, masks = rules
        found = self._find(images, masks)
        if found is None:
            return
        yield from self._paired(*found, images, masks)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        masks = self.masks_name if self.masks_name is not None else "masks"
        for exam, k, drawing in ultrasound.exams(n, seed):
            write_png(root / self.images_name / f"{exam:03d}_{k}{self.image_suffix}.png", drawing.image)
            write_png(root / masks / f"{exam:03d}_{k}{self.mask_suffix}.png", drawing.mask)

    # the rule

    def _rules(self) -> tuple[Rule, Rule | None] | None:
        """The rules of images and masks, as set or else as found; None, and reported, where there are none."""
        if self.masks == self.images and not (self.mask_suffix or self.image or self.mask):
            fix = f"{override('data.source.mask_suffix', '_mask')}, or another folder as data.source.masks"
            self.report("data.source", "images and masks share a folder, and no suffix distinguishes them", fix)
            return None
        try:
            image = Rule.of(self.root, self.image, IMAGE_PARTS) if self.image else Rule.suffix(self.images, self.image_suffix)
            mask = Rule.of(self.root, self.mask, MASK_PARTS) if self.mask else None
        except ValueError as error:
            self.report("data.source.image, data.source.mask", str(error), "e.g.  " + override("data.source.image", r"volume-(?P<id>\d+)"))
            return None
        if mask is None and self.masks is not None:
            mask = Rule.suffix(self.masks, self.mask_suffix)
        if mask and not self.needs_masks and not any(map(mask.name, self._files(mask, image))):
            return (image, None) if image.folder.is_dir() else self._proposed([image.folder])
        missing = [rule.folder for rule in (image, mask) if rule and not rule.folder.is_dir()]
        if missing or (mask and not self._any_pair(image, mask)):
            return self._proposed(missing)
        return image, mask

    def _any_pair(self, image: Rule, mask: Rule) -> bool:
        """Whether any image has a mask; also where there are none of either, which is reported elsewhere."""
        images, masks = self._files(image, mask), self._files(mask)
        ids = {name.id for path in images if (name := image.name(path))}
        of_masks = {name.id for path in masks if (name := mask.name(path))}
        return bool(ids & of_masks) or not images or not masks or not ids or not of_masks

    def _proposed(self, missing: Sequence[Path]) -> tuple[Rule, Rule] | None:
        """The one rule that pairs every file; else None, and those that pair most are reported."""
        files = self._below(self.root)
        if self._is_inside(missing):
            return None
        found = proposals([name_below(path, self.root) for path in files])
        plain = [proposal for proposal in found if proposal.is_plain]
        if len(plain) == 1 and not (self.image or self.mask or self.image_suffix or self.mask_suffix):
            best = plain[0]
            what = f"paired by a rule found in the names of all {len(files)} files: images {best.image}, masks {best.mask}"
            self.report("data.source", what, best.line, "note")
            return Rule.of(self.root, best.image, IMAGE_PARTS), Rule.of(self.root, best.mask, MASK_PARTS)
        self._report_unpaired(files, missing, found)
        return None

    def _is_inside(self, missing: Sequence[Path]) -> bool:
        """Whether the one folder of root is the data set, which is reported."""
        names = [path.relative_to(self.root) for path in (self.images, self.masks) if path is not None]
        inner = [child for child in self._subfolders() if all((child / name).is_dir() for name in names)]
        if not missing or len(inner) != 1 or self.image or self.mask:
            return False
        what = f"holds no {' and '.join(path.relative_to(self.root).as_posix() for path in missing)}, but its folder {inner[0].name} does"
        self.report(str(self.root), what, override("data.root", str(inner[0])))
        return True

    def _report_unpaired(self, files: Sequence[Path], missing: Sequence[Path], found: Sequence[Proposal]) -> None:
        folders = [folder.relative_to(self.root).as_posix() for folder in self._subfolders()]
        there = f"there are: {', '.join([*folders[:12], *['...'] * (len(folders) > 12)])}" if folders else "there are no folders at all"
        what = f"no such folder; in {self.root} {there}"
        if not missing:
            names = " and ".join(name_below(path, self.root) for path in files[:: max(1, len(files) - 1)][:2])
            what = f"no image has a mask of its name, among {len(files)} files such as {names}"
        if not found:
            for folder in missing or [self.root]:
                self.report(str(folder), what, self._without_rule(missing))
            return
        where = " and ".join(map(str, missing or [self.root]))
        found = [proposal for proposal in found if 2 * proposal.n > found[0].n]
        several = len(found) > 1
        lines = [f"{proposal.line}  pairs {proposal.share}" for proposal in found[:SHOWN]]
        choose = "several rules fit, choose one:   " if several else ""
        self.report(where, what, choose + "   or   ".join(lines))

    def _without_rule(self, missing: Sequence[Path]) -> str:
        if other := self._other_layout():
            return other
        table = "or list the files in a table: segkit guide data, data=csv"
        if not self._subfolders():
            image, mask = override("data.source.image", "(?P<id>.+)"), override("data.source.mask", "(?P<id>.+)_END")
            return f"{image} {mask}  if END is what ends the name of a mask, {table}"
        unlabeled = "data.source.masks=null takes images without masks, " if missing == [self.masks] else ""
        return f"{unlabeled}data.source.images=FOLDER data.source.masks=FOLDER name the folders, {table}"

    def _other_layout(self) -> str:
        """The source that reads outlines in place of masks, by what a JSON file below root begins with; empty where there is none."""
        for path in islice((path for path in all_files(self.root) if path.suffix.lower() == ".json"), 3):
            with path.open("rb") as file:
                head = file.read(1 << 16)
            if b'"shapes"' in head:
                return "data=labelme  reads the outlines of LabelMe"
            if b'"categories"' in head or b'"file_name"' in head:
                return f"data=coco {override('data.source.annotations', self.shown(path))}  reads COCO instances"
        return ""

    # finding files

    def _below(self, folder: Path, below: Sequence[Path] = ()) -> list[Path]:
        """Files that are not ignored; listed once."""
        key = (folder, *below)
        if key not in self._listed:
            self._listed[key] = [path for path in image_files(folder, below) if not self._is_ignored(path)]
        return self._listed[key]

    def _is_ignored(self, path: Path) -> bool:
        if not self.ignore:
            return False
        names = (path.name, stem(path), path.relative_to(self.root).as_posix(), name_below(path, self.root))
        return any(fnmatchcase(name, pattern) for pattern in self.ignore for name in names)

    def _files(self, rule: Rule, other: Rule | None = None) -> list[Path]:
        """Files that a rule may take: those below its folder, but not in the folder of the other, nor those that fit the other better."""
        others = [other.folder] if other and other.folder != rule.folder and other.folder.is_relative_to(rule.folder) else []
        files = self._below(rule.folder, others)
        if other is None or other.folder != rule.folder:
            return files
        longer = len(other.pattern.pattern) >= len(rule.pattern.pattern)
        return [path for path in files if not (other.name(path) and (longer or not rule.name(path)))]

    def _find(self, image: Rule, mask: Rule | None) -> tuple[Found, Found] | None:
        images, masks = self._files(image, mask), self._files(mask, image) if mask else []
        named = [path for path in images if image.name(path)]
        if len(named) < len(images):
            left_out = next(path for path in images if not image.name(path))
            rule = f"do not fit {image.text!r}" if image.text else f"do not end in {self.image_suffix!r}"
            self.report(
                image.folder, f"{len(images) - len(named)} images {rule} and are left out, e.g. {left_out.name}", severity="warning"
            )
        of_masks = [path for path in masks if mask and mask.name(path)]
        self._report_unread({rule.folder for rule in (image, mask) if rule})
        if not named:
            fix = override("data.source.image_suffix", "") if images and not image.text else "put the images there, or name another folder"
            self.report(str(image.folder), f"holds no images{_ending(image, self.image_suffix)} ({KINDS})", fix)
        if mask and not of_masks:
            fix = "put the masks there, or data.source.masks=null for images without masks"
            self.report(str(mask.folder), f"holds no masks{_ending(mask, self.mask_suffix)} ({KINDS})", fix)
        if not named or (mask and not of_masks):
            return None
        return Found.of(named, image), Found.of(of_masks, mask) if mask else Found({}, {}, {})

    def _report_unread(self, folders: set[Path]) -> None:
        found = dict.fromkeys(path for folder in sorted(folders) for path in unread_files(folder))
        unread = [path for path in found if not self._is_ignored(path)]
        if unread:
            what = f"{len(unread)} files of a kind that is not read are left out, e.g. {self.shown(unread[0])}"
            fix = f"save them as PNG or NIfTI (DICOM: data=dicom), or  {override('data.source.ignore', '*' + unread[0].suffix)}"
            self.report(self.root, what, fix, "warning")

    def _subfolders(self) -> list[Path]:
        return [path for pattern in ("*", "*/*") for path in sorted(self.root.glob(pattern)) if path.is_dir()]

    # pairs

    @property
    def _takes_unlabelled(self) -> bool:
        return self.missing_masks == "skip" or not self.needs_masks

    def _paired(self, images: Found, masks: Found, image: Rule, mask: Rule | None) -> Iterator[Case]:
        self._report_ambiguous("image", images)
        self._report_ambiguous("mask", masks)
        complete = max((tuple(parts) for parts in images.one.values()), key=len, default=())
        lacking = [id_ for id_, parts in images.one.items() if set(parts) != set(complete) and not self.is_excluded(id_)]
        if lacking:
            has = ", ".join("-".join(part) for part in complete)
            what = f"{lacking[0]} lacks a channel: others have {has}"
            self.report_alone([next(iter(images.one[id_].values())) for id_ in lacking], what, "add it, or move the others away")
        if mask:
            self._report_alone(images, masks, mask)
        for id_, files in images.one.items():
            has_mask = mask is None or id_ in masks.one or (self._takes_unlabelled and id_ not in masks.several)
            if has_mask and set(files) == set(complete):
                yield from self._case(id_, files, masks.one.get(id_, {}), mask, images.splits[id_])

    def _case(self, id_: str, images: Parts, masks: Parts, mask: Rule | None, split: str) -> Iterator[Case]:
        names = {"/".join(part): part for part in masks}
        found = self.read_pair(list(images.values()), {name: masks[part] for name, part in names.items()}, self.orient)
        if found:
            own = found.masks.keys() - names.keys()  # segments of one file, under their own names
            parts = {} if own else {names[name]: pixels for name, pixels in found.masks.items()}
            planes = dict(found.masks) if own else by_structure(parts, mask.parts if mask else ())
            yield Case(id_, found.image, planes, self.group_of(id_), split, found.spacing_mm, dims=found.dims)

    def _report_ambiguous(self, kind: str, found: Found) -> None:
        for id_, paths in found.several.items():
            names = " and ".join(path.name for path in paths)
            if not self.is_excluded(id_):
                self.report(paths[0], f"ambiguous: {names} could be the {kind} of {id_}", "keep one of them")

    def _report_alone(self, images: Found, masks: Found, mask: Rule) -> None:
        """Report images without mask and masks without image, each as one problem."""
        alone = {id_: next(iter(parts.values())) for id_, parts in images.one.items() if id_ not in masks and not self.is_excluded(id_)}
        further = self._further_masks(images, mask, alone) if self.needs_masks else set()
        alone = {id_: path for id_, path in alone.items() if id_ not in further}
        if alone and not self._takes_unlabelled:
            id_ = next(iter(alone))
            expected = f"that fits {mask.text!r}" if mask.text else f"{self.shown(mask.folder / id_)}{self.mask_suffix}.*"
            paired = [stem(path) for id_, parts in images.one.items() if id_ in masks for path in parts.values()]
            ignore = ignoring([stem(path) for path in alone.values()], paired)
            fix = override("data.source.ignore", ignore) if ignore else override("data.source.missing_masks", "skip")
            self.report_alone(list(alone.values()), f"has no mask {expected}", f"add the mask, or leave out what has none:  {fix}")
        lonely = {id_: next(iter(parts.values())) for id_, parts in masks.one.items() if id_ not in images and not self.is_excluded(id_)}
        if lonely:
            folder = self.root if self.image else self.images
            expected = f"that fits {self.image!r}" if self.image else f"{self.shown(folder / next(iter(lonely)))}{self.image_suffix}.*"
            self.report_alone(list(lonely.values()), f"has no image {expected}", "add the image, or move the mask away")

    def _further_masks(self, images: Found, mask: Rule, alone: Mapping[str, Path]) -> set[str]:
        """Files called as the mask of an image and a number (`a_mask_1` beside `a_mask`), which are reported; they are no images."""
        if mask.parts or not (mask.text or self.mask_suffix):
            return set()
        base = self.root if mask.text else self.images
        pattern = (mask.text or f"(?P<id>.+){escaped(self.mask_suffix)}") + NUMBER
        rule = Rule.of(base, pattern, MASK_PARTS)
        further = {id_: path for id_, path in alone.items() if (name := rule.name(path)) and name.id in images}
        if further:
            image = self.image or f"(?P<id>.+){escaped(self.image_suffix)}"
            fix = f"join them:  {override('data.source.image', image)} {override('data.source.mask', pattern)}"
            severity: Severity = "warning" if self.missing_masks == "skip" else "error"
            self.report_alone(list(further.values()), "is called like a further mask of its image", fix, severity)
        return set(further)


def _ending(rule: Rule, suffix: str) -> str:
    if rule.text:
        return f" that fit {rule.text!r}"
    return f" whose names end in {suffix!r}" if suffix else ""


def ignoring(names: Sequence[str], others: Sequence[str]) -> str:
    """A glob pattern that fits all `names` of files and none of the `others`; empty where none does."""
    end = shared_end(names) if len(names) > 1 else ""
    return f"*{end}" if end and others and not any(name.endswith(end) for name in others) else ""
