"""Raw data of nnU-Net v2 and v1."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segkit.data.case import Case
from segkit.data.io.images import image_shape
from segkit.data.io.volumes import header, is_volume_file
from segkit.data.phantoms import tomography
from segkit.data.phantoms.base import write_nifti
from segkit.data.slices import Region
from segkit.data.sources.base import Source, Unusable, read_card
from segkit.data.sources.decathlon import CARD, IMAGES, LABELS, consecutive
from segkit.data.sources.files import Keyed
from segkit.system.files import natural

BACKGROUND = "background"
TEST = "imagesTs"
KEYS = ("channel_names", "labels", "file_ending")
PHANTOM_CHANNELS = ("flair", "t1ce")
PHANTOM_LABELS = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": [3]}
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")


class NnUNet(Source):
    """Raw data of nnU-Net v2: a data set DatasetNNN_NAME; also of v1 (TaskNNN_NAME), whose dataset.json has `modality`.

        ROOT/dataset.json               channel_names, labels, file_ending
        ROOT/imagesTr/CASE_0000.nii.gz  a file a channel: CASE_0001.nii.gz, …; color images are one file with three channels
        ROOT/labelsTr/CASE.nii.gz       label map; with .png, .bmp or .tif images are 2-D (a TIFF of several pages is a volume)

    `labels` maps names to a number or, for regions that lie in one another, to a list of numbers: every label is then a plane
    of its own. Voxels labeled "ignore" do not count. The unlabeled imagesTs is part of
    predictions only.

    Reference: Isensee et al., Nat. Methods 18, 2021; github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md.

    Args:
        root: folder that holds dataset.json.
        orient: axes that volumes are turned to, such as LPS; None leaves them as they are stored.
    """

    has_channel_axis = True
    """The fourth axis of a file holds its channels."""

    def __init__(self, root: Path, orient: str | None = "LPS") -> None:
        super().__init__(root)
        self.orient = orient
        self._regions: dict[str, tuple[int, ...]] = {}
        self._channels, self._ending = 0, ""
        self._claimed: int | None = None

    def cases(self) -> Iterator[Case]:
        if not (self.root / CARD).is_file():
            self.report_root(f"has no {CARD}", CARD, f"{CARD}, named DatasetNNN_NAME")
            return
        with self.reporting("fix it; a superfluous comma is the usual reason"):
            self._read_card(self.root / CARD)
            yield from self._complete() if self.needs_masks else self._unlabelled()

    def _unlabelled(self) -> Iterator[Case]:
        """Every image, also of imagesTs: a prediction needs no label maps."""
        for folder in [name for name in (IMAGES, TEST) if (self.root / name).is_dir()] or [IMAGES]:
            images = self._images(folder)
            for name in sorted(images, key=natural):
                if self._is_complete(name, images[name]):
                    yield from self._case(name, [images[name][i] for i in sorted(images[name])], None)

    def _complete(self) -> Iterator[Case]:
        images = self._images(IMAGES)
        first = {name: images[name][min(images[name])] for name in sorted(images, key=natural)}
        keyed = Keyed(first, {}, self.root / IMAGES, f"_0000{self._ending}")
        if self._claimed not in (None, len(first)):
            what = f"claims {self._claimed} training cases (numTraining), and {IMAGES} has {len(first)}"
            self.report(self.root / CARD, what, "fetch the missing files, or correct the number", "warning")
        for name, _, label in self.pairs(keyed, Keyed(self._files(LABELS), {}, self.root / LABELS, self._ending)):
            if self._is_complete(name, images[name]):
                yield from self._case(name, [images[name][i] for i in sorted(images[name])], label)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        for patient, drawn in tomography.brains(n, seed):
            for i, modality in enumerate(PHANTOM_CHANNELS):
                write_nifti(root / IMAGES / f"brain_{patient:03d}_{i:04d}.nii.gz", drawn.images[modality], tomography.BRAIN_MM)
            write_nifti(root / LABELS / f"brain_{patient:03d}.nii.gz", consecutive(drawn.tumor), tomography.BRAIN_MM)
        card = {
            "channel_names": {str(i): name for i, name in enumerate(PHANTOM_CHANNELS)},
            "labels": PHANTOM_LABELS,
            "regions_class_order": [2, 1, 3],
            "numTraining": n,
            "file_ending": ".nii.gz",
        }
        (root / CARD).write_bytes((json.dumps(card, indent=1) + "\n").encode())

    # dataset.json

    def _read_card(self, path: Path) -> None:
        """Take the labels, the number of channels and the file ending from dataset.json. Raises `ReadError`."""
        card = read_card(path)
        self._claimed = number if type(number := card.get("numTraining")) is int else None
        if "modality" in card and "channel_names" not in card:
            card = self._of_version_1(path, card)
        missing = [key for key in KEYS if key not in card]
        if missing:
            raise Unusable(path, f"lacks {', '.join(map(repr, missing))}", f"nnU-Net wants {', '.join(KEYS)} in it")
        if "dataset" in card:
            raise Unusable(path, "lists its files under 'dataset', which is not read here", f"copy them to {IMAGES}/ and {LABELS}/")
        channels, ending = card["channel_names"], card["file_ending"]
        if not isinstance(channels, dict) or not channels or not isinstance(ending, str) or not ending.startswith("."):
            what = "'channel_names' is not a table of names, or 'file_ending' not an ending"
            raise Unusable(path, what, 'write them as  "channel_names": {"0": "T2"}, "file_ending": ".nii.gz"')
        self._channels, self._ending = len(channels), ending
        self._take_labels(path, card)

    def _of_version_1(self, path: Path, card: Mapping[str, Any]) -> dict[str, Any]:
        """The card as nnU-Net 2 writes it. Raises `Unusable` where the files are named as those of the Decathlon."""
        files = [file.name.removesuffix(".nii.gz") for file in (self.root / IMAGES).glob("*.nii.gz")]
        if files and not any(map(_CHANNEL.fullmatch, files)):
            raise Unusable(path, "has 'modality', and no file is called CASE_0000.nii.gz: the format of the Decathlon", "data=decathlon")
        labels = card.get("labels")
        try:
            named = {BACKGROUND if int(number) == 0 else str(name): int(number) for number, name in labels.items()}  # type: ignore[union-attr]
        except (AttributeError, TypeError, ValueError):
            raise Unusable(
                path, "'labels' does not map numbers to names", 'write it as  "labels": {"0": "background", "1": "NAME"}'
            ) from None
        return {"channel_names": card["modality"], "labels": named, "file_ending": ".nii.gz"}

    def _take_labels(self, path: Path, card: Mapping[str, Any]) -> None:
        given = card["labels"] if isinstance(card["labels"], dict) else {}
        labels = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in given.items()}
        are_whole = all(values and all(type(value) is int for value in values) for values in labels.values())
        if not are_whole or labels.get(BACKGROUND) != (0,):
            what = "'labels' does not map names to numbers, with background 0"
            raise Unusable(path, what, 'write it as  "labels": {"background": 0, "NAME": 1}, a list of numbers for a region')
        foreground = {name: values for name, values in labels.items() if name != BACKGROUND}
        if any(isinstance(value, list) for value in given.values()):
            self._regions = foreground
            self.default_labels = {name: name for name in foreground}
            return
        named: dict[int | str, str] = {0: BACKGROUND}
        for name, (value,) in foreground.items():
            if value in named:
                raise Unusable(path, f"'labels' gives {name} the number {value} of {named[value]}", "give each its own")
            named[value] = name
        self.default_labels = named

    # files

    def _files(self, folder: str) -> dict[str, Path]:
        """Files of the right ending by their names without it."""
        place = self.root / folder
        if not place.is_dir():
            self.report(place, "no such folder", f"nnU-Net wants {IMAGES}/ and {LABELS}/ beside {CARD}")
            return {}
        every = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
        found = {path.name.removesuffix(self._ending): path for path in every if path.name.endswith(self._ending)}
        if every and not found:
            what = f"holds no files that end in {self._ending}, as {CARD} says, e.g. {every[0].name}"
            self.report(place, what, "fix 'file_ending'")
        return found

    def _images(self, folder: str) -> dict[str, dict[int, Path]]:
        """Files of each case by channel."""
        images: dict[str, dict[int, Path]] = {}
        for name, path in self._files(folder).items():
            match = _CHANNEL.fullmatch(name)
            if match is None:
                self.report(path, f"is not called CASE_0000{self._ending}: its channel, in four digits, is missing", "rename it")
            else:
                images.setdefault(match["case"], {})[int(match["number"])] = path
        return images

    def _is_complete(self, name: str, files: Mapping[int, Path]) -> bool:
        """Whether all channels are there: a file each, or all of them in the first."""
        with self.reporting():
            there = sum(header(path).channels if is_volume_file(path) else image_shape(path)[2] for path in files.values())
            if there == self._channels and sorted(files) == list(range(len(files))):
                return True
            missing = [files[min(files)].with_name(f"{name}_{i:04d}{self._ending}") for i in range(self._channels) if i not in files]
            for path in missing:
                self.report(path, "is missing", f"add it, or fix 'channel_names' of {CARD}")
            if not missing:
                raise Unusable(files[0], f"{name} has {there} channels, but {CARD} names {self._channels}", "fix 'channel_names'")
        return False

    def _case(self, name: str, images: list[Path], label: Path | None) -> Iterator[Case]:
        files = self.read_pair(images, {"": label} if label else {}, self.orient)
        with self.reporting("fix it; a superfluous comma is the usual reason"):
            if files:
                mask = files.masks.get("")
                regions = {region: Region(mask, values) for region, values in self._regions.items()} if mask else {}
                spacing = files.spacing_mm or _spacing_beside(images[0])
                yield Case(name, files.image, regions or mask, group=name, spacing_mm=spacing, dims=files.dims)


def _spacing_beside(image: Path) -> tuple[float, ...]:
    """nnU-Net keeps the spacing of TIFF volumes in CASE.json: {"spacing": [slices, rows, columns]}."""
    match = _CHANNEL.fullmatch(image.stem)
    path = image.with_name(f"{match['case']}.json") if match else image
    spacing = read_card(path).get("spacing") if match and path.is_file() else None
    return tuple(map(float, spacing)) if isinstance(spacing, list) and all(isinstance(mm, int | float) for mm in spacing) else ()
