"""Files become cases: paired by exact name, in natural order, and whatever does not fit is told with what to type."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest
import tifffile

from segkit.config import schema
from segkit.config.compose import compose
from segkit.config.groups import CONF
from segkit.data.case import Case
from segkit.data.io.base import ReadError
from segkit.data.manifest import find
from segkit.data.sources.csv import Csv
from segkit.data.sources.folder import Folder
from segkit.data.sources.hc18 import HC18, FilledOutline, coarse
from segkit.system.errors import Problem
from segkit.system.files import natural

DOT = np.zeros((4, 5), np.uint8)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), DOT)
    return root


def listed(source: Folder | Csv | HC18) -> tuple[list[Case], list[Problem]]:
    cases = list(source.cases())
    return cases, source.problems


def files(case: Case) -> list[str]:
    return [path.name for path in case.paths]


# folder


def test_two_folders_pair_by_name_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{i}.png" for i in (10, 1, 2)), *(f"masks/{i}.png" for i in (2, 10, 1)))
    cases, problems = listed(Folder(tmp_path))
    assert [case.id for case in cases] == ["1", "2", "10"]
    assert [files(case) for case in cases] == [["1.png", "1.png"], ["2.png", "2.png"], ["10.png", "10.png"]]
    assert problems == []


def test_numbers_sort_as_numbers() -> None:
    names = ["a10", "a9", "b1", "a1b20", "a1b3", "1", "01", "ä2"]
    assert sorted(names, key=natural) == ["01", "1", "a1b3", "a1b20", "a9", "a10", "b1", "ä2"]


def test_one_folder_with_a_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a_1.png", "a_1_mask.png", "a_10.tif", "a_10_mask.png", "notes.txt.png", "notes.txt_mask.png")
    cases, problems = listed(Folder(tmp_path, images=".", masks=".", mask_suffix="_mask"))
    assert [files(case) for case in cases] == [
        ["a_1.png", "a_1_mask.png"],
        ["a_10.tif", "a_10_mask.png"],
        ["notes.txt.png", "notes.txt_mask.png"],
    ]
    assert problems == []


def test_suffixes_on_both_sides(tmp_path: Path) -> None:
    touch(tmp_path, "x/1_img.png", "x/1_seg.png", "x/2_img.png", "x/2_seg.png", "x/1_depth.png")
    cases, problems = listed(Folder(tmp_path, images="x", masks="x", image_suffix="_img", mask_suffix="_seg"))
    assert [files(case) for case in cases] == [["1_img.png", "1_seg.png"], ["2_img.png", "2_seg.png"]]
    assert [(p.severity, p.what) for p in problems] == [("warning", "1 images do not end in '_img' and are left out, e.g. 1_depth.png")]


def test_subfolders_are_part_of_the_key(tmp_path: Path) -> None:
    touch(tmp_path, "images/p1/1.png", "images/p2/1.png", "masks/p2/1.png", "masks/p1/1.png")
    cases, problems = listed(Folder(tmp_path, group=r"^(p\d+)/"))
    assert [(case.id, case.group) for case in cases] == [("p1/1", "p1"), ("p2/1", "p2")]
    assert all(case.image.paths[0].parent.name == case.masks[""].paths[0].parent.name for case in cases)
    assert problems == []


def test_masks_inside_the_images_folder_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png", "masks/1.png", "masks/2.png")
    cases, problems = listed(Folder(tmp_path, images="."))
    assert [case.id for case in cases] == ["1", "2"]
    assert problems == []


def test_other_formats_hidden_files_and_other_files(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/._a.jpg", "masks/a.bmp", "images/.cache/b.png")
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"x")
    cases, problems = listed(Folder(tmp_path))
    assert [files(case) for case in cases] == [["a.jpg", "a.bmp"]]
    assert problems == []


def test_names_composed_differently_are_the_same_name(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "images/Gro\u0308\u00dfe \u80ce\u513f.png",
        "masks/Gr\u00f6\u00dfe \u80ce\u513f.png",
        "images/%s.png" % ("x" * 200),
        "masks/%s.png" % ("x" * 200),
    )
    cases, problems = listed(Folder(tmp_path))
    assert len(cases) == 2
    assert problems == []


def test_orphans_on_both_sides_and_ambiguous_names_are_all_reported(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.png", "masks/1.png", "images/2.png", "masks/3.png")
    touch(tmp_path, "images/4.png", "images/4.jpg", "masks/4.png", "images/5.png", "masks/5.png", "masks/5.tif")
    cases, problems = listed(Folder(tmp_path))
    assert [case.id for case in cases] == ["1"]
    assert {(p.where, p.what) for p in problems} == {
        ("images/2.png", "has no mask masks/2.*"),
        ("masks/3.png", "has no image images/3.*"),
        ("images/4.jpg", "ambiguous: 4.jpg and 4.png could be the image of 4"),
        ("masks/5.png", "ambiguous: 5.png and 5.tif could be the mask of 5"),
    }
    assert all(p.severity == "error" and p.fix for p in problems)


def test_a_suffix_on_one_side(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{i}.png" for i in range(5)), *(f"masks/{i}_mask.png" for i in range(5)))
    cases, problems = listed(Folder(tmp_path))
    assert len(cases) == 5
    assert [p.severity for p in problems] == ["note"]
    cases, problems = listed(Folder(tmp_path, mask_suffix="_mask"))
    assert len(cases) == 5
    assert problems == []


@pytest.mark.parametrize(
    "made",
    [["imgs/1.png", "masks/1.png"], ["images/1.png", "labels/1.png"], ["train/image/1.png", "train/label/1.png"]],
)
def test_folders_of_other_names_are_found_or_reported_with_those_that_exist(made: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *made)
    cases, problems = listed(Folder(tmp_path))
    assert [files(case) for case in cases] == [["1.png", "1.png"]]
    assert [p.severity for p in problems] == ["note"]
    touch(tmp_path, "other/x.png")
    cases, problems = listed(Folder(tmp_path))
    assert cases == []
    assert "other" in problems[0].what
    assert all(f"{Path(name).parent.name}/(?P<id>" in problems[0].fix for name in made)


def test_a_root_one_folder_too_high_is_reported(tmp_path: Path) -> None:
    touch(tmp_path, "data/images/1.png", "data/masks/1.png")
    _, problems = listed(Folder(tmp_path))
    assert [p.fix for p in problems] == [f"data.root={tmp_path / 'data'}"]


@pytest.mark.parametrize("layout", sorted(path.stem for path in (CONF / "data").glob("[!_]*.yaml")))
def test_a_missing_root_is_one_problem_of_every_layout(layout: str, tmp_path: Path) -> None:
    (tmp_path / "heads").mkdir()
    cfg = compose("train", [f"data={layout}", f"data.root={tmp_path / 'haeds'}"])
    assert isinstance(cfg, schema.Train)
    (problem,) = find(cfg.data, 0, (), tmp_path).problems
    assert (problem.where, problem.what, problem.fix) == (str(tmp_path / "haeds"), "no such folder", f"data.root={tmp_path / 'heads'}")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "images").mkdir()
    (tmp_path / "heads" / "masks").mkdir()
    _, problems = listed(Folder(tmp_path / "heads"))
    assert [p.where for p in problems] == [str(tmp_path / "heads" / "images"), str(tmp_path / "heads" / "masks")]
    assert "holds no images (PNG" in problems[0].what


def test_images_without_masks_can_be_had(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.png")
    cases, problems = listed(Folder(tmp_path, masks=None))
    assert [(case.id, case.masks) for case in cases] == [("1", {})]
    assert problems == []


def test_a_group_rule_must_fit_every_case(tmp_path: Path) -> None:
    touch(tmp_path, "images/7_a.png", "masks/7_a.png", "images/x.png", "masks/x.png")
    cases, problems = listed(Folder(tmp_path, group=r"^(\d+)_"))
    assert [case.group for case in cases] == ["7", ""]
    assert "does not match 'x'" in problems[0].what
    _, problems = listed(Folder(tmp_path, group="("))
    assert "not a regular expression" in problems[0].what


# volumes, in folders and tables

SCAN = np.random.default_rng(0).integers(0, 200, (9, 7, 5)).astype(np.uint8)
AFFINE = np.diag([-1.0, -2.0, 3.0, 1.0])


def volume(path: Path, array: np.ndarray = SCAN, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def test_volumes_pair_by_name_and_bring_their_spacing(tmp_path: Path) -> None:
    for name in ("p1/scan 胎.v2", "p2/%s" % ("x" * 200)):
        volume(tmp_path / "images" / f"{name}.nii.gz")
        volume(tmp_path / "masks" / f"{name}.nii", SCAN % 3)
    cases, problems = listed(Folder(tmp_path, group="^(p.)/"))
    assert problems == []
    assert [(case.id, case.group) for case in cases] == [("p1/scan 胎.v2", "p1"), ("p2/%s" % ("x" * 200), "p2")]
    for case in cases:
        assert (case.dims, case.spacing_mm) == (3, (3, 2, 1))
        assert np.array_equal(case.image.read()[..., 0], SCAN.T)
        assert np.array_equal(case.masks[""].read(), SCAN.T % 3)


def test_volumes_beside_masks_with_a_suffix(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii.gz")
    volume(tmp_path / "a_seg.nii.gz", SCAN % 2)
    cases, problems = listed(Folder(tmp_path, images=".", masks=".", mask_suffix="_seg"))
    assert [(case.id, files(case)) for case in cases] == [("a", ["a.nii.gz", "a_seg.nii.gz"])]
    assert problems == []


def test_pages_of_a_tiff_and_numpy_arrays_are_volumes_too(tmp_path: Path) -> None:
    touch(tmp_path, "images/flat.png", "masks/flat.png")
    for folder, values in (("images", SCAN), ("masks", SCAN % 2)):
        np.save(tmp_path / folder / "array.npy", values)
        tifffile.imwrite(tmp_path / folder / "pages.tif", values, photometric="minisblack")
    cases, problems = listed(Folder(tmp_path))
    assert problems == []
    assert [(case.id, case.dims, case.spacing_mm) for case in cases] == [("array", 3, ()), ("flat", 2, ()), ("pages", 3, ())]
    assert all(case.masks[""].read().shape == case.image.read().shape[:-1] for case in cases)


def test_a_single_slice_in_a_volume_format_is_an_image(tmp_path: Path) -> None:
    volume(tmp_path / "images" / "a.nii.gz", SCAN[..., :1])
    volume(tmp_path / "masks" / "a.nii.gz", SCAN[..., :1] % 2)
    volume(tmp_path / "images" / "b.nii.gz", SCAN[..., 0])
    cv2.imwrite(str(tmp_path / "masks" / "b.png"), SCAN[..., 0].T)
    cases, problems = listed(Folder(tmp_path))
    assert problems == []
    assert [(case.dims, case.spacing_mm) for case in cases] == [(2, (2, 1)), (2, (2, 1))]
    for case in cases:
        assert np.array_equal(case.image.read()[..., 0], SCAN[..., 0].T)
        assert case.masks[""].read().shape == (7, 9)


def test_a_mask_on_another_grid_than_its_image_is_reported(tmp_path: Path) -> None:
    for name in "abcdef":
        volume(tmp_path / "images" / f"{name}.nii.gz")
    moved = AFFINE.copy()
    moved[2, 3] = 3
    volume(tmp_path / "masks" / "a.nii.gz", SCAN % 2, moved)
    volume(tmp_path / "masks" / "b.nii.gz", SCAN[..., 1:] % 2)
    volume(tmp_path / "masks" / "c.nii.gz", SCAN % 2, np.diag([-1.0, -1.0, 1.0, 1.0]))
    touch(tmp_path, "masks/d.png")
    (tmp_path / "masks" / "e.nii.gz").write_bytes(b"")
    volume(tmp_path / "masks" / "f.nii.gz", SCAN[::-1] % 2, np.array([[1.0, 0, 0, -8], [0, -2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]))
    cases, problems = listed(Folder(tmp_path))
    assert [case.id for case in cases] == ["f"]  # stored the other way round, in the same place
    assert np.array_equal(cases[0].masks[""].read(), SCAN.T % 2)
    assert {(p.where, p.what) for p in problems} == {
        ("masks/a.nii.gz", "another affine: origin 3 mm apart"),
        ("masks/b.nii.gz", "4 x 7 x 9, the image 5 x 7 x 9"),
        ("masks/c.nii.gz", "spacing 1 x 1 x 1 mm, the image 3 x 2 x 1 mm"),
        ("masks/d.png", "is one image, its image d.nii.gz is not"),
        ("masks/e.nii.gz", "zero bytes"),
    }
    assert all(p.severity == "error" and p.fix for p in problems)
    assert "data.source.orient=null" in problems[0].fix
    cases, _ = listed(Folder(tmp_path, orient=None))
    assert [case.id for case in cases] == ["a", "c", "f"]


def test_a_volume_as_the_mask_of_an_image_is_reported(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png")
    volume(tmp_path / "masks" / "a.nii.gz")
    _, problems = listed(Folder(tmp_path))
    assert [(p.where, p.what) for p in problems] == [("masks/a.nii.gz", "is a volume, its image a.png is not")]


def test_volumes_in_a_table(tmp_path: Path) -> None:
    volume(tmp_path / "scan.nii.gz")
    for name in ("liver", "tumour"):
        volume(tmp_path / f"{name}.nii.gz", SCAN % 2)
    rows = ["image,mask_liver,mask_tumour,spacing", "scan.nii.gz,liver.nii.gz,tumour.nii.gz,"]
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    (case,), problems = listed(Csv(tmp_path))
    assert problems == []
    assert (case.id, case.dims, case.spacing_mm, list(case.masks)) == ("scan", 3, (3, 2, 1), ["liver", "tumour"])
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "2.5 0.7 0.8")
    (case,), _ = listed(Csv(tmp_path))
    assert case.spacing_mm == (2.5, 0.7, 0.8)


def test_faulty_volumes_in_a_table_are_reported_with_their_line(tmp_path: Path) -> None:
    touch(tmp_path, "flat.png")
    volume(tmp_path / "scan.nii.gz")
    volume(tmp_path / "short.nii.gz", SCAN[..., 1:])
    (tmp_path / "bad.nii.gz").write_bytes(b"<html>")
    (tmp_path / "cases.csv").write_text("image,mask,spacing\nscan.nii.gz,short.nii.gz,\nbad.nii.gz,,\nflat.png,flat.png,3 1 1\n")
    cases, problems = listed(Csv(tmp_path))
    assert cases == []
    assert [p.where for p in problems] == [f"cases.csv line {i}" for i in (2, 3, 4)]
    assert [p.what for p in problems[:1]] == ["short.nii.gz: 4 x 7 x 9, the image 5 x 7 x 9"]
    assert "bad.nii.gz: not gzipped in spite of its name" in problems[1].what
    assert "three numbers" in problems[2].what


def test_forty_real_hippocampi_as_a_folder(real_data: Path) -> None:
    cases, problems = listed(Folder(real_data / "hippocampus", images="imagesTr", masks="labelsTr"))
    assert problems == []
    assert (len(cases), {case.dims for case in cases}, {case.spacing_mm for case in cases}) == (40, {3}, {(1.0, 1.0, 1.0)})
    assert cases[0].id == "hippocampus_001"


# csv


@pytest.mark.parametrize("way", ["../out.png", "link.png", "inside/a.png", "{absolute}"])
def test_paths_and_links_that_lead_out_of_the_root_are_refused(way: str, tmp_path: Path) -> None:
    touch(tmp_path, "out.png", "elsewhere/a.png", "root/m.png")
    root = tmp_path / "root"
    (root / "link.png").symlink_to(tmp_path / "out.png")
    (root / "inside").symlink_to(tmp_path / "elsewhere")
    name = way.format(absolute=tmp_path / "out.png")
    (root / "cases.csv").write_text(f"image,mask\n{name},m.png\n")
    cases, problems = listed(Csv(root))
    assert cases == []
    assert problems[0].where == "cases.csv line 2"
    assert f"names {name}, which leads out of data.root to {tmp_path}" in problems[0].what


def test_links_within_the_root_and_a_root_that_is_a_link_are_fine(tmp_path: Path) -> None:
    touch(tmp_path, "root/a.png")
    (tmp_path / "root" / "b.png").symlink_to("a.png")
    (tmp_path / "root" / "cases.csv").write_text(f"image,mask\nb.png,{tmp_path / 'linked' / 'a.png'}\n")
    (tmp_path / "linked").symlink_to(tmp_path / "root")
    cases, problems = listed(Csv(tmp_path / "linked"))
    assert [case.id for case in cases] == ["b"]
    assert problems == []


def table(root: Path, text: str | bytes) -> Csv:
    touch(root, *(f"i/{i}.png" for i in range(4)), *(f"m/{i}.png" for i in range(4)))
    (root / "cases.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Csv(root)


GOOD = "id,image,mask,group,split,fold,spacing\n"
GOOD += "a,i/1.png,m/1.png,p1,train,0,0.2\nb,i/2.png,m/2.png,p2,validation,1,0.2 0.3\nc,i/3.png,,p2,,,\n"


def test_every_column_of_a_table(tmp_path: Path) -> None:
    cases, problems = listed(table(tmp_path, GOOD))
    assert problems == []
    a, b, c = cases
    assert (a.id, a.group, a.split, a.spacing_mm, a.facts) == ("a", "p1", "train", (0.2, 0.2), {"fold": "0"})
    assert (b.split, b.spacing_mm, files(b)) == ("val", (0.2, 0.3), ["2.png", "2.png"])
    assert (c.masks, c.split, c.spacing_mm, c.facts) == ({}, "", (), {})


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD.replace(",", ";"),
        GOOD.replace(",", ";").replace("0.2", "0,2").replace("0.3", "0,3"),
        GOOD.replace(",", "\t"),
        GOOD.encode("utf-16"),
        GOOD.replace("id,image", "ID, Image "),
        GOOD + "\n,,,,,,\n",
        GOOD.replace("i/", "i\\"),
    ],
    ids=["crlf", "bom", "semicolon", "decimal comma", "tab", "utf-16", "header case", "blank lines", "backslashes"],
)
def test_tables_as_spreadsheets_write_them(text: str | bytes, tmp_path: Path) -> None:
    cases, problems = listed(table(tmp_path, text))
    assert problems == []
    assert [(case.id, case.split, case.spacing_mm) for case in cases] == [
        ("a", "train", (0.2, 0.2)),
        ("b", "val", (0.2, 0.3)),
        ("c", "", ()),
    ]


def test_one_plane_for_each_structure(tmp_path: Path) -> None:
    cases, problems = listed(table(tmp_path, "image,mask_lung,mask_heart\ni/1.png,m/1.png,m/2.png\ni/2.png,m/3.png,\n"))
    assert problems == []
    assert [list(case.masks) for case in cases] == [["lung", "heart"], ["lung"]]
    assert cases[0].id == "i/1"


def test_every_fault_of_a_table_is_reported_with_its_line(tmp_path: Path) -> None:
    rows = ["id,image,mask,split,spacing", "a,i/1.png,m/1.png,,", "a,i/2.png,m/2.png,,", "b,i/9.png,m/1.png,,"]
    rows += ["c,,m/1.png,,", "d,i/3.png,m/3.png,dev,", "e,i/0.png,m/0.png,,wide"]
    cases, problems = listed(table(tmp_path, "\n".join(rows)))
    assert [case.id for case in cases] == ["a"]
    assert [p.where for p in problems] == [f"cases.csv line {i}" for i in (3, 4, 5, 6, 7)]
    for problem, word in zip(problems, ["'a' is that of line 2", "i/9.png", "names no image", "'dev'", "'wide'"], strict=True):
        assert word in problem.what
        assert problem.fix


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("img,mask\ni/1.png,m/1.png\n", "no column 'image'"),
        ("image,mask,mask_lung\ni/1.png,m/1.png,m/1.png\n", "mask_lung"),
        ("image,mask,mask\ni/1.png,m/1.png,m/1.png\n", "has a column mask and also mask"),
        ("image,mask\n", "no case follows"),
        ("", "empty"),
    ],
)
def test_a_table_whose_header_is_wrong(text: str, said: str, tmp_path: Path) -> None:
    cases, problems = listed(table(tmp_path, text))
    assert cases == []
    assert said in " ".join(p.what for p in problems)


def test_a_column_that_is_nearly_a_known_one_is_a_warning(tmp_path: Path) -> None:
    _, problems = listed(table(tmp_path, "image,mask,groups,sex\ni/1.png,m/1.png,p,30\n"))
    assert [(p.severity, p.fix) for p in problems] == [("warning", "did you mean group?"), ("note", "")]


def test_a_missing_table(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("x")
    _, problems = listed(Csv(tmp_path))
    assert problems[0].fix == "data.source.table=list.csv"


# hc18


def outline(path: Path, *, arc: int = 360, centre: tuple[int, int] = (100, 70), thickness: int = 2) -> Path:
    canvas = np.zeros((140, 200), np.uint8)
    cv2.ellipse(canvas, centre, (60, 45), 20, 0, arc, 255, thickness)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), canvas)
    return path


def filled(centre: tuple[int, int] = (100, 70)) -> np.ndarray:
    return cv2.ellipse(np.zeros((140, 200), np.uint8), centre, (60, 45), 20, 0, 360, 255, cv2.FILLED) > 0


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize(
    "case", [{}, {"arc": 300}, {"centre": (40, 70)}, {"arc": 330, "centre": (40, 70)}], ids=["closed", "open", "cut", "open and cut"]
)
def test_an_outline_is_filled_also_where_it_is_open_or_cut_by_the_border(case: dict, tmp_path: Path) -> None:
    mask = FilledOutline(outline(tmp_path / "a.png", **case)).read()
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}
    assert dice(mask > 0, filled(case.get("centre", (100, 70)))) > 0.96


def test_what_is_no_outline_is_an_error(tmp_path: Path) -> None:
    for name, thickness, arc in (("empty", 2, 0), ("filled", cv2.FILLED, 360)):
        path = outline(tmp_path / f"{name}.png", arc=arc, thickness=thickness)
        if name == "empty":
            cv2.imwrite(str(path), np.zeros((9, 9), np.uint8))
        with pytest.raises(ReadError, match="holds no outline"):
            FilledOutline(path).read()


def hc18(root: Path, header: str = "filename,pixel size(mm),head circumference (mm)") -> Path:
    for stem in ("000_HC", "001_HC", "001_2HC", "010_HC"):
        touch(root, f"training_set/{stem}.png")
        outline(root / "training_set" / f"{stem}_Annotation.png")
    rows = [f"{stem}.png,0.0{i + 1},{100 + i}" for i, stem in enumerate(("000_HC", "001_HC", "001_2HC", "010_HC"))]
    (root / "training_set_pixel_size_and_HC.csv").write_bytes("\r\n".join([header, *rows]).encode())
    touch(root, "test_set/500_HC.png")
    return root


@pytest.mark.parametrize("header", ["filename,pixel size(mm),head circumference (mm)", "filename, pixel size (mm) ,head circumference(mm)"])
def test_hc18_as_it_is_downloaded(header: str, tmp_path: Path) -> None:
    cases, problems = listed(HC18(hc18(tmp_path, header)))
    assert problems == []
    assert {case.id: case.group for case in cases} == {"000_HC": "000", "001_HC": "001", "001_2HC": "001", "010_HC": "010"}
    by_id = {case.id: case for case in cases}
    assert by_id["001_2HC"].spacing_mm == (0.03, 0.03)
    assert by_id["001_2HC"].facts == {"hc_mm": 102.0}


def test_hc18_mirrors_that_nest_the_folder(tmp_path: Path) -> None:
    hc18(tmp_path / "flat")
    nested = tmp_path / "nested" / "training_set"
    nested.mkdir(parents=True)
    shutil.copytree(tmp_path / "flat" / "training_set", nested / "training_set")
    shutil.copy(tmp_path / "flat" / "training_set_pixel_size_and_HC.csv", tmp_path / "nested")
    for root in (tmp_path / "nested", tmp_path / "flat" / "training_set", nested):
        cases, problems = listed(HC18(root))
        assert len(cases) == 4
        assert all(case.spacing_mm for case in cases)
        assert problems == []


def test_hc18_faults(tmp_path: Path) -> None:
    hc18(tmp_path)
    folder = tmp_path / "training_set"
    touch(tmp_path, "training_set/020_HC.png", "training_set/030_HC_Annotation.png", "training_set/040_HC.png")
    outline(folder / "040_HC_Annotation.png")
    cases, problems = listed(HC18(tmp_path))
    assert len(cases) == 5
    assert {(p.severity, p.where) for p in problems} == {
        ("error", "training_set/020_HC.png"),
        ("error", "training_set/030_HC_Annotation.png"),
        ("warning", "training_set/040_HC.png"),
    }
    (tmp_path / "training_set_pixel_size_and_HC.csv").unlink()
    _, problems = listed(HC18(tmp_path))
    assert sum(p.severity == "warning" for p in problems) == 1
    _, problems = listed(HC18(tmp_path / "test_set"))
    assert "training_set/" in problems[0].what


@pytest.mark.parametrize(
    "content", ["filename,size\n000_HC.png,1\n", "filename,pixel size(mm),head circumference (mm)\n000_HC.png,wide,1\n", ""]
)
def test_an_hc18_table_that_cannot_be_understood(content: str, tmp_path: Path) -> None:
    hc18(tmp_path)
    (tmp_path / "training_set_pixel_size_and_HC.csv").write_text(content)
    cases, problems = listed(HC18(tmp_path))
    assert len(cases) == 4
    assert "cannot be understood" in problems[0].what


def test_coarse_masks_hold_every_cell_that_the_head_touches() -> None:
    """800 x 540 centred on 812 x 812, 68 cells a side of 11.94 pixels: a disc grows by about a cell all around."""
    rows, columns = np.mgrid[:540, :800]
    for radius in (60, 120, 200):
        disc = ((rows - 270) ** 2 + (columns - 400) ** 2 <= radius**2).astype(np.uint8)
        large = coarse(disc, 68)
        assert large.shape == disc.shape
        assert not (disc & ~large & 1).any()
        grown = math.sqrt(large.sum() / math.pi) - radius
        assert 0.5 * 812 / 68 < grown < 1.5 * 812 / 68
        cell = np.floor((np.arange(540) + 136) * 68 / 812).astype(int)
        assert all((large[cell == one] == large[cell == one][0]).all() for one in np.unique(cell))


# a layout of the user's own

PLAIN = """
from segkit.data.case import Case
from segkit.data.io.images import ImageFile, MaskFile

class Mine:
    def __init__(self, root):
        self.root, self.problems, self.default_labels = root, [], {0: "background", 255: "head"}

    def cases(self):
        yield Case("a", ImageFile(self.root / "a.png"), MaskFile(self.root / "a_mask.png"))
"""


def test_a_class_of_the_user_needs_no_base_class(data: Callable[..., schema.Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.png", "a_mask.png")
    (tmp_path / "plainlayout.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(tmp_path)
    config = data("folder", tmp_path, {"_target_": "plainlayout.Mine"})
    found = find(config, 0, ("plainlayout",), tmp_path / "cache")
    assert ([case.id for case in found.cases], found.problems, found.name) == (["a"], (), "mine")
    assert found.default_labels == {0: "background", 255: "head"}
