"""NIfTI in, NIfTI out: nibabel finds the mask voxel by voxel where the image is, however its axes lie in the patient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import segkit
from segkit.data.labels import LabelMap
from segkit.inference.batch import SIZES, OutputOptions, predict_items
from segkit.inference.inputs import of_files
from segkit.inference.predictor import Prediction, Predictor, as_case
from segkit.inference.writers.masks import SIZE_HEADER
from segkit.inference.writers.tables import read_rows
from segkit.system.hardware import Hardware

TILTED = np.eye(4)
TILTED[:3] = np.column_stack([Rotation.from_euler("xyz", [5, -8, 12], degrees=True).as_matrix() * (0.7, 0.8, 2.5), (-12.0, 30.0, 7.0)])
"""Oblique, voxels of unequal sides: RAS, and then other orders and directions of the same axes."""
AXES = {"RAS": np.eye(3), "LPI": -np.eye(3), "PIR": np.eye(3)[[2, 0, 1]], "ASL": np.diag([-1, 1, 1])[[1, 2, 0]]}
LABELS = LabelMap.of({0: "background", 7: "bright", 3: "brighter"})


class Grades(Predictor):
    """A network that tells 1 from 2 in the image."""

    def __init__(self, base: Predictor, dims: Any) -> None:
        self.labels, self.metadata, self.config = LABELS, replace(base.metadata, dims=dims, labels=LABELS.as_dict()), base.config
        self.hardware = Hardware.choose("cpu", "32", "auto")

    def predict_all(self, images: Iterable[Any]) -> Iterator[Prediction]:
        for image in images:
            pixels = as_case(image).image.read()
            mask = pixels[..., 0].astype(np.uint8)
            yield Prediction(mask, np.stack([mask == k for k in range(3)]).astype(np.float32), pixels)


@pytest.mark.parametrize(("axes", "dims"), [("RAS", 2), ("LPI", 3), ("PIR", 2), ("PIR", 3), ("ASL", 2)])
def test_a_mask_lies_where_its_image_lies(axes: str, dims: int, trained: Path, tmp_path: Path) -> None:
    affine = TILTED.copy()
    affine[:3, :3] = TILTED[:3, :3] @ AXES[axes]
    grades = np.random.default_rng(0).integers(0, 3, (6, 9, 11)).astype(np.int16)
    image = nib.Nifti1Image(grades, affine)
    image.set_qform(affine, 1)
    (tmp_path / "scans").mkdir()
    nib.save(image, tmp_path / "scans/a.nii.gz")
    items, options = of_files(str(tmp_path / "scans"), tmp_path / "out"), OutputOptions(probabilities=True)
    done = predict_items(Grades(segkit.load(trained, "cpu"), dims), items, tmp_path / "out", options)
    assert (done.written, done.problems) == (1, ())
    mask: Any = nib.load(tmp_path / "out/a.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.choose(grades, [0, 7, 3]))
    np.testing.assert_allclose(mask.affine, affine, atol=1e-5)
    probs = np.load(tmp_path / "out/a_probabilities.npz")["probs"]  # as SimpleITK and nnU-Net: slices, rows, columns of the file
    np.testing.assert_array_equal(probs.argmax(axis=0).transpose(2, 1, 0), grades)
    assert (int(mask.header["qform_code"]), mask.header.get_xyzt_units()[0]) == (1, image.header.get_xyzt_units()[0])
    assert mask.get_data_dtype() == np.uint8
    voxel = abs(np.linalg.det(affine[:3, :3]))
    (rows,) = read_rows(tmp_path / "out" / SIZES, SIZE_HEADER).values()
    for value, name, (_, class_name, n_px, _, volume_mm3) in zip((1, 2), ("bright", "brighter"), rows, strict=True):
        assert class_name == name
        assert int(n_px) == (grades == value).sum()
        assert float(volume_mm3) == pytest.approx((grades == value).sum() * voxel, rel=1e-4)
