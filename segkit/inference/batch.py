"""`segkit predict`: many files, one after the other, going on after a bad one."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit.checkpoint import first_line
from segkit.data.pairing import image_files, natural
from segkit.data.readers import IMAGE_SUFFIXES
from segkit.errors import Problem, SegkitError
from segkit.files import is_full
from segkit.inference.decide import planes
from segkit.inference.predictor import Predictor
from segkit.inference.writers import (
    Area,
    areas,
    is_written,
    write_areas,
    write_mask_png,
    write_overlay,
    write_probabilities,
)
from segkit.progress import track


@dataclass(frozen=True)
class Wanted:
    """What to write beside the masks."""

    probabilities: bool = False
    overlays: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Done:
    written: int
    skipped: int
    problems: tuple[Problem, ...]


def predict_files(predictor: Predictor, source: str, output: Path, wanted: Wanted) -> Done:
    """Masks for a file, folder (with its subfolders) or glob, below `output` under the same relative names, as PNG."""
    images, root = find_images(source, output)
    targets = name_targets(images, root, output)
    todo = [i for i in images if wanted.overwrite or not is_written(targets[i], predictor.labels)]
    measured: list[Area] = []
    problems: list[Problem] = []
    try:
        for image in track(todo, "predicting", len(todo)):
            try:
                measured += predict_one(predictor, image, targets[image], output, wanted)
            except (SegkitError, OSError, ValueError, MemoryError) as error:
                if isinstance(error, OSError) and is_full(error, output):
                    raise SegkitError(f"disk full while writing to {output};   free some space and run it again") from error
                problems.append(Problem(str(image), first_line(error).removeprefix(f"{image} ")))
    finally:  # also of a run that is stopped: its masks will be skipped next time
        if measured:
            write_areas(output / "areas.csv", measured)
    return Done(len(todo) - len(problems), len(images) - len(todo), tuple(problems))


def predict_one(predictor: Predictor, image: Path, target: Path, output: Path, wanted: Wanted) -> list[Area]:
    """The mask comes last: where it exists, all else does."""
    prediction, labels = predictor.predict(image), predictor.labels
    if wanted.probabilities:
        names = ("background", *labels.classes) if labels.mode == "multiclass" else labels.classes
        write_probabilities(target.with_name(f"{target.stem}_probabilities.npz"), prediction.probs, names)
    if wanted.overlays:
        overlay = target.with_name(f"{target.stem}_overlay.png")
        write_overlay(overlay, prediction.image, planes(prediction.mask, labels), labels.colours)
    write_mask_png(target, prediction.mask, labels)
    return areas(target.relative_to(output).with_suffix("").as_posix(), prediction.mask, labels)


def find_images(source: str, output: Path) -> tuple[list[Path], Path]:
    """Images in natural order, but not what an earlier prediction left in `output`; and the folder their names are relative to."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path], path.parent
    if path.is_dir():
        found, root = list(image_files(path, below=[output])), path
    else:
        matches = sorted(glob.glob(str(path), recursive=True), key=natural)  # noqa: PTH207 (an absolute pattern)
        files = [Path(match) for match in matches if Path(match).is_file()]
        found, root = [file for file in files if not file.resolve().is_relative_to(output.resolve())], fixed_part(path)
    if not found:
        what = "folder holds no image" if path.is_dir() else "there is no such file, folder or match"
        raise SegkitError(f"input={source}: {what} ({' '.join(sorted(IMAGE_SUFFIXES))})")
    return found, root


def fixed_part(pattern: Path) -> Path:
    """The folders of a glob before its first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if any(sign in part for sign in "*?["):
            break
        parts.append(part)
    return Path(*parts) if parts else Path()


def name_targets(images: Sequence[Path], root: Path, output: Path) -> dict[Path, Path]:
    """Where each mask goes. Two images that would share a name keep their suffix in it."""
    plain = {image: output / image.relative_to(root).with_suffix(".png") for image in images}
    taken = Counter(plain.values())
    full = {image: output / image.relative_to(root).with_name(f"{image.name}.png") for image in images}
    targets = {image: plain[image] if taken[plain[image]] == 1 else full[image] for image in images}
    if len(set(targets.values())) < len(images):
        raise SegkitError(f"input holds images whose masks would share a name in {output};   predict them one folder at a time")
    clash = [image for image, target in targets.items() if target.resolve() == image.resolve()]
    if clash:
        raise SegkitError(f"output={output} would overwrite the input {clash[0]};   choose another output folder")
    return targets
