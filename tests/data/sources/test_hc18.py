"""The real sample of HC18 (123 images, CC BY 4.0), where it is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from segkit.config import schema
from segkit.data.audit.audit import Prepared, prepare


def read(root: Path, data: Callable[..., schema.Data], split: Callable[..., schema.Split], tmp_path: Path) -> Prepared:
    return prepare(data("hc18", root), split(val_fraction=0.2), 0, cache_dir=tmp_path)


def test_it_is_found_clean_and_split_by_exam(
    real_hc18: Path, data: Callable[..., schema.Data], split: Callable[..., schema.Split], tmp_path: Path
) -> None:
    prepared = read(real_hc18, data, split, tmp_path)
    manifest = prepared.manifest
    assert len(manifest) == 123
    assert len({case.group for case in manifest}) == 101
    assert manifest.by_id["032_2HC"].group == manifest.by_id["032_HC"].group == "032"
    assert all(case.spacing_mm and 0.05 < case.spacing_mm[0] < 0.33 for case in manifest)
    train, val = ({manifest.by_id[i].group for i in ids} for ids in (prepared.split.train, prepared.split.val))
    assert not train & val
    assert len(prepared.split.val) == 25
    assert [(note.severity, note.where) for note in prepared.notes] == [("warning", "image 392_2HC")]  # true: a twin, same exam


def test_filled_outlines_have_the_circumference_of_the_table(
    real_hc18: Path, data: Callable[..., schema.Data], split: Callable[..., schema.Split], tmp_path: Path
) -> None:
    off = []
    for case in read(real_hc18, data, split, tmp_path).manifest:
        contours, _ = cv2.findContours(case.masks[""].read(), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        assert len(contours) == 1
        _, axes, _ = cv2.fitEllipseDirect(contours[0])
        a, b = (axis / 2 * case.spacing_mm[0] for axis in axes)
        h = ((a - b) / (a + b)) ** 2
        circumference = np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))
        off.append(abs(circumference / float(case.facts["hc_mm"]) - 1))
    assert np.median(off) < 0.03
    assert max(off) < 0.10
