"""COCO: one table for all images, masks that are those of pycocotools, and everything that can be wrong with such a table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from segkit.data.case import Case
from segkit.data.io.polygons import ShapeError
from segkit.data.phantoms import chest
from segkit.data.sources.coco import Coco, unpack

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself

IMAGES = 9
Table = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    Coco(root).write_phantom(root, IMAGES, seed=5)
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(written, tmp_path / "root")


def listed(root: Path, **keys: Any) -> tuple[list[Case], list[str]]:
    source = Coco(root, **keys)
    cases = list(source.cases())
    return cases, [f"{p.severity}: {p.where}: {p.what}; {p.fix}" for p in source.problems]


def change(root: Path, how: Callable[[Table], Any]) -> None:
    file = root / "annotations.json"
    table = json.loads(file.read_text())
    how(table)
    file.write_text(json.dumps(table))


def first(table: Table, image_id: int) -> dict[str, Any]:
    return next(entry for entry in table["annotations"] if entry["image_id"] == image_id)


def test_masks_are_exactly_those_of_pycocotools(root: Path) -> None:
    """Polygons, packed and plain codes take turns."""
    cases, problems = listed(root)
    assert problems == []
    table = COCO(str(root / "annotations.json"))
    assert len(cases) == IMAGES
    for image_id, case in enumerate(cases, 1):
        planes = dict.fromkeys(chest.LABELS, np.zeros(chest.CHEST, np.uint8))
        for annotation in table.loadAnns(table.getAnnIds(image_id)):
            name = table.cats[annotation["category_id"]]["name"]
            planes[name] = planes[name] | table.annToMask(annotation)
        assert set(case.masks) == set(planes)
        for name, plane in planes.items():
            assert np.array_equal(case.masks[name].read(), plane)


def test_phantom_images_read_back_as_they_were_drawn(root: Path) -> None:
    cases, _ = listed(root)
    for case, (name, drawing) in zip(cases, chest.chests(IMAGES, 5), strict=True):
        assert case.id == name
        assert np.array_equal(case.image.read()[..., 0], drawing.image)
        assert case.facts["n_instances"] == len(drawing.bones)
        for label in chest.LABELS:  # pycocotools fills the same outlines, but for half a pixel of their edge
            ours, theirs = drawing.mask(label), case.masks[label].read()
            assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.9


def test_the_phantom_is_written_the_same_again(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = tmp_path_factory.mktemp("again")
    Coco(again).write_phantom(again, IMAGES, seed=5)
    files, others = ({path.relative_to(place): path.read_bytes() for path in place.rglob("*.*")} for place in (root, again))
    assert len(files) == IMAGES + 1
    assert files == others


def test_a_threshold_does_not_find_the_bones_of_the_phantom(root: Path) -> None:
    scores = []
    for case in listed(root)[0]:
        bones = np.logical_or.reduce([mask.read() > 0 for mask in case.masks.values()])
        _, bright = cv2.threshold(case.image.read()[..., 0], 0, 1, cv2.THRESH_OTSU)
        scores.append(max(2 * (bones & side).sum() / (bones.sum() + side.sum()) for side in (bright > 0, bright == 0)))
    assert np.mean(scores) < 0.8


def test_categories_are_the_classes(root: Path) -> None:
    source = Coco(root)
    list(source.cases())
    assert source.default_labels == {label: label for label in chest.LABELS}
    source = Coco(root, categories=["clavicle", "anterior"])
    assert {plane for case in source.cases() for plane in case.masks} == {"clavicle", "anterior"}
    assert source.default_labels == {"clavicle": "clavicle", "anterior": "anterior"}
    what = f"'clavicel' is not a valid option; available: {', '.join(chest.LABELS)}"
    assert listed(root, categories=["clavicel"])[1][0] == f"error: data.source.categories: {what}; did you mean clavicle?"


def test_a_category_without_annotations_is_no_class(root: Path) -> None:
    change(root, lambda table: table["categories"].append({"id": 0, "name": "bones"}))
    source = Coco(root)
    list(source.cases())
    assert "bones" not in (source.default_labels or {})
    (note,) = source.problems
    assert (note.severity, note.what) == ("note", "bones: no annotation has them, so they are left out")


def test_an_image_without_annotations_has_empty_masks(root: Path) -> None:
    def empty(table: Table) -> None:
        table["annotations"] = [entry for entry in table["annotations"] if entry["image_id"] != 2]

    change(root, empty)
    cases, problems = listed(root)
    assert problems == []
    (mask,) = cases[1].masks.values()
    assert mask.read().shape == chest.CHEST
    assert not mask.read().any()


def test_files_may_lie_elsewhere_below_root_and_groups_come_from_their_names(tmp_path: Path) -> None:
    keys = {"annotations": "annotations/all.json", "images": "images"}
    Coco(tmp_path, **keys).write_phantom(tmp_path, 4, seed=0)
    cases, problems = listed(tmp_path, **keys, group=r"person(\d+)")
    assert problems == []
    assert [(case.id, case.group) for case in cases] == [(f"person{i:02d}", f"{i:02d}") for i in range(4)]


def test_images_in_a_folder_that_is_not_named_are_one_line(root: Path) -> None:
    (root / "images" / "default").mkdir(parents=True)
    for image in root.glob("*.png"):
        image.rename(root / "images" / "default" / image.name)
    cases, (problem,) = listed(root)
    assert cases == []
    assert problem.endswith("which lies in images/default; data.source.images=images/default")
    assert len(listed(root, images="images/default")[0]) == IMAGES


def test_faults_of_the_table_are_reported_all_at_once(root: Path) -> None:
    def spoil(table: Table) -> None:
        images, annotations = table["images"], table["annotations"]
        annotations[0]["image_id"] = 99
        annotations[1]["category_id"] = 7
        annotations[2]["id"] = annotations[3]["id"]
        images[1]["file_name"] = images[0]["file_name"]
        images[3]["id"] = 3
        images[4]["file_name"] = "absent.png"
        images[5]["file_name"] = "../outside.png"
        table["categories"].append({"id": 3, "name": "other"})
        table["annotations"] = [entry for entry in annotations if entry["image_id"] != 4]

    change(root, spoil)
    (root.parent / "outside.png").write_bytes((root / "person00.png").read_bytes())
    cases, problems = listed(root)
    assert problems == [
        "error: annotations.json category 3: is there twice: anterior and other; keep one of them",
        "error: annotations.json image 2: names person00.png, as image 1 does; remove one of them",
        "error: annotations.json image 3: is an id that two images have; give each its own",
        f"error: annotations.json image 5: names absent.png, which is missing; put it into {root}, or fix the name",
        f"error: annotations.json image 6: names ../outside.png, which leads out of data.root to {root.parent / 'outside.png'}; "
        "put the file itself below data.root, or set data.root to a folder above all files",
        "error: annotations.json annotation 1: image_id 99 is that of no image; add the image, or remove the annotation",
        "error: annotations.json annotation 2: category_id 7 is that of no category; add the category, or fix the annotation",
        "error: annotations.json annotation 4: is an id that two annotations have; remove one of them, if they are the same",
    ]
    assert [case.id for case in cases] == ["person00", "person02", "person06", "person07", "person08"]


def test_a_symbolic_link_out_of_root_is_refused(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    (root / "person00.png").rename(outside)
    (root / "person00.png").symlink_to(outside)
    cases, problems = listed(root)
    assert len(cases) == IMAGES - 1
    assert problems[0].startswith(f"error: annotations.json image 1: names person00.png, which leads out of data.root to {outside}; ")


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([], "its segmentation is empty: a box has no outline"),
        (None, "has no segmentation"),
        ([[1, 1, 5, 5]], "a polygon of 2 points; 3 or more are expected"),
        ([[1, 1, 5, 5, 9, 9, 3]], "a polygon is not a list of numbers x, y, x, y, …"),
        ([[1, 1, 5, 5, 9, None]], "a polygon is not a list of numbers x, y, x, y, …"),
        ([[300, 1, 305, 5, 309, 1]], "a polygon lies outside the image of 192 x 208"),
        ([[-7, 1, 5, 5, 9, 1]], "a polygon reaches 7.0 pixels beyond the image of 192 x 208"),
        ({"size": [208, 192], "counts": "39936"}, "its run-length code is for size [208, 192], the image is [192, 208]"),
        ({"size": [192, 208], "counts": [5, 6]}, "its run-length code has 11 pixels, the image 192 x 208 = 39936"),
        ({"size": [192, 208], "counts": [39937, -1]}, "its run-length code holds something else than lengths of runs"),
        ({"size": [192, 208], "counts": "34="}, "its run-length code has 20 pixels, the image 192 x 208 = 39936"),
        ({"size": [192, 208], "counts": "P"}, "its run-length code is truncated"),
        ({"size": [192, 208], "counts": "3 4"}, "its run-length code holds ' '"),
        ({"size": [192, 208]}, "its run-length code holds something else than lengths of runs"),
    ],
)
def test_a_segmentation_that_cannot_be_says_why(root: Path, segmentation: Any, said: str) -> None:
    change(root, lambda table: first(table, 1).update(segmentation=segmentation))
    assert listed(root)[1] == [f"error: annotations.json annotation 1: (clavicle of person00.png) {said}; fix or remove it"]


def test_a_slip_over_the_edge_is_clipped_with_a_warning(root: Path) -> None:
    change(root, lambda table: first(table, 1).update(segmentation=[[-1.5, 1, 20, 1, 20, 20]]))
    cases, problems = listed(root)
    assert problems == ["warning: annotations.json annotation 1: reaches 1.5 pixels beyond person00.png of 192 x 208: it is clipped; "]
    assert cases[0].masks["clavicle"].read()[2, 5] == 1


def test_the_real_size_counts_where_the_table_says_another(root: Path) -> None:
    change(root, lambda table: table["images"][0].update(height=512, width=512))
    cases, problems = listed(root)
    assert problems == [
        "warning: annotations.json image 1: says 512 x 512, but person00.png is 192 x 208: shapes are taken as drawn on the latter; "
        "make sure that it is the image which was annotated"
    ]
    assert cases[0].masks["clavicle"].read().shape == (192, 208)


def test_a_table_that_is_none_says_what_to_do(root: Path) -> None:
    table = root / "annotations.json"
    whole = table.read_text()
    table.write_text(whole[:-3])
    assert listed(root)[1][0].startswith("error: annotations.json: is truncated (")
    table.write_text(json.dumps({"images": [], "annotations": {}}))
    assert listed(root)[1] == [
        "error: annotations.json: is not a table of COCO instances: it has no list of annotations, categories; export it as COCO instances"
    ]
    table.rename(root / "instances.json")
    assert listed(root)[1] == ["error: annotations.json: is missing; data.source.annotations=instances.json"]


def test_packed_codes_are_unpacked_as_pycocotools_packs_them() -> None:
    assert unpack("34=") == [3, 4, 13]
    with pytest.raises(ShapeError):
        unpack("o")
