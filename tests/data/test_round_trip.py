"""What a smaller grid keeps of masks: thin structures lose most, thick ones hardly anything."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.config.schema import Preprocess
from segkit.data.case import Case, Manifest
from segkit.data.io.images import ImageFile, MaskFile
from segkit.data.labels import LabelMap
from segkit.data.round_trip import MAX_CASES, RoundTrip, round_trip, thickness
from segkit.data.statistics import scan

LABELS = LabelMap.of({0: "background", 1: "vessel", 2: "disc", 255: "ignore"})


def drawn(root: Path, n: int = 3, ignored: bool = False) -> Manifest:
    """A sine of three pixels and a disc on 240 x 300."""
    cases = []
    for i in range(n):
        mask = np.zeros((240, 300), np.uint8)
        x = np.arange(300)
        line = np.stack([x, 60 + i + 25 * np.sin(x / 11 + i)], axis=-1).round().astype(np.int32)
        cv2.polylines(mask, [line], False, 1, 3)
        cv2.circle(mask, (150, 170), 50, 2, cv2.FILLED)
        if ignored:
            mask[:120] = 255
        image, file = root / f"{i}.png", root / f"{i}_mask.png"
        cv2.imwrite(str(image), mask)
        cv2.imwrite(str(file), mask)
        cases.append(Case(str(i), ImageFile(image), MaskFile(file)))
    return Manifest("drawn", root, tuple(cases), LABELS)


def trip(manifest: Manifest, **keys: object) -> RoundTrip:
    return round_trip(manifest, scan(manifest.cases), Preprocess(**keys))  # type: ignore[arg-type]


def test_a_grid_of_the_same_size_keeps_everything(tmp_path: Path) -> None:
    found = trip(drawn(tmp_path), size=(240, 300))
    assert (found.n, found.dice) == (3, {"vessel": 1.0, "disc": 1.0})


@pytest.mark.parametrize("keys", [{"size": (80, 100)}, {"size": (100, 100), "fit": "pad"}])
def test_a_third_of_the_size_keeps_a_disc_but_no_vessel(keys: dict[str, object], tmp_path: Path) -> None:
    found = trip(drawn(tmp_path), **keys)
    assert found.dice["disc"] > 0.97
    assert found.dice["vessel"] < 0.92
    assert found.thickness_px["vessel"] < 2
    assert found.thickness_px["disc"] == pytest.approx(33, abs=2)


def test_ignored_pixels_and_absent_classes_do_not_count(tmp_path: Path) -> None:
    assert set(trip(drawn(tmp_path, ignored=True), size=(80, 100)).dice) == {"disc"}


def test_of_many_cases_a_sample_is_read(tmp_path: Path) -> None:
    manifest = drawn(tmp_path, 1)
    many = Manifest("many", tmp_path, tuple(Case(str(i), manifest.cases[0].image, manifest.cases[0].mask) for i in range(200)), LABELS)
    assert 0 < trip(many, size=(80, 100)).n <= MAX_CASES


@pytest.mark.parametrize("width", [1, 3, 9, 15])
def test_the_thickness_of_a_line_is_its_width(width: int) -> None:
    plane = np.zeros((60, 80), bool)
    plane[20 : 20 + width, 5:75] = True
    assert thickness(plane) == width
