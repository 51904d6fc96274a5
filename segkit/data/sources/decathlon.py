"""Medical Segmentation Decathlon: volumes of one task (Antonelli et al., Nat. Commun. 2022; medicaldecathlon.com).

    ROOT/dataset.json           optional: names of labels and modalities, and `training`, the list of images with their labels
    ROOT/imagesTr/NAME.nii.gz   volumes; with several modalities, these are their fourth axis
    ROOT/labelsTr/NAME.nii.gz   label maps on the same grid

Without dataset.json files are paired by name, and the labels have none. The unlabelled imagesTs is not part of the cases.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.case import Case, relative
from segkit.data.io.base import ReadError, stem
from segkit.data.io.volumes import header
from segkit.data.phantoms import brain
from segkit.data.sources.base import Keyed, image_files, pair, unreadable
from segkit.system.errors import Problem

IMAGES, LABELS, CARD = "imagesTr", "labelsTr", "dataset.json"
MODALITY = "t1ce"
PHANTOM_LABELS = {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 3}


class Decathlon:
    """Volumes are turned to `orient`, see `volumes`; null leaves them as they are stored."""

    def __init__(self, root: Path, orient: str | None = "LPS") -> None:
        self.root, self.orient = Path(root), orient
        self.problems: list[Problem] = []
        self.default_labels: dict[int | str, str] | None = None
        self._modalities = 0

    def cases(self) -> Iterator[Case]:
        if not (self.root / IMAGES).is_dir():
            inner = sorted(self.root.glob(f"*/{IMAGES}"))
            fix = f"data.root={inner[0].parent}" if inner else f"data.root = the folder that holds {IMAGES}/ and {LABELS}/"
            self.problems.append(Problem(str(self.root), f"has no folder {IMAGES}", fix))
            return
        card = self._card()
        if card is None:
            return
        self.default_labels = self._labels(card)
        self._modalities = len(card.get("modality") or ())
        for image, label in self._listed(card["training"]) if card.get("training") else self._by_name():
            yield from self._case(image, label)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        training = []
        for patient, drawn in brain.volumes(n, seed):
            name = f"brain_{patient:03d}.nii.gz"
            brain.write_nifti(root / IMAGES / name, drawn.images[MODALITY])
            brain.write_nifti(root / LABELS / name, consecutive(drawn.tumor))
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

    def _card(self) -> dict[str, Any] | None:
        """Empty where there is none; None, with a problem, where it cannot be used."""
        path = self.root / CARD
        if not path.is_file():
            return {}
        card = read_card(path, self.problems)
        if card is None:
            return None
        wrong = {"labels": (dict, list), "modality": (dict, list), "training": (list,)}
        for key, kinds in wrong.items():
            if card.get(key) is not None and not isinstance(card[key], kinds):
                self._say(path, f"{key!r} is no {kinds[0].__name__}", "fix it, or move the file away: files are then paired by name")
                return None
        if "channel_names" in card:
            self._say(path, "has 'channel_names': this is a data set of nnU-Net", "data=nnunet")
            return None
        return card

    def _labels(self, card: dict[str, Any]) -> dict[int | str, str] | None:
        labels = card.get("labels")
        if not labels:
            return None
        items = labels.items() if isinstance(labels, dict) else enumerate(labels)
        try:
            named: dict[int | str, str] = {int(value): str(name) for value, name in items}
        except ValueError:
            self._say(self.root / CARD, "'labels' does not map numbers to names", 'write it as  "labels": {"0": "background", "1": "NAME"}')
            return None
        return {0: "background"} | {value: name for value, name in named.items() if value != 0}

    def _listed(self, training: list[Any]) -> Iterator[tuple[Path, Path]]:
        for i, entry in enumerate(training):
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
                what = f"entry {i} of 'training' does not name an image and a label"
                self._say(self.root / CARD, what, 'write it as  {"image": "./imagesTr/NAME.nii.gz", "label": "./labelsTr/NAME.nii.gz"}')
                continue
            files = [self._inside(entry[key]) for key in ("image", "label")]
            if files[0] and files[1]:
                yield files[0], files[1]
        names = {stem(Path(entry["image"])) for entry in training if isinstance(entry, dict) and isinstance(entry.get("image"), str)}
        others = [path for path in image_files(self.root / IMAGES) if stem(path) not in names]
        if others:
            what = f"{len(others)} images are not among those that {CARD} lists, and are left out, e.g. {others[0].name}"
            self._say(self.root / IMAGES, what, "add them to 'training', or move them away", "warning")

    def _inside(self, name: str) -> Path | None:
        """A file that dataset.json names; below the root, also where links lead."""
        path = self.root / name.removeprefix("./")
        if not path.resolve().is_relative_to(self.root.resolve()):
            self._say(self.root / CARD, f"names {name}, which lies outside {self.root}", "copy it into the folder")
        elif not path.is_file():
            self._say(self.root / CARD, f"names {name}, which is missing", "add the file, or remove the entry")
        else:
            return path
        return None

    # files

    def _by_name(self) -> Iterator[tuple[Path, Path]]:
        images, labels = (Keyed.of(image_files(self.root / name), self.root / name) for name in (IMAGES, LABELS))
        for paths in (*images.several.values(), *labels.several.values()):
            self._say(paths[0], f"ambiguous: {' and '.join(path.name for path in paths)}", "keep one of them")
        if not images.keys:
            self._say(self.root / IMAGES, "holds no images", "put the volumes there")
        for key, image in images.one.items():
            if key in labels.one:
                yield image, labels.one[key]
            elif key not in labels:
                self._say(image, f"has no {LABELS}/{image.name}", "add it, or move the image away")
        for key in (k for k in labels.one if k not in images):
            self._say(labels.one[key], f"has no {IMAGES}/{labels.one[key].name}", "add it, or move the label map away")

    def _case(self, image: Path, label: Path) -> Iterator[Case]:
        try:
            channels = header(image).channels
            files = pair(image, {"": label}, self.orient)
        except ReadError as error:
            self.problems.append(unreadable(error, relative(error.path, self.root)))
            return
        if self._modalities and channels != self._modalities:
            what = f"holds {channels} channels, but {CARD} names {self._modalities} modalities"
            self._say(image, what, "replace the file, or fix 'modality'")
            return
        key = stem(image)
        yield Case(key, files.image, files.masks[""], group=key, spacing_mm=files.spacing_mm, dims=files.dims)

    def _say(self, path: Path, what: str, fix: str, severity: Any = "error") -> None:
        self.problems.append(Problem(relative(path, self.root), what, fix, severity))


def read_card(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    """dataset.json as a dictionary; None, with a problem, where it is none."""
    try:
        card = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        problems.append(Problem(path.name, f"is no JSON ({error})", "fix it; a comma too much is the usual reason"))
        return None
    if isinstance(card, dict):
        return card
    problems.append(Problem(path.name, f"holds a {type(card).__name__}, not keys and values", "copy it again from the data set"))
    return None


def consecutive(tumor: Any) -> Any:
    """The phantom's 0, 1, 2, 4 as 0, 1, 2, 3."""
    return np.where(tumor == brain.ENHANCING, np.uint8(PHANTOM_LABELS["enhancing"]), tumor)
