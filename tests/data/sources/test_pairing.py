"""Rules that pair images and masks: as typed, as found where they are plain, and as proposed where the user has to choose."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from segkit.config import schema
from segkit.data.case import Case
from segkit.data.manifest import find
from segkit.data.naming import name_labels
from segkit.data.sources.csv import Csv
from segkit.data.sources.folder import Folder
from segkit.data.sources.proposals import proposals
from segkit.system.errors import Problem

Layout = Sequence[str]


def touch(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.full((4, 5), 255 * (i % 2), np.uint8))
    return root


def listed(source: Folder | Csv) -> tuple[list[Case], list[Problem]]:
    return list(source.cases()), source.problems


def typed(line: str) -> dict[str, Any]:
    """The keys of `data.source` that a line sets, as a shell and Hydra read it."""
    overrides = OverridesParser.create().parse_overrides([word for word in shlex.split(line) if "=" in word])
    return {str(one.key_or_group).removeprefix("data.source."): value_of(one) for one in overrides}


def value_of(override: Any) -> Any:
    value = override.value()
    return getattr(value, "text", value)


def ids(cases: Sequence[Case]) -> list[str]:
    return [case.id for case in cases]


PREFIX = [f"{name}{i:04d}.png" for i in range(1, 5) for name in ("images/img", "masks/label")]
LITS = [f"batch 1/{name}-{i}.png" for i in range(4) for name in ("volume", "segmentation")]
KITS = [f"case_{i:05d}/{name}.png" for i in range(4) for name in ("imaging", "segmentation")]
NAMED = [f"{patient}/{name}.png" for patient in ("anna", "bert", "carl") for name in ("scan", "mask")]
ISIC = [f"ISIC_{i:07d}{end}.png" for i in range(4) for end in ("", "_segmentation")]
SLICES = [f"p{p}/{name}_{i}.png" for p in range(2) for i in range(3) for name in ("img", "mask")]
SCANS = [f"p{p}_1996/p{p}_1996_{i}{end}.png" for p in range(2) for i in range(12) for end in ("", "_mask")]
SEGTHOR = [f"Patient_{i:02d}/{name}.png" for i in range(1, 5) for name in (f"Patient_{i:02d}", "GT")]
BTCV = [f"{name}/{name}{i:04d}.png" for i in range(4) for name in ("img", "label")]


@pytest.mark.parametrize(
    ("layout", "first"),
    [
        (PREFIX, "0001"),
        (LITS, "0"),
        (KITS, "case_00000"),
        (NAMED, "anna"),
        (ISIC, "ISIC_0000000"),
        (SLICES, "p0_0"),
        (BTCV, "0000"),
        (SEGTHOR, "Patient_01"),
        (SCANS, "p0_1996/p0_1996_0"),
    ],
)
def test_a_rule_that_pairs_every_file_is_taken_and_named(layout: Layout, first: str, tmp_path: Path) -> None:
    cases, problems = listed(Folder(touch(tmp_path, *layout)))
    assert len(cases) == len(layout) // 2
    assert cases[0].id == first
    assert all(set(case.image.paths).isdisjoint(case.masks[""].paths) for case in cases)
    assert [p.severity for p in problems] == ["note"]
    assert problems[0].what.startswith(f"paired by a rule found in the names of all {len(layout)} files: images ")
    again, problems = listed(Folder(tmp_path, **typed(problems[0].fix)))
    assert ids(again) == ids(cases)
    assert problems == []


FUNDUS = [f"{name}.png" for i in range(21, 25) for name in (f"images/{i}_training", f"1st_manual/{i}_manual1", f"mask/{i}_training_mask")]
SUBSETS = [f"{subset}/{kind}/{i}.png" for subset in ("train", "valid", "test") for kind in ("images", "masks") for i in range(3)]
STRUCTURES = [f"{folder}/{i:03d}.png" for folder in ("images", "masks_heart", "masks_lung") for i in range(4)]
SEQUENCES = [f"{folder}/sub-{i:02d}.png" for folder in ("dmri", "t1", "t2", "seg_gm") for i in range(4)]
OBJECTS = [f"{i:x}a/images/{i:x}a.png" for i in range(9)] + [f"{i:x}a/masks/{i * 7 + j:x}b.png" for i in range(9) for j in range(3)]
TOTAL = [f"s{i:04d}/{name}.png" for i in range(3) for name in ("ct", "segmentations/liver", "segmentations/spleen")]
BRATS = [f"B-{i:05d}-000/B-{i:05d}-000-{name}.png" for i in range(4) for name in ("t1c", "t1n", "t2f", "t2w", "seg")]
BIDS = [f"p{i}/{name}.png" for i in range(4) for name in ("flair", "t1", "mask")]
LESIONS = [f"benign ({i}){end}.png" for i in range(4) for end in ("", "_mask")] + ["benign (2)_mask_1.png"]
CITY = [f"photo/train/{c}/{c}_{i}_photo.png" for c in ("ulm", "jena") for i in range(3)]
CITY += [f"gt/train/{c}/{c}_{i}_gt_{kind}.png" for c in ("ulm", "jena") for i in range(3) for kind in ("color", "labelIds")]
NO_WORD = [f"{folder}/{i}.png" for folder in ("a", "b") for i in range(4)]


CHOICES: dict[str, tuple[Layout, int, int]] = {
    "fundus": (FUNDUS, 4, 2),
    "subsets": (SUBSETS, 9, 1),
    "structures": (STRUCTURES, 4, 3),
    "sequences": (SEQUENCES, 4, 3),
    "objects": (OBJECTS, 9, 1),
    "total": (TOTAL, 3, 1),
    "no word": (NO_WORD, 4, 2),
    "channels": (BRATS, 4, 4),
    "named channels": (BIDS, 4, 3),
    "lesions": (LESIONS, 4, 2),
    "city": (CITY, 6, 2),
}


@pytest.mark.parametrize(("layout", "n", "lines"), CHOICES.values(), ids=CHOICES)
def test_where_there_is_a_choice_every_rule_is_proposed_and_none_taken(layout: Layout, n: int, lines: int, tmp_path: Path) -> None:
    cases, problems = listed(Folder(touch(tmp_path, *layout)))
    assert cases == []
    (problem,) = problems
    offered = [line.partition("  pairs ")[0] for line in problem.fix.removeprefix("several rules fit, choose one:   ").split("   or   ")]
    assert len(offered) == lines
    for line in offered:
        cases, problems = listed(Folder(tmp_path, **typed(line)))
        assert len(cases) == n, line
        assert not [p for p in problems if p.severity == "error" and "has no mask" in p.what]


def test_numbered_folders_are_cases_never_images_and_masks(tmp_path: Path) -> None:
    _, problems = listed(Folder(touch(tmp_path, *(f"MR/{p}/Ground/IMG-{i:05d}.png" for p in range(1, 6) for i in range(8)))))
    assert not any("pairs" in problem.fix for problem in problems)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"version": "5.0", "shapes": []}', "data=labelme "),
        ('{"categories": [], "images": []}', "data=coco data.source.annotations=notes.json "),
        ('{"patients": 3}', "\"data.source.image='(?P<id>.+)'\" "),
    ],
)
def test_without_a_rule_the_layout_of_the_outlines_is_named(text: str, line: str, tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}.png" for i in range(4)))
    (tmp_path / "notes.json").write_text(text)
    _, problems = listed(Folder(tmp_path))
    assert problems
    assert all(problem.fix.startswith(line) for problem in problems)


@pytest.mark.parametrize(
    "keys", [{"images": ".", "masks": ".", "mask_suffix": "_mask"}, {"image": "(?P<id>.+)", "mask": "(?P<id>.+)_mask"}]
)
def test_further_masks_of_an_image_are_not_taken_for_images(keys: dict[str, str], tmp_path: Path) -> None:
    _, (problem,) = listed(Folder(touch(tmp_path, *LESIONS), **keys))
    assert (problem.where, problem.what) == ("benign (2)_mask_1.png", "is called like a further mask of its image")
    cases, problems = listed(Folder(tmp_path, **typed(problem.fix.removeprefix("join them:  "))))
    assert [len(case.masks[""].paths) for case in cases] == [1, 1, 2, 1]
    assert problems == []
    _, (problem,) = listed(Folder(tmp_path, **keys, missing_masks="skip"))
    assert problem.severity == "warning"


def test_a_split_in_the_folders_is_prescribed(tmp_path: Path) -> None:
    touch(tmp_path, *SUBSETS)
    pattern = "(?P<split>train|valid|test)/{}/(?P<id>.+)"
    cases, problems = listed(Folder(tmp_path, image=pattern.format("images"), mask=pattern.format("masks")))
    assert problems == []
    assert [(case.id, case.split) for case in cases[::3]] == [("test/0", "test"), ("train/0", "train"), ("valid/0", "val")]


def test_masks_of_structures_are_planes_that_may_overlap(data: Callable[..., schema.Data], tmp_path: Path) -> None:
    touch(tmp_path / "set", *STRUCTURES)
    keys = {"image": r"images/(?P<id>\d+)", "mask": r"masks_(?P<structure>heart|lung)/(?P<id>\d+)"}
    config = data("folder", tmp_path / "set", keys)
    found = find(config, 0, (), tmp_path / "cache")
    assert [list(case.masks) for case in found.cases] == [["heart", "lung"]] * 4
    labels, problems = name_labels(config, found, {})
    assert (labels.classes, labels.overlap, problems) == (("heart", "lung"), True, [])


def test_masks_of_objects_become_one(tmp_path: Path) -> None:
    for i, name in enumerate(("n/images/n", "n/masks/a", "n/masks/b")):
        mask = np.zeros((4, 5), np.uint8)
        mask[i] = 255
        touch(tmp_path, f"{name}.png")
        cv2.imwrite(str(tmp_path / f"{name}.png"), mask)
    (case,), problems = listed(Folder(tmp_path, image="(?P<id>[^/]+)/images/[^/]+", mask="(?P<id>[^/]+)/masks/(?P<instance>.+)"))
    assert problems == []
    assert np.flatnonzero(case.masks[""].read().any(axis=1)).tolist() == [1, 2]


def test_a_file_for_each_channel(tmp_path: Path) -> None:
    touch(tmp_path, *(f"c{i}/{name}.png" for i in range(3) for name in ("t1", "t2", "seg")))
    source = {"image": "(?P<id>[^/]+)/(?P<channel>t1|t2)", "mask": "(?P<id>[^/]+)/seg"}
    cases, problems = listed(Folder(tmp_path, **source))
    assert problems == []
    assert [case.image.read().shape for case in cases] == [(4, 5, 2)] * 3
    (tmp_path / "c1" / "t2.png").unlink()
    cases, problems = listed(Folder(tmp_path, **source))
    assert ids(cases) == ["c0", "c2"]
    assert [(p.where, p.what) for p in problems] == [("c1/t1.png", "c1 lacks a channel: others have t1, t2")]


@pytest.mark.parametrize("kept", [(), ("c1/seg.png",)])
def test_a_prediction_needs_no_masks(kept: tuple[str, ...], data: Callable[..., schema.Data], tmp_path: Path) -> None:
    keys = {"image": "(?P<id>[^/]+)/(?P<channel>t1|t2)", "mask": "(?P<id>[^/]+)/seg"}
    touch(tmp_path / "set", *(f"c{i}/{name}.png" for i in range(3) for name in ("t1", "t2")), *kept)
    found = find(data("folder", tmp_path / "set", keys), 0, (), tmp_path / "cache", needs_masks=False)
    assert ([case.id for case in found.cases], found.problems) == (["c0", "c1", "c2"], ())
    touch(tmp_path / "plain", "images/a.png")
    found = find(data("folder", tmp_path / "plain"), 0, (), tmp_path / "cache", needs_masks=False)
    assert ([case.id for case in found.cases], found.problems) == (["a"], ())


def test_one_flat_folder_of_images_and_masks(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c} ({i}){end}.png" for c in ("benign", "normal") for i in range(3) for end in ("", "_mask")))
    cases, _ = listed(Folder(tmp_path))
    assert ids(cases)[:2] == ["benign (0)", "benign (1)"]


FRAMES = [f"p{i:02d}/p{i:02d}_{end}.png" for i in range(5) for end in ("f01", "f01_gt", "4d")]


def frames(root: Path, **keys: Any) -> Folder:
    return Folder(touch(root, *FRAMES), images=".", masks=".", mask_suffix="_gt", **keys)


def test_images_without_masks_are_one_line_with_what_leaves_them_out(tmp_path: Path) -> None:
    cases, (problem,) = listed(frames(tmp_path))
    assert len(cases) == 5
    assert problem.where == "p00/p00_4d.png"
    assert problem.what == "has no mask p00/p00_4d_gt.* (and 4 more, such as p01_4d.png)"
    assert problem.fix.endswith("data.source.ignore='*_4d'")
    cases, problems = listed(frames(tmp_path, **typed("data.source.ignore='*_4d'")))
    assert (len(cases), problems) == (5, [])
    touch(tmp_path, "p00/p00_f02.png")
    _, (problem,) = listed(frames(tmp_path))
    assert problem.fix.endswith("data.source.missing_masks=skip")
    cases, problems = listed(frames(tmp_path, missing_masks="skip"))
    assert (sum(bool(case.masks) for case in cases), len(cases), problems) == (5, 11, [])


@pytest.mark.parametrize("pattern", ["*_4d", "p0?/*_4d", "p0*/p0[0-4]_4d"])
def test_exclude_takes_patterns(pattern: str, data: Callable[..., schema.Data], tmp_path: Path) -> None:
    frames(tmp_path / "set")
    keys = {"images": ".", "masks": ".", "mask_suffix": "_gt"}
    found = find(data("folder", tmp_path / "set", keys, exclude=[pattern]), 0, (), tmp_path / "cache")
    assert (len(found.cases), found.problems) == (5, ())
    found = find(data("folder", tmp_path / "set", keys, exclude=["*_5d", "*_4d"]), 0, (), tmp_path / "cache")
    assert [(p.where, p.what) for p in found.problems] == [("data.exclude", "'*_5d' is not a case")]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("volume", "has no group (?P<id>…)"),
        ("(", "is not a regular expression"),
        (r"(?P<id>.)(?P<slice>.)", "has a group slice; known are"),
    ],
)
def test_a_wrong_pattern_is_one_line(pattern: str, said: str, tmp_path: Path) -> None:
    cases, (problem,) = listed(Folder(touch(tmp_path, *LITS), image=pattern, mask=r"segmentation-(?P<id>\d+)"))
    assert cases == []
    assert said in problem.what


def test_proposals_for_many_files_end() -> None:
    names = [f"{folder}/{i:06d}{end}" for i in range(3000) for folder, end in (("scans", ""), ("truth", "_seg"))]
    (best,) = proposals(names)
    assert (best.n, best.is_plain) == (3000, True)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("img_path,label_path,age\ni/1.png,m/1.png,30\n", "data.source.columns='{image: img_path, mask: label_path}'"),
        ("Scan,mask heart,mask lung\ni/1.png,m/1.png,m/2.png\n", None),
    ],
)
def test_columns_of_other_names_are_mapped(text: str, line: str | None, tmp_path: Path) -> None:
    touch(tmp_path, "i/1.png", "m/1.png", "m/2.png")
    (tmp_path / "cases.csv").write_text(text)
    cases, problems = listed(Csv(tmp_path))
    assert cases == []
    fix = next(p.fix for p in problems if p.severity == "error")
    assert line is None or fix == line
    (case,), problems = listed(Csv(tmp_path, **typed(fix)))
    assert not [p for p in problems if p.severity == "error"]
    assert all(mask.paths for mask in case.masks.values())


def test_missing_masks_of_a_table_are_one_line(tmp_path: Path) -> None:
    touch(tmp_path, *(f"i/{i}.png" for i in range(5)), "m/0.png")
    (tmp_path / "cases.csv").write_text("image,mask\n" + "".join(f"i/{i}.png,m/{i}.png\n" for i in range(5)))
    cases, (problem,) = listed(Csv(tmp_path))
    assert len(cases) == 1
    assert (problem.where, problem.what) == ("cases.csv line 3", "names m/1.png, which is missing (and 3 more)")
    cases, problems = listed(Csv(tmp_path, **typed(problem.fix.rpartition("  ")[2])))
    assert ([bool(case.masks) for case in cases], problems) == ([True, False, False, False, False], [])
