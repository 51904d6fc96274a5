"""One task of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.case import Case
from segkit.data.io.base import stem
from segkit.data.io.volumes import header, is_volume_file
from segkit.data.phantoms import tomography
from segkit.data.phantoms.base import write_nifti
from segkit.data.sources.base import Labels, Source, Unusable, read_card
from segkit.data.sources.files import Keyed, image_files

IMAGES, LABELS, CARD = "imagesTr", "labelsTr", "dataset.json"
MODALITY = "t1ce"
PHANTOM_LABELS = {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 3}


class Decathlon(Source):
    """Medical Segmentation Decathlon: the volumes of one task.

        ROOT/dataset.json           optional: names of labels and modalities, and `training`, the list of images with their labels;
                                    a list `validation` beside it, as AMOS and MONAI have it, is the split of the data set
        ROOT/imagesTr/NAME.nii.gz   volumes; with several modalities, these are their fourth axis
        ROOT/labelsTr/NAME.nii.gz   label maps on the same grid

    Without dataset.json files are paired by name, and the labels have none. The unlabeled imagesTs is not part of the cases.

    Reference: Antonelli et al., Nat. Commun. 13, 2022; medicaldecathlon.com.

    Args:
        root: folder that holds imagesTr/ and labelsTr/.
        orient: axes that volumes are turned to, such as LPS; None leaves them as they are stored.
    """

    has_channel_axis = True
    """The fourth axis of a file holds its channels."""

    def __init__(self, root: Path, orient: str | None = "LPS") -> None:
        super().__init__(root)
        self.orient = orient

    def cases(self) -> Iterator[Case]:
        if not (self.root / IMAGES).is_dir():
            self.report_root(f"has no folder {IMAGES}", IMAGES, f"{IMAGES}/ and {LABELS}/")
            return
        with self.reporting("fix it; a superfluous comma is the usual reason"):
            card = self._card()
            self.default_labels = self._labels(card)
            modalities = len(card.get("modality") or ())
            for image, label, split in self._listed(card) if card.get("training") else self._by_name():
                yield from self._case(image, label, modalities, split)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        training = []
        for patient, drawn in tomography.brains(n, seed):
            name = f"brain_{patient:03d}.nii.gz"
            write_nifti(root / IMAGES / name, drawn.images[MODALITY], tomography.BRAIN_MM)
            write_nifti(root / LABELS / name, consecutive(drawn.tumor), tomography.BRAIN_MM)
            training.append({"image": f"./{IMAGES}/{name}", "label": f"./{LABELS}/{name}"})
        card = {
            "name": "phantom",
            "tensorImageSize": "3D",
            "modality": {"0": MODALITY},
            "labels": {str(value): name for name, value in PHANTOM_LABELS.items()},
            "numTraining": n,
            "training": training,
        }
        (root / CARD).write_bytes((json.dumps(card, indent=1) + "\n").encode())

    # dataset.json

    def _card(self) -> dict[str, Any]:
        """Read dataset.json; empty where there is none. Raises `ReadError` where it cannot be used."""
        path = self.root / CARD
        card = read_card(path) if path.is_file() else {}
        kinds: dict[str, tuple[type, ...]] = {"labels": (dict, list), "modality": (dict, list), "training": (list,), "validation": (list,)}
        for key, allowed in kinds.items():
            if card.get(key) is not None and not isinstance(card[key], allowed):
                what = f"{key!r} is not a {allowed[0].__name__}"
                raise Unusable(path, what, "fix it, or move the file away: files are then paired by name")
        if "channel_names" in card:
            raise Unusable(path, "has 'channel_names': this is a data set of nnU-Net", "data=nnunet")
        if not _named_as_listed(self.root, card):
            raise Unusable(path, "lists CASE.nii.gz, but the files are called CASE_0000.nii.gz: raw data of nnU-Net 1", "data=nnunet")
        return card

    def _labels(self, card: dict[str, Any]) -> Labels | None:
        labels = card.get("labels")
        if not labels:
            return None
        items = labels.items() if isinstance(labels, dict) else enumerate(labels)
        try:
            named: dict[int | str, str] = {int(value): name for value, name in items}
            if not all(isinstance(name, str) and name.strip() for name in named.values()):
                raise ValueError("a name is missing")
        except (TypeError, ValueError):
            self.report(
                self.root / CARD, "'labels' does not map numbers to names", 'write it as  "labels": {"0": "background", "1": "NAME"}'
            )
            return None
        return {0: "background"} | {value: name for value, name in named.items() if value != 0}

    def _listed(self, card: Mapping[str, Any]) -> Iterator[tuple[Path, Path, str]]:
        labelled = any(isinstance(entry, dict) and "label" in entry for entry in card.get("validation") or ())
        splits = {"training": "train", "validation": "val"} if labelled else {"training": ""}
        entries = [(key, i, entry) for key in splits for i, entry in enumerate(card[key])]
        for key, i, entry in entries:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(part), str) for part in ("image", "label")):
                what = f"entry {i} of {key!r} does not name an image and a label"
                self.report(self.root / CARD, what, 'write it as  {"image": "./imagesTr/NAME.nii.gz", "label": "./labelsTr/NAME.nii.gz"}')
                continue
            files = [self.file_named(CARD, entry[part], self.root) for part in ("image", "label")]
            if files[0] and files[1]:
                yield files[0], files[1], splits[key]
        names = {stem(Path(entry["image"])) for *_, entry in entries if isinstance(entry, dict) and isinstance(entry.get("image"), str)}
        others = [path for path in image_files(self.root / IMAGES) if stem(path) not in names]
        if others:
            what = f"{len(others)} images are not among those that {CARD} lists, and are left out, e.g. {others[0].name}"
            self.report(self.root / IMAGES, what, "add them to 'training', or move them away", "warning")

    # files

    def _by_name(self) -> Iterator[tuple[Path, Path, str]]:
        images, labels = (Keyed.of(image_files(self.root / name), self.root / name) for name in (IMAGES, LABELS))
        if not images.keys:
            self.report(self.root / IMAGES, "holds no images", "put the volumes there")
        return ((image, label, "") for _, image, label in self.pairs(images, labels))

    def _case(self, image: Path, label: Path, modalities: int, split: str) -> Iterator[Case]:
        files = self.read_pair(image, {"": label}, self.orient)
        if files is None:
            return
        if modalities and is_volume_file(image) and (channels := header(image).channels) != modalities:
            what = f"holds {channels} channels, but {CARD} names {modalities} modalities"
            self.report(image, what, "replace the file, or fix 'modality'")
            return
        key = stem(image)
        yield Case(key, files.image, files.masks[""], group=key, split=split, spacing_mm=files.spacing_mm, dims=files.dims)


def _named_as_listed(root: Path, card: dict[str, Any]) -> bool:
    """Whether the first image is there under the name that the card gives it, and not under that of a channel of nnU-Net."""
    first = (card.get("training") or [None])[0]
    name = first.get("image") if isinstance(first, dict) else None
    if not isinstance(name, str) or not name.endswith(".nii.gz") or "\0" in name:
        return True
    channel = root / f"{name.removesuffix('.nii.gz')}_0000.nii.gz"
    return (root / name).is_file() or not channel.is_file()


def consecutive(tumor: Any) -> Any:
    """The phantom's 0, 1, 2, 4 as 0, 1, 2, 3."""
    return np.where(tumor == tomography.ENHANCING, np.uint8(PHANTOM_LABELS["enhancing"]), tumor)
