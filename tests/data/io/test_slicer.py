"""Segmentations of 3D Slicer: cropped, turned, in layers; each segment is a plane on the grid of its image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest

from segkit.data.case import Case
from segkit.data.sources.csv import Csv
from segkit.data.sources.folder import Folder
from tests.conftest import Cli

SHAPE = (5, 12, 10)
"""Slices, rows, columns of the image."""
LIVER, TUMOR = np.zeros((2, *SHAPE), bool)
LIVER[1:4, 3:9, 2:8] = TUMOR[2:3, 4:6, 3:6] = True
BOX = (slice(1, 4), slice(3, 9), slice(2, 8))


def write_image(path: Path, slice_mm: float = 2.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1.0, slice_mm, 1.0])
    affine[:3, 3] = (7, 8, 9)
    voxels = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)
    nib.Nifti1Image(voxels.transpose(2, 1, 0), affine).to_filename(path)


def write_segmentation(path: Path, layers: Sequence[np.ndarray], segments: Sequence[tuple[str, int, int]], begin=(1, 3, 2)) -> None:
    """As Slicer does: the box that holds something, a layer being the fastest axis; names, layers and values as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stacked = np.stack(layers, axis=-1) if len(layers) > 1 else layers[0]
    z, y, x = begin
    listed = len(layers) > 1
    lines = [
        *("NRRD0004", "# Complete NRRD file format specification at:", "type: unsigned char", f"dimension: {3 + listed}"),
        *("space: left-posterior-superior", f"sizes: {' '.join(map(str, reversed(stacked.shape)))}" if not listed else ""),
        f"space directions: {'none ' * listed}(1,0,0) (0,1,0) (0,0,2)",
        *(f"kinds: {'list ' * listed}domain domain domain", "encoding: raw", f"space origin: ({x - 7},{y - 8},{9 + 2 * z})"),
    ]
    if listed:
        depth, rows, columns, n = stacked.shape
        lines[5] = f"sizes: {n} {columns} {rows} {depth}"
    for i, (name, layer, value) in enumerate(segments):
        lines += [
            f"Segment{i}_ID:=Segment_{i + 1}",
            f"Segment{i}_LabelValue:={value}",
            f"Segment{i}_Layer:={layer}",
            f"Segment{i}_Name:={name}",
        ]
    lines.append(f"Segmentation_ReferenceImageExtentOffset:={x} {y} {z}")
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + np.ascontiguousarray(stacked).tobytes())


def cases(root: Path) -> tuple[list[Case], list[str]]:
    source = Folder(root)
    found = list(source.cases())
    return found, [f"{problem.where}: {problem.what}" for problem in source.problems]


