"""Masks on disk, written by any program, in place of a network: matched with their cases and evaluated alike."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segkit.config.schema import Metric
from segkit.data.case import Case, Manifest, Pixels, stack_planes
from segkit.data.io.base import ReadError, stem
from segkit.data.io.images import MaskFile
from segkit.data.io.volumes import VolumeMask
from segkit.data.labels import Array, LabelMap
from segkit.data.slices import Slice, Volume
from segkit.data.sources.base import pair, unreadable
from segkit.data.sources.files import Keyed, image_files, key_of
from segkit.inference.inputs import InputItem, of_cases
from segkit.inference.predictor import Prediction
from segkit.inference.writers.masks import mask_paths
from segkit.system.errors import Problem, ProblemsFound, SegkitError, few

OVERLAP = Metric(monitor="dice", mode="max", cases={"overlap": {"_target_": "segkit.metrics.Overlap"}})
BESIDE = ("_overlay", "_probabilities")
"""Names of what `segkit predict` writes beside a mask."""
SHOWN = 5
Masks = Mapping[str, Pixels]
"""The masks of one case, by the name of their plane in the data, which is empty where classes exclude each other."""


@dataclass(frozen=True)
class Rules:
    """The part of a config that an evaluation reads."""

    metric: Metric
    allow_targets: list[str]
    seed: int = 0


@dataclass(frozen=True)
class MaskFiles:
    """Reads the prediction for each case from its mask file, in the values of the data."""

    config: Rules
    labels: LabelMap
    masks: Mapping[str, Masks]
    """By the id of the case."""

    def predict_all(self, images: Iterable[Case]) -> Iterator[Prediction]:
        for case in images:
            image = case.image.read()
            yield Prediction(self.read(case, image.shape[: case.dims]), np.empty(0, np.float32), image, case.pixel_mm)

    def read(self, case: Case, size: tuple[int, ...]) -> Array:
        """Class indices (*S), or planes (K, *S) where classes overlap. SegkitError where a file is no mask of this image."""
        masks = self.masks[case.id]
        raw = {mask.paths[0]: mask.read() for mask in masks.values()}
        for path, found in raw.items():
            if found.shape[: case.dims] != size:
                ours, its = (" x ".join(map(str, shape)) for shape in (found.shape[: case.dims], size))
                raise SegkitError(f"{path} is {ours}, its image {case.image.paths[0].name} {its};   write it on the grid of its image")
        if self.labels.overlap:
            return stack_planes(replace(case, mask=masks), self.labels)
        ((path, found),) = raw.items()
        classes, unknown = self.labels.encode(found)
        if unknown:
            known = ", ".join(value for value, _ in self.labels.values)
            raise SegkitError(f"{path} holds {', '.join(unknown)}, but masks of this data hold {known};   write it in these values")
        return classes


def find_masks(folder: Path, manifest: Manifest, orient: str | None, partial: bool) -> dict[str, Masks]:
    """The masks of each case that has some. Raises ProblemsFound where one has none (unless `partial`) or lies on another grid."""
    if not folder.is_dir():
        raise SegkitError(f"masks={folder} is not a folder")
    items = of_cases(manifest)
    there = Keyed.of((path for path in image_files(folder) if not stem(path).endswith(BESIDE)), folder).one
    files = {item.name: files_of_item(item, manifest.labels, there) for item in items}
    claims = Counter(path for paths in files.values() for path in paths)
    complete = [item for item in items if files[item.name] and all(claims[path] == 1 for path in files[item.name])]
    problems = unmatched(folder, items, complete, [key for key, path in there.items() if path not in claims], partial)
    found: dict[str, Masks] = {}
    for item in complete:
        try:
            found |= masks_of_item(item, files[item.name], manifest.labels, orient)
        except ReadError as error:
            problems.append(unreadable(error, str(error.path)))
    if problems:
        raise ProblemsFound(problems, before="evaluation starts")
    return found


def files_of_item(item: InputItem, labels: LabelMap, there: Mapping[str, Path]) -> list[Path]:
    """Find masks as `segkit predict` names them, by the case of a data set or by the image of a folder; [] if one is missing."""
    name = unicodedata.normalize("NFC", item.name)
    ends = [key_of(part, Path())[len(name) :] for file in item.files(Path()) for part in mask_paths(file, labels)]
    image = unicodedata.normalize("NFC", item.source.with_name(stem(item.source)).as_posix()).split("/")
    for called in (name, *("/".join(image[i:]) for i in range(1, len(image)))):
        if all(called + end in there for end in ends):
            return [there[called + end] for end in ends]
    return []


def unmatched(
    folder: Path, items: Sequence[InputItem], complete: Sequence[InputItem], extra: Sequence[str], partial: bool
) -> list[Problem]:
    have = {item.name for item in complete}
    missing = [item.name for item in items if item.name not in have]
    if not missing or (partial and have):
        return []
    fix = "name each mask by its case" if extra else "add them, or evaluate the others alone with  partial=true"
    problems = [Problem(str(folder), f"holds no mask of {len(missing)} of {len(items)} cases: {few(missing, SHOWN)}", fix)]
    if extra:
        problems.append(Problem(str(folder), f"holds {len(extra)} masks of no labelled case: {few(extra, SHOWN)}", "rename or remove them"))
    return problems


def masks_of_item(item: InputItem, files: Sequence[Path], labels: LabelMap, orient: str | None) -> dict[str, Masks]:
    """The masks of all its cases. Raises `ReadError` where a mask lies on another grid than its volume."""
    names = [next(raw for raw, name in labels.values if name == of) for of in labels.classes] if labels.overlap else [""]
    groups = [dict(zip(names, files[i : i + len(names)], strict=True)) for i in range(0, len(files), len(names))]
    planes = [pair(item.like, group, orient).masks if item.like else {n: MaskFile(p) for n, p in group.items()} for group in groups]
    first, stack = item.cases[0], item.is_stack(item.cases)
    if item.slice_images:
        return {first.id: {name: Volume(tuple(plane[name] for plane in planes)) for name in names}}
    if first.dims == 2 and not stack:
        return {first.id: planes[0]}
    whole = {name: VolumeMask(path, orient) for name, path in groups[0].items()}
    if not stack:
        return {first.id: whole}
    return {case.id: {name: Slice(mask, case.position) for name, mask in whole.items()} for case in item.cases}
