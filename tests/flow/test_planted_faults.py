"""Faults planted in good data sets: each is found, at its file and with what to do, and nothing else is accused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest

from segkit.cli.phantom import command as phantom
from segkit.config import compose
from segkit.data.audit.audit import inspect
from segkit.system.errors import Problem

N = {"decathlon": 8, "folder": 24, "csv": 24, "lgg": 24}
LABELS = "data.labels={0: background, 255: head}"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A sound data set of each layout, made once."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "set"
            phantom(compose.compose("phantom", [f"data={name}", f"n={N.get(name, 24)}", f"output={made[name]}"]))  # type: ignore[arg-type]
        return made[name]

    return of


def audited(name: str, root: Path, *overrides: str) -> list[Problem]:
    cfg: Any = compose.compose("audit", [f"data={name}", f"data.root={root}", *([LABELS] if name in ("folder", "csv") else []), *overrides])
    looked = inspect(cfg.data, cfg.split, cfg.seed, (), root.parent / f"cache-{root.name}")
    return [problem for problem in (*looked.problems, *looked.split_problems) if problem.severity != "note"]


# what is planted: each takes the root of a sound data set and spoils it


def image(root: Path, i: int = 0) -> Path:
    return sorted((root / "images").iterdir())[i]


def mask(root: Path, i: int = 0) -> Path:
    return sorted((root / "masks").iterdir())[i]


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


def truncated_image(root: Path) -> None:
    image(root).write_bytes(image(root).read_bytes()[:-400])


def empty_file(root: Path) -> None:
    mask(root).write_bytes(b"")


def text_for_an_image(root: Path) -> None:
    image(root).write_text("not a picture")


def orphan_image(root: Path) -> None:
    mask(root).unlink()


def orphan_mask(root: Path) -> None:
    image(root).unlink()


def smaller_mask(root: Path) -> None:
    edit(mask(root), lambda m: m[:-7])


def turned_mask(root: Path) -> None:
    edit(mask(root), lambda m: m.T.copy())


def all_masks_shifted(root: Path) -> None:
    for path in (root / "masks").iterdir():
        edit(path, lambda m: np.roll(m, (12, -14), (0, 1)))


def blurred_mask(root: Path) -> None:
    edit(mask(root), lambda m: cv2.GaussianBlur(m, (0, 0), 2))


def unknown_value(root: Path) -> None:
    edit(mask(root), lambda m: np.where((np.arange(m.shape[0])[:, None] < 9) & (m == 0), 7, m).astype(np.uint8))


def outline_for_an_area(root: Path) -> None:
    for i in range(3):
        edit(mask(root, i), lambda m: cv2.morphologyEx(m, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))


def black_image(root: Path) -> None:
    edit(image(root), np.zeros_like)


def overexposed_image(root: Path) -> None:
    edit(image(root), lambda i: np.clip(i.astype(int) // 6 + 213, 0, 255).astype(np.uint8))


def colour_image(root: Path) -> None:
    edit(image(root), lambda i: np.dstack([i, i // 2, 255 - i]))


def sixteen_bit_image(root: Path) -> None:
    edit(image(root), lambda i: i.astype(np.uint16) * 257)


def same_image_twice(root: Path) -> None:
    for folder in ("images", "masks"):
        files = sorted((root / folder).iterdir())
        shutil.copy(files[0], root / folder / "zz9_1.png")


def nearly_the_same_image(root: Path) -> None:
    """Copies of every image, slightly darker, as new patients: some stand on the other side."""
    for path in sorted((root / "images").iterdir()):
        edit(shutil.copy(path, path.with_name(f"z{path.name}")), lambda i: (i * 0.95).astype(np.uint8))
        shutil.copy(root / "masks" / path.name, root / "masks" / f"z{path.name}")


def specks(root: Path) -> None:
    def dotted(m: Any) -> Any:
        m[3, 3:5] = m[9, 20:22] = 255
        return m

    for i in range(4):
        edit(mask(root, i), dotted)


def empty_masks(root: Path) -> None:
    for path in sorted((root / "masks").iterdir())[1:]:
        edit(path, np.zeros_like)


def rows(root: Path) -> list[str]:
    return (root / "cases.csv").read_text().splitlines()


def write_rows(root: Path, lines: list[str]) -> None:
    (root / "cases.csv").write_text("\n".join(lines) + "\n")


def missing_column(root: Path) -> None:
    head, *rest = rows(root)
    write_rows(root, [head.replace("image", "picture"), *rest])


def id_twice(root: Path) -> None:
    write_rows(root, [*rows(root), rows(root)[1]])


def missing_file(root: Path) -> None:
    (root / rows(root)[1].split(",")[1]).unlink()


def odd_spacing(root: Path) -> None:
    head, first, *rest = rows(root)
    *cells, _ = first.split(",")
    write_rows(root, [head, ",".join([*cells, "17.5"]), *rest])


def patient_on_both_sides(root: Path) -> None:
    head, *rest = rows(root)
    write_rows(root, [f"{head},split", *(f"{line},{'val' if i % 4 == 2 else 'train'}" for i, line in enumerate(rest))])


def path_out_of_the_root(root: Path) -> None:
    head, first, *rest = rows(root)
    (root.parent / "outside.png").write_bytes((root / first.split(",")[1]).read_bytes())
    write_rows(root, [head, first.replace(first.split(",")[1], "../outside.png"), *rest])


def volume(root: Path, folder: str) -> Path:
    return sorted(path for path in (root / folder).iterdir() if not path.name.startswith("."))[0]


def other_affine(root: Path) -> None:
    path = volume(root, "labelsTr")
    loaded = nibabel.load(path)
    affine = loaded.affine.copy()  # type: ignore[attr-defined]
    affine[0, 3] += 12
    nibabel.save(nibabel.Nifti1Image(np.asarray(loaded.dataobj), affine), path)  # type: ignore[attr-defined, no-untyped-call]


def gzip_that_is_none(root: Path) -> None:
    volume(root, "imagesTr").write_bytes(b"this is no gzip at all, and no NIfTI either" * 20)


def zero_byte_volume(root: Path) -> None:
    volume(root, "imagesTr").write_bytes(b"")


def fewer_slices(root: Path) -> None:
    path = volume(root, "labelsTr")
    loaded = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(loaded.dataobj)[..., :-2], loaded.affine), path)  # type: ignore[attr-defined, no-untyped-call]


def forgotten_slice(root: Path) -> None:
    """A slice without its mask's content, between two that have it."""
    by_volume: dict[Path, list[Path]] = {}
    for path in sorted(root.rglob("*_mask.tif"), key=lambda p: (p.parent.name, int(p.stem.split("_")[-2]))):
        by_volume.setdefault(path.parent, []).append(path)
    for paths in by_volume.values():
        held = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED).any() for path in paths]
        inner = [i for i in range(1, len(paths) - 1) if held[i - 1] and held[i] and held[i + 1]]
        if inner:
            edit(paths[inner[len(inner) // 2]], np.zeros_like)
            return
    raise AssertionError("no volume with three labelled slices in a row")


PLANTED: list[tuple[str, Callable[[Path], None], str, str]] = [
    ("folder", truncated_image, "error", r"truncated|damaged"),
    ("folder", empty_file, "error", "zero bytes"),
    ("folder", text_for_an_image, "error", "not an image"),
    ("folder", orphan_image, "error", "has no mask"),
    ("folder", orphan_mask, "error", "has no image"),
    ("folder", smaller_mask, "error", r"\d+ x \d+"),
    ("folder", turned_mask, "error", "turned by 90 degrees"),
    ("folder", all_masks_shifted, "warning", "moved by about"),
    ("folder", blurred_mask, "error", r"gray levels or blurred edges|smooth"),
    ("folder", unknown_value, "error", "values 0, 7, 255 but labels name"),
    ("folder", outline_for_an_area, "warning", r"outline|contour|line"),
    ("folder", black_image, "warning", "every pixel has the same value"),
    ("folder", overexposed_image, "warning", "intensity"),
    ("folder", colour_image, "error", "3 channels"),
    ("folder", sixteen_bit_image, "warning", "bit depths are mixed"),
    ("folder", same_image_twice, "warning", "the same pixels as"),
    ("folder", nearly_the_same_image, "warning", "looks like"),
    ("folder", specks, "warning", r"speck|component|fewer than"),
    ("folder", empty_masks, "warning", "empty in 23 of 24"),
    ("csv", missing_column, "error", "has no column 'image'"),
    ("csv", id_twice, "error", "is that of line"),
    ("csv", missing_file, "error", "is missing"),
    ("csv", odd_spacing, "warning", "17.5"),
    ("csv", patient_on_both_sides, "error", "in train .* and validation"),
    ("csv", path_out_of_the_root, "error", r"out of|outside"),
    ("decathlon", other_affine, "error", "affine"),
    ("decathlon", gzip_that_is_none, "error", "gzip|NIfTI"),
    ("decathlon", zero_byte_volume, "error", "zero bytes"),
    ("decathlon", fewer_slices, "error", r"\d+ x \d+ x \d+"),
    ("lgg", forgotten_slice, "warning", "not labelled, though"),
]


@pytest.mark.parametrize(("name", "plant", "severity", "words"), PLANTED, ids=[plant.__name__ for _, plant, _, _ in PLANTED])
def test_a_planted_fault_is_found(
    name: str, plant: Callable[[Path], None], severity: str, words: str, good: Callable[[str], Path], tmp_path: Path
) -> None:
    root = tmp_path / "spoiled"
    shutil.copytree(good(name), root)
    plant(root)
    problems = audited(name, root)
    import re

    found = [problem for problem in problems if problem.severity == severity and re.search(words, problem.what)]
    assert found, [f"{p.severity} {p.where}: {p.what}" for p in problems]
    assert all(problem.fix for problem in found)
    assert len(problems) - len(found) <= 2, [f"{p.severity} {p.where}: {p.what}" for p in problems]  # what follows from the fault


@pytest.mark.parametrize("name", sorted({name for name, *_ in PLANTED}))
def test_nothing_is_invented_where_nothing_was_planted(name: str, good: Callable[[str], Path]) -> None:
    assert audited(name, good(name)) == []
