"""nnU-Net v2 raw data (Isensee et al., Nat. Methods 2021; github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md).

    ROOT/dataset.json               channel_names, labels, file_ending
    ROOT/imagesTr/CASE_0000.nii.gz  a file a channel: CASE_0001.nii.gz, …; colour images are one file with three channels
    ROOT/labelsTr/CASE.nii.gz       label map; with .png, .bmp or .tif images are 2-D (a TIFF of several pages is a volume)

`labels` maps names to a number or, for regions that lie in one another, to a list of numbers: every label is then a plane
of its own. Voxels labelled "ignore" do not count. The unlabelled imagesTs is not part of the cases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tifffile
from PIL import Image

from segkit.data.case import Case, Pixels, relative
from segkit.data.io.base import ReadError, as_read_error
from segkit.data.io.volumes import header, is_volume_file
from segkit.data.phantoms import brain
from segkit.data.slices import Channels, Region
from segkit.data.sources.base import Pair, natural, pair, unreadable
from segkit.data.sources.decathlon import CARD, IMAGES, LABELS, consecutive, read_card
from segkit.system.errors import Problem

BACKGROUND, IGNORE = "background", "ignore"
KEYS = ("channel_names", "labels", "file_ending")
PHANTOM_CHANNELS = ("flair", "t1ce")
PHANTOM_LABELS = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": [3]}
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")
Labels = dict[str, tuple[int, ...]]


class NnUNet:
    """Volumes are turned to `orient`, see `volumes`; null leaves them as they are stored."""

    def __init__(self, root: Path, orient: str | None = "LPS") -> None:
        self.root, self.orient = Path(root), orient
        self.problems: list[Problem] = []
        self.default_labels: dict[int | str, str] | None = None
        self._regions: Labels = {}
        self._channels = 0
        self._ending = ""

    def cases(self) -> Iterator[Case]:
        if not self._read_card():
            return
        images, labels = self._images(), self._files(LABELS)
        for name in sorted(images, key=natural):
            label = labels.get(name)
            if label is None:
                self._say(images[name][min(images[name])], f"has no {LABELS}/{name}{self._ending}", "add it, or move the image away")
            elif self._is_complete(name, images[name]):
                yield from self._case(name, [images[name][i] for i in sorted(images[name])], label)
        for name in (name for name in labels if name not in images):
            self._say(labels[name], f"has no {IMAGES}/{name}_0000{self._ending}", "add it, or move the label map away")

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        for patient, drawn in brain.volumes(n, seed):
            for i, modality in enumerate(PHANTOM_CHANNELS):
                brain.write_nifti(root / IMAGES / f"brain_{patient:03d}_{i:04d}.nii.gz", drawn.images[modality])
            brain.write_nifti(root / LABELS / f"brain_{patient:03d}.nii.gz", consecutive(drawn.tumor))
        card = {
            "channel_names": {str(i): name for i, name in enumerate(PHANTOM_CHANNELS)},
            "labels": PHANTOM_LABELS,
            "regions_class_order": [2, 1, 3],
            "numTraining": n,
            "file_ending": ".nii.gz",
        }
        (root / CARD).write_bytes((json.dumps(card, indent=1) + "\n").encode())

    # dataset.json

    def _read_card(self) -> bool:
        path = self.root / CARD
        if not path.is_file():
            inner = sorted(self.root.glob(f"*/{CARD}"))
            fix = f"data.root={inner[0].parent}" if inner else f"data.root = the folder DatasetNNN_NAME that holds {CARD}"
            self.problems.append(Problem(str(self.root), f"has no {CARD}", fix))
            return False
        card = read_card(path, self.problems)
        if card is None:
            return False
        if "modality" in card and "channel_names" not in card:
            what = "has 'modality', not 'channel_names': the format of the Decathlon, or of nnU-Net 1"
            self._say(path, what, "data=decathlon, or write it as nnU-Net 2 wants it")
            return False
        missing = [key for key in KEYS if key not in card]
        if missing:
            self._say(path, f"lacks {', '.join(map(repr, missing))}", f"nnU-Net wants {', '.join(KEYS)} in it")
            return False
        if "dataset" in card:
            self._say(path, "lists its files under 'dataset', which is not read here", f"copy them to {IMAGES}/ and {LABELS}/")
            return False
        return self._understand(path, card)

    def _understand(self, path: Path, card: Mapping[str, Any]) -> bool:
        channels, ending = card["channel_names"], card["file_ending"]
        if not isinstance(channels, dict) or not channels or not isinstance(ending, str) or not ending.startswith("."):
            what = "'channel_names' is no table of names, or 'file_ending' no ending"
            self._say(path, what, 'write them as  "channel_names": {"0": "T2"}, "file_ending": ".nii.gz"')
            return False
        labels = _labels(card["labels"])
        if labels is None or labels.get(BACKGROUND) != (0,):
            what = "'labels' does not map names to numbers, with background 0"
            self._say(path, what, 'write it as  "labels": {"background": 0, "NAME": 1}, a list of numbers for a region')
            return False
        self._channels, self._ending = len(channels), ending
        foreground = {name: values for name, values in labels.items() if name != BACKGROUND}
        if any(isinstance(value, list) for value in card["labels"].values()):
            self._regions = foreground
            self.default_labels = {name: name for name in foreground}
            return True
        self.default_labels = {0: BACKGROUND}
        for name, (value,) in foreground.items():
            if value in self.default_labels:
                self._say(path, f"'labels' gives {name} the number {value} of {self.default_labels[value]}", "give each its own")
                return False
            self.default_labels[value] = name
        return True

    # files

    def _files(self, folder: str) -> dict[str, Path]:
        """Files of the right ending by their names without it."""
        place = self.root / folder
        if not place.is_dir():
            self._say(place, "no such folder", f"nnU-Net wants {IMAGES}/ and {LABELS}/ beside {CARD}")
            return {}
        every = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
        found = {path.name.removesuffix(self._ending): path for path in every if path.name.endswith(self._ending)}
        if every and not found:
            what = f"holds no files that end in {self._ending}, as {CARD} says, e.g. {every[0].name}"
            self._say(place, what, "fix 'file_ending'")
        return found

    def _images(self) -> dict[str, dict[int, Path]]:
        """Files of each case by channel."""
        images: dict[str, dict[int, Path]] = {}
        for name, path in self._files(IMAGES).items():
            match = _CHANNEL.fullmatch(name)
            if match is None:
                self._say(path, f"is not called CASE_0000{self._ending}: its channel, in four digits, is missing", "rename it")
            else:
                images.setdefault(match["case"], {})[int(match["number"])] = path
        return images

    def _is_complete(self, name: str, files: Mapping[int, Path]) -> bool:
        """All channels are there: a file each, or all of them in the first."""
        try:
            there = sum(map(channels_of, files.values()))
        except ReadError as error:
            self.problems.append(unreadable(error, relative(error.path, self.root)))
            return False
        if there == self._channels and sorted(files) == list(range(len(files))):
            return True
        missing = [i for i in range(self._channels) if i not in files]
        for i in missing:
            self._say(self.root / IMAGES / f"{name}_{i:04d}{self._ending}", "is missing", f"add it, or fix 'channel_names' of {CARD}")
        if not missing:
            self._say(files[0], f"{name} has {there} channels, but {CARD} names {self._channels}", "fix 'channel_names'")
        return False

    def _case(self, name: str, images: list[Path], label: Path) -> Iterator[Case]:
        try:
            files = on_one_grid(images, {"": label}, self.orient)
        except ReadError as error:
            self.problems.append(unreadable(error, relative(error.path, self.root)))
            return
        mask: Pixels | dict[str, Pixels] = files.masks[""]
        if self._regions:
            mask = {region: Region(files.masks[""], values) for region, values in self._regions.items()}
        yield Case(name, files.image, mask, group=name, spacing_mm=files.spacing_mm or _spacing_beside(images[0]), dims=files.dims)

    def _say(self, path: Path, what: str, fix: str) -> None:
        self.problems.append(Problem(relative(path, self.root), what, fix))


def on_one_grid(images: Sequence[Path], masks: Mapping[str, Path], orient: str | None) -> Pair:
    """As `pair`, of several images that are channels. Raises `ReadError`, also where one of them lies on another grid."""
    first = pair(images[0], masks, orient)
    parts = [first.image]
    for other in images[1:]:
        pair(images[0], {"": other}, orient)
        parts.append(pair(other, {}, orient).image)
    return replace(first, image=Channels(tuple(parts))) if len(parts) > 1 else first


def channels_of(image: Path) -> int:
    """From the header: of a volume, or of a grey (1) or colour (3) image."""
    if is_volume_file(image):
        return header(image).channels
    with as_read_error(image):
        if image.suffix.lower() in (".tif", ".tiff"):
            with tifffile.TiffFile(image) as tiff:
                return int(tiff.pages.first.samplesperpixel)
        with Image.open(image) as opened:
            return 3 if opened.mode == "P" else len([band for band in opened.getbands() if band != "A"])


def _labels(labels: Any) -> Labels | None:
    """Numbers by name, or None where it is something else."""
    if not isinstance(labels, dict):
        return None
    found = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in labels.items()}
    whole = all(values and all(type(value) is int for value in values) for values in found.values())
    return found if whole else None


def _spacing_beside(image: Path) -> tuple[float, ...]:
    """nnU-Net keeps the spacing of TIFF volumes in CASE.json: {"spacing": [slices, rows, columns]}."""
    match = _CHANNEL.fullmatch(image.stem)
    path = image.with_name(f"{match['case']}.json") if match else image
    if not match or not path.is_file():
        return ()
    card = read_card(path, [])
    spacing = card.get("spacing") if card else None
    return tuple(map(float, spacing)) if isinstance(spacing, list) and all(isinstance(mm, int | float) for mm in spacing) else ()