def test_overlapping_segments_in_layers_are_planes_under_their_names(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.nii.gz")
    layers = [LIVER[BOX].astype(np.uint8), TUMOR[BOX].astype(np.uint8) * 3]
    write_segmentation(tmp_path / "masks/a.seg.nrrd", layers, [("Liver", 0, 1), ("Tumor", 1, 3)])
    (case,), problems = cases(tmp_path)
    assert (problems, case.id, case.dims) == ([], "a", 3)
    assert np.array_equal(case.masks["Liver"].read(), LIVER)
    assert np.array_equal(case.masks["Tumor"].read(), TUMOR)


def test_one_layer_holds_several_values(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.nii.gz")
    both = (LIVER & ~TUMOR) * np.uint8(2) + TUMOR * np.uint8(5)
    write_segmentation(tmp_path / "masks/a.seg.nrrd", [both[BOX]], [("Liver", 0, 2), ("Tumor", 0, 5)])
    (case,), _ = cases(tmp_path)
    assert np.array_equal(case.masks["Liver"].read(), LIVER & ~TUMOR)
    assert np.array_equal(case.masks["Tumor"].read(), TUMOR)


def test_a_file_without_a_voxel_is_empty(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.nii.gz")
    write_segmentation(tmp_path / "masks/a.seg.nrrd", [np.zeros((1, 1, 1), np.uint8)], [("Liver", 0, 1)])
    (case,), _ = cases(tmp_path)
    assert case.masks["Liver"].read().shape == SHAPE
    assert not case.masks["Liver"].read().any()


def test_on_a_png_a_pixel_is_a_millimeter(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), np.arange(120, dtype=np.uint8).reshape(12, 10))
    write_segmentation(tmp_path / "masks/a.seg.nrrd", [np.ones((1, 2, 3), np.uint8)], [("Liver", 0, 1)])
    text = (tmp_path / "masks/a.seg.nrrd").read_bytes()
    (tmp_path / "masks/a.seg.nrrd").write_bytes(text.replace(b"space origin: (-5,-5,11)", b"space origin: (4,6,0)"))
    (case,), problems = cases(tmp_path)
    assert problems == []
    mask = case.masks["Liver"].read()
    assert mask.shape == (12, 10)
    assert np.argwhere(mask).tolist() == [[y, x] for y in (6, 7) for x in (4, 5, 6)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((b"(1,0,0)", b"(2,0,0)"), "does not lie on the voxels of its image"),
        ((b"Name:=Tumor", b"Name:=Liver"), "several segments called Liver"),
        ((b"Layer:=1", b"Layer:=7"), "names layer 7, but holds 2"),
        ((b"Layer:=1", b"Layer:=x"), "is no number"),
    ],
)
def test_what_cannot_be_is_said(change: tuple[bytes, bytes], said: str, tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.nii.gz")
    path = tmp_path / "masks/a.seg.nrrd"
    write_segmentation(path, [LIVER[BOX].astype(np.uint8), TUMOR[BOX].astype(np.uint8)], [("Liver", 0, 1), ("Tumor", 1, 1)])
    path.write_bytes(path.read_bytes().replace(*change))
    found, problems = cases(tmp_path)
    if found:
        with pytest.raises(Exception, match=said):
            found[0].masks["Tumor"].read()
    else:
        assert len(problems) == 1
        assert problems[0].startswith("masks/a.seg.nrrd: ")
        assert said in problems[0]


def test_a_box_beyond_the_image_is_an_error_only_where_it_holds_something(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.nii.gz")
    padded = np.zeros((7, 14, 12), np.uint8)
    padded[1:-1, 1:-1, 1:-1] = LIVER
    path = tmp_path / "masks/a.seg.nrrd"
    write_segmentation(path, [padded], [("Liver", 0, 1)], begin=(-1, -1, -1))
    (case,), _ = cases(tmp_path)
    assert np.array_equal(case.masks["Liver"].read(), LIVER)
    write_image(tmp_path / "other/images/a.nii.gz")
    write_segmentation(tmp_path / "other/masks/a.seg.nrrd", [1 - padded], [("Liver", 0, 1)], begin=(-1, -1, -1))
    (case,), _ = cases(tmp_path / "other")
    with pytest.raises(Exception, match=r"a\.seg\.nrrd: Liver reaches beyond its image"):
        case.masks["Liver"].read()


def test_a_table_may_name_them(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nii.gz")
    write_segmentation(tmp_path / "s.seg.nrrd", [LIVER[BOX].astype(np.uint8)], [("Liver", 0, 1)])
    (tmp_path / "cases.csv").write_text("image,mask\na.nii.gz,s.seg.nrrd\n")
    source = Csv(tmp_path)
    (case,) = source.cases()
    assert list(case.masks) == ["Liver"]


def test_the_audit_names_the_segments_as_classes(segkit_in: Cli, tmp_path: Path) -> None:
    for name in "abc":
        write_image(tmp_path / f"set/images/{name}.nii.gz", 2.0)
        path = tmp_path / f"set/masks/{name}.seg.nrrd"
        write_segmentation(path, [LIVER[BOX].astype(np.uint8), TUMOR[BOX].astype(np.uint8)], [("Liver", 0, 1), ("Tumor", 1, 1)])
    done = segkit_in("audit", "data=folder", "data.root=set", "data.dims=3")
    assert "Liver: 18.0% of the pixels, in 100% of the masks" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
