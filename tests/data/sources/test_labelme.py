"""LabelMe: one JSON file an image, labels as planes that may cross, and everything that can be wrong with such files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segkit.config import schema
from segkit.data.audit.audit import inspect
from segkit.data.case import Case
from segkit.data.phantoms import chest
from segkit.data.sources.labelme import LabelMe

IMAGES = 9


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelme")
    LabelMe(root).write_phantom(root, IMAGES, seed=5)
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(written, tmp_path / "root")


def listed(root: Path, **keys: Any) -> tuple[list[Case], list[str]]:
    source = LabelMe(root, **keys)
    cases = list(source.cases())
    return cases, [f"{p.severity}: {p.where}: {p.what}; {p.fix}" for p in source.problems]


def change(file: Path, **keys: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text()) | keys
    file.write_text(json.dumps(document))
    return document


def box(label: str, left: float, top: float, right: float, bottom: float, **more: Any) -> dict[str, Any]:
    return {"label": label, "points": [[left, top], [right, bottom]], "shape_type": "rectangle", "group_id": None, **more}


def test_phantom_images_read_back_as_they_were_drawn(root: Path) -> None:
    cases, problems = listed(root)
    assert problems == []
    drawings = list(chest.chests(IMAGES, 5))
    assert [case.id for case in cases] == [name for name, _ in drawings]
    for case, (_, drawing) in zip(cases, drawings, strict=True):
        assert np.array_equal(case.image.read()[..., 0], drawing.image)
        assert set(case.masks) == set(chest.LABELS)
        for label, mask in case.masks.items():
            assert np.array_equal(mask.read(), drawing.mask(label))


def test_bones_of_the_phantom_cross(root: Path) -> None:
    for case in listed(root)[0]:
        clavicle, posterior, anterior = (case.masks[label].read() > 0 for label in chest.LABELS)
        assert (posterior & anterior).sum() > 50
        assert (clavicle & posterior).any()


def test_pieces_of_one_group_are_one_instance(root: Path) -> None:
    case = listed(root)[0][0]
    (_, drawing) = next(chest.chests(1, 5))
    assert case.facts["n_instances"] == 2 * (1 + chest.POSTERIOR + chest.ANTERIOR) == len(drawing.bones) - 2


def test_the_phantom_is_written_the_same_again(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = tmp_path_factory.mktemp("again")
    LabelMe(again).write_phantom(again, IMAGES, seed=5)
    first, second = ({path.relative_to(place): path.read_bytes() for path in place.rglob("*.*")} for place in (root, again))
    assert len(first) == IMAGES + 6  # three images are inside their files
    assert first == second


def test_a_threshold_does_not_find_the_bones_of_the_phantom(root: Path) -> None:
    scores = []
    for case in listed(root)[0]:
        bones = np.logical_or.reduce([mask.read() > 0 for mask in case.masks.values()])
        _, bright = cv2.threshold(case.image.read()[..., 0], 0, 1, cv2.THRESH_OTSU)
        found = [2 * (bones & side).sum() / (bones.sum() + side.sum()) for side in (bright > 0, bright == 0)]
        scores.append(max(found))
    assert np.mean(scores) < 0.8


def test_the_phantom_has_a_folder_of_its_own_where_the_source_says_so(tmp_path: Path) -> None:
    LabelMe(tmp_path, annotations="all/labelme").write_phantom(tmp_path, 3, seed=0)
    cases, problems = listed(tmp_path, annotations="all/labelme")
    assert ([case.id for case in cases], problems) == (["person00", "person01", "person02"], [])
    assert cases[0].image.paths == (tmp_path / "images" / "person00.png",)  # not all/labelme/../../images


def test_groups_come_from_the_name(root: Path) -> None:
    assert [case.group for case in listed(root, group=r"person(\d)")[0]] == ["0"] * IMAGES
    assert [case.group for case in listed(root)[0]] == [""] * IMAGES
    assert listed(root, group="patient")[1][0] == (
        "error: data.source.group: 'patient' does not match 'person00'; every case needs a group, or none"
    )


def test_a_benchmark_is_a_test_set_with_ids_of_its_own(root: Path) -> None:
    (root / "other" / "labelme").mkdir(parents=True)
    file = root / "other" / "labelme" / "person02.json"  # holds its image
    file.write_bytes((root / "person02.json").read_bytes())
    cases, problems = listed(root, benchmark="other")
    assert problems == []
    assert [(case.id, case.split) for case in cases[-2:]] == [("person08", ""), ("other/labelme/person02", "test")]
    assert [case.split for case in listed(root)[0]] == [""] * (IMAGES + 1)  # without the key it is like any other folder


def test_a_file_without_shapes_is_an_image_without_structures(root: Path) -> None:
    change(root / "person01.json", shapes=[])
    case = listed(root)[0][1]
    (mask,) = case.masks.values()
    assert not mask.read().any()
    assert mask.read().shape == chest.CHEST


def test_paint_order_makes_one_class_a_pixel(root: Path) -> None:
    shapes = [box("posterior", 0, 0, 9, 9), box("clavicle", 5, 5, 14, 14), box("__ignore__", 50, 50, 59, 59)]
    change(root / "person00.json", shapes=shapes)
    source = LabelMe(root, paint_order=["clavicle", "posterior", "anterior"])
    mask = next(source.cases()).masks[""].read()
    assert (mask[0, 0], mask[7, 7], mask[50, 50], mask[30, 30]) == (2, 1, 255, 0)
    assert source.default_labels == {0: "background", 1: "clavicle", 2: "posterior", 3: "anterior", 255: "ignore"}
    assert listed(root, paint_order=["clavicle", "posterior"])[1] == [
        "error: data.source.paint_order: lacks the labels anterior; "
        "data.source.paint_order='[clavicle,posterior,anterior]'  or  data.source.leave_out='[anterior]'"
    ]


def test_labels_that_are_left_out_have_no_plane(root: Path) -> None:
    cases, problems = listed(root, leave_out=["anterior"])
    assert (set(cases[0].masks), problems) == ({"clavicle", "posterior"}, [])
    assert listed(root, leave_out=["anteriro"])[1] == [
        "warning: data.source.leave_out: 'anteriro' is not a valid option; available: anterior, clavicle, posterior; did you mean anterior?"
    ]


def test_background_is_not_drawn_and_ignored_pixels_have_a_plane(root: Path) -> None:
    change(root / "person00.json", shapes=[box("_background_", 0, 0, 9, 9), box("__ignore__", 5, 5, 14, 14), box("posterior", 0, 0, 1, 1)])
    assert set(listed(root)[0][0].masks) == {"__ignore__", "posterior"}


def test_a_label_that_nobody_named_is_an_error_with_the_line_to_type(
    root: Path, data: Callable[..., schema.Data], tmp_path_factory: pytest.TempPathFactory
) -> None:
    change(root / "person00.json", shapes=[box("clavicel", 0, 0, 9, 9)])
    config = data("hc18", root, source={"_target_": "segkit.data.sources.labelme.LabelMe"})
    result = inspect(config, None, 0, (), cache_dir=tmp_path_factory.mktemp("cache"))
    (problem,) = [problem for problem in result.problems if problem.where == "data.labels"]
    assert "clavicel" in problem.what
    assert "data.labels='{clavicle: clavicle, posterior: posterior, anterior: anterior, clavicel: clavicel}'" in problem.fix


def test_a_windows_path_leads_to_the_file(root: Path) -> None:
    change(root / "person00.json", imagePath="images\\person00.png")
    (root / "person01.png").write_bytes((root / "images" / "person01.png").read_bytes())
    change(root / "person01.json", imagePath="C:\\Users\\anna\\x-rays\\person01.png")
    cases, problems = listed(root)
    assert problems == []
    assert cases[0].image.paths == (root / "images" / "person00.png",)
    assert cases[1].image.paths == (root / "person01.png",)


def test_a_path_that_leads_out_of_root_is_refused(root: Path) -> None:
    outside = root.parent / "secret.png"
    outside.write_bytes((root / "images" / "person00.png").read_bytes())
    change(root / "person00.json", imagePath=str(outside))
    change(root / "person01.json", imagePath="../secret.png")
    (root / "images" / "person03.png").unlink()
    (root / "images" / "person03.png").symlink_to(outside)
    fix = "put the file itself below data.root, or set data.root to a folder above all files"
    cases, problems = listed(root)
    assert len(cases) == IMAGES - 3
    assert problems[0] == f"error: person00.json: names {outside}, which leads out of data.root to {outside}; {fix}"
    assert all(f"which leads out of data.root to {outside}; {fix}" in problem for problem in problems)
    assert len(problems) == 3


def test_a_name_that_no_file_can_have_is_reported(root: Path) -> None:
    change(root / "person00.json", imagePath="a" * 5000)
    change(root / "person01.json", imagePath="a\0b.png")
    problems = listed(root)[1]
    assert [problem.split(": names ")[0] for problem in problems] == ["error: person00.json", "error: person01.json"]
    assert all(problem.endswith("; fix the name") for problem in problems)


def test_faults_of_shapes_are_reported_all_at_once(root: Path) -> None:
    triangle = {"label": "posterior", "points": [[1, 1], [5, 1], [1, 5]]}
    change(
        root / "person00.json",
        shapes=[
            {**triangle, "points": [[1, 1], [2, 2]]},
            {**triangle, "shape_type": "polygn"},
            {**triangle, "points": [[300, 10], [310, 10], [300, 20]]},
            {**triangle, "points": [[-9, 10], [10, 10], [10, 20]]},
        ],
    )
    fix = "fix it in LabelMe, or move the file away"
    cases, problems = listed(root)
    assert problems == [
        f"error: person00.json: shape 1 (posterior): a polygon of 2 points; expected 3 or more; {fix}",
        f"error: person00.json: shape 2 (posterior): shape_type 'polygn' is not a valid option; did you mean polygon?; {fix}",
        f"error: person00.json: shape 3 (posterior): a polygon that lies outside the image of 192 x 208; {fix}",
        f"error: person00.json: shape 4 (posterior): a polygon that reaches 9.0 pixels beyond the image of 192 x 208; {fix}",
    ]
    assert len(cases) == IMAGES - 1


def test_a_slip_over_the_edge_is_clipped_with_one_warning(root: Path) -> None:
    for name in ("person00", "person01"):
        change(root / f"{name}.json", shapes=[box("posterior", -1.5, 0, 9, 9)])
    cases, problems = listed(root)
    assert problems == [
        "warning: person00.json: shape 1 (posterior): a rectangle that reaches 1.5 pixels beyond the image of 192 x 208: "
        "it is clipped (the same in 1 more); "
    ]
    assert cases[0].masks["posterior"].read().sum() == 100


def test_prompt_points_are_left_out_with_a_warning(root: Path) -> None:
    document = json.loads((root / "person00.json").read_text())
    change(root / "person00.json", shapes=[*document["shapes"], {"label": "clavicle", "points": [[1, 1]], "shape_type": "points"}])
    cases, problems = listed(root)
    assert problems == [
        "warning: person00.json: 1 shapes of type points are clicks for a model, not outlines: they are left out; "
        "draw outlines where some are missing"
    ]
    assert not cases[0].masks["clavicle"].read()[1, 1]


def test_the_real_size_counts_where_the_file_says_another(root: Path) -> None:
    change(root / "person00.json", imageHeight=512, imageWidth=512)
    cases, problems = listed(root)
    assert problems == [
        "warning: person00.json: says 512 x 512, but its image is 192 x 208: shapes are taken as drawn on the latter; "
        "make sure that it is the image which was annotated"
    ]
    assert cases[0].masks["clavicle"].read().shape == (192, 208)


def test_faults_of_files_are_reported_all_at_once(root: Path) -> None:
    whole = (root / "person00.json").read_text()
    (root / "person00.json").write_text(whole[:1000])
    (root / "person01.json").write_text("label,x,y\n1,2,3\n")
    change(root / "person02.json", imageData="&&&")
    (root / "images" / "person03.png").unlink()
    (root / "person04.json").write_text('{"version": "5.0.1"}')
    change(root / "person05.json", imageData="aGVsbG8gd29ybGQ=")
    (root / "person06 (copy).json").write_bytes((root / "person06.json").read_bytes())
    (root / "person07.json").write_text("")
    cases, problems = listed(root)
    replace = "replace the file, or move it away"
    assert sorted(problems) == sorted(
        [
            f"error: person00.json: is truncated ({_decoder_message(whole[:1000])}, line 1); {replace}",
            f"error: person01.json: is not JSON (Expecting value, line 1); {replace}",
            f"error: person02.json: imageData is not base64 (Only base64 data is allowed); {replace}",
            f"error: person03.json: names images/person03.png, which is missing; put it into {root}, or fix the name",
            f"error: person04.json: is not a LabelMe file: it has no list of shapes; {replace}",
            f"error: person05.json: imageData holds no image; {replace}",
            "error: person06.json: annotates person06.png, as person06 (copy).json does; join their shapes in one file",
            f"error: person07.json: zero bytes; {replace}",
        ]
    )
    assert [case.id for case in cases] == ["person06 (copy)", "person06", "person08"]


def _decoder_message(text: str) -> str:
    with pytest.raises(json.JSONDecodeError) as refusal:
        json.loads(text)
    return refusal.value.msg


def test_shapes_lie_on_a_photograph_as_exif_shows_it(root: Path) -> None:
    """LabelMe shows it turned, and writes the size that it shows."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(root / "images" / "person00.png")
    image.save(root / "images" / "person00.jpg", exif=exif)
    change(root / "person00.json", imagePath="images/person00.jpg", imageHeight=image.width, imageWidth=image.height)
    cases, problems = listed(root)
    assert not problems
    assert cases[0].image.read().shape[:2] == (image.width, image.height)


def test_an_empty_folder_says_what_to_type(tmp_path: Path) -> None:
    assert listed(tmp_path)[1] == [
        f"error: {tmp_path}: holds no LabelMe files (*.json); data.source.annotations=FOLDER  or  data.root=FOLDER"
    ]


def test_the_real_sample_and_its_benchmark_read_without_problems(real_data: Path) -> None:
    cases, problems = listed(real_data / "chest_xray", annotations="labelme", benchmark="benchmark")
    assert problems == []
    assert ([case.split for case in cases].count(""), [case.split for case in cases].count("test")) == (40, 10)
    for case in (cases[0], cases[-1]):
        shape = case.image.read().shape[:2]
        assert all(mask.read().shape == shape and mask.read().any() for mask in case.masks.values())
