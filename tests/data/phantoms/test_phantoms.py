"""The synthetic data set: the same bytes every time, too hard for a threshold, written in every source's own layout."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.cli.phantom import command as phantom
from segkit.config import commands, schema
from segkit.data.audit.audit import inspect, prepare
from segkit.data.phantoms import base, ultrasound
from segkit.data.phantoms.base import Blob
from segkit.data.sources.csv import Csv
from segkit.data.sources.folder import Folder
from segkit.system.errors import SegkitError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_threshold_does_not_find_the_head() -> None:
    found = []
    for i in range(20):
        drawing = ultrasound.draw(0, i)
        level, _ = cv2.threshold(drawing.image, 0, 255, cv2.THRESH_OTSU)
        head = drawing.mask > 0
        found.append(max(dice(drawing.image > level, head), dice(drawing.image <= level, head)))
    assert np.mean(found) < 0.8
    assert max(found) < 0.9


def test_the_heads_are_whole_varied_and_of_plausible_size() -> None:
    drawings = [ultrasound.draw(1, i) for i in range(20)]
    for drawing in drawings:
        rows, columns = drawing.image.shape
        assert 192 <= rows <= 270
        assert 288 <= columns <= 401
        mask = drawing.mask > 0
        assert not np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any()
        assert 0.04 < mask.mean() < 0.5
        assert 50 < drawing.circumference_mm < 450
        assert drawing.image.dtype == np.uint8
        assert drawing.image.std() > 10
    assert len({drawing.image.shape for drawing in drawings}) > 10


def test_the_circumference_is_that_of_the_ellipse() -> None:
    head = Blob(0, 0, 60, 45)
    assert ultrasound.Drawing(np.zeros((2, 2), np.uint8), head, 1.0).circumference_mm == pytest.approx(331.55, abs=0.01)


@pytest.mark.parametrize("name", ["phantom", "folder", "csv", "hc18"])
def test_every_source_reads_what_it_writes(
    name: str, data: Callable[..., schema.Data], split: Callable[..., schema.Split], tmp_path: Path
) -> None:
    prepared = prepare(data(name, None, phantom_n=8), split(), 0, cache_dir=tmp_path)
    assert prepared.manifest.is_phantom
    assert len(prepared.manifest) == 8
    assert prepared.notes == ()
    assert prepared.manifest.labels.mode == "binary"
    shares = [
        f.class_pixels(prepared.manifest.labels)[prepared.manifest.labels.classes[0]] / (f.shape[0] * f.shape[1])
        for f in prepared.statistics.values()
    ]
    assert all(0.04 < share < 0.5 for share in shares)
    if name != "folder":
        assert len({case.group for case in prepared.manifest}) == 6


def test_a_folder_phantom_follows_the_names_of_its_config(
    data: Callable[..., schema.Data], split: Callable[..., schema.Split], tmp_path: Path
) -> None:
    source = {"images": "x", "masks": "x", "image_suffix": "_img", "mask_suffix": "_img_seg", "group": r"^(\d+)_"}
    prepared = prepare(data("folder", None, source), split(), 0, cache_dir=tmp_path)
    assert {path.name for path in prepared.manifest.cases[0].paths} == {"000_1_img.png", "000_1_img_seg.png"}


def test_filled_outlines_equal_the_filled_heads(
    data: Callable[..., schema.Data], split: Callable[..., schema.Split], tmp_path: Path
) -> None:
    result = inspect(data("hc18", None), split(), 0, (), tmp_path)
    for i, case in enumerate(result.manifest):
        assert "_" in case.id
        assert case.facts["hc_mm"] > 50  # type: ignore[operator]
        assert len(result.manifest) == 6, i
    first = result.manifest.cases[0]
    assert dice(first.masks[""].read() > 0, ultrasound.draw(0, 0).mask > 0) > 0.995


def test_the_phantom_is_written_once_and_announced(
    data: Callable[..., schema.Data], split: Callable[..., schema.Split], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepare(data("phantom", None), split(), 3, cache_dir=tmp_path)
    assert "SYNTHETIC DATA" in capsys.readouterr().out
    stamp = first.manifest.cases[0].paths[0].stat().st_mtime_ns
    again = prepare(data("phantom", None), split(), 3, cache_dir=tmp_path)
    assert again.manifest.cases[0].paths[0].stat().st_mtime_ns == stamp
    other = prepare(data("phantom", None), split(), 4, cache_dir=tmp_path)
    assert other.manifest.root != first.manifest.root
    assert other.manifest.hash != first.manifest.hash
    assert not list(tmp_path.glob(".*"))


def command(data: schema.Data, output: Path, n: int = 4, seed: int = 0) -> int:
    return phantom(commands.Phantom(output=str(output), n=n, seed=seed, allow_targets=[], data=data))


def test_the_command_writes_and_repeats_and_refuses(
    data: Callable[..., schema.Data], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    b.mkdir()
    assert command(data("hc18", None), a) == command(data("hc18", None), b) == 0
    assert f"segkit train data=hc18 data.root={a}" in capsys.readouterr().out
    assert contents(a) == contents(b)
    assert set(contents(a)) >= {"training_set/000_HC.png", "training_set/001_2HC_Annotation.png", "training_set_pixel_size_and_HC.csv"}
    assert command(data("hc18", None), a) == 0
    assert "already there" in capsys.readouterr().out
    for changed in (lambda: command(data("hc18", None), a, seed=1), lambda: command(data("csv", None), a)):
        with pytest.raises(SegkitError, match="not empty"):
            changed()
    assert contents(a) == contents(b)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_twenty_images_in_ten_seconds(data: Callable[..., schema.Data], tmp_path: Path) -> None:
    start = time.process_time()
    command(data("phantom", None), tmp_path / "out", n=20)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("source", [Folder(Path("x"), images="../../out"), Csv(Path("x"), table="/tmp/precious.csv")])
def test_a_phantom_is_never_written_beside_its_folder(source: Folder | Csv, tmp_path: Path) -> None:
    """The names may come from a stranger's checkpoint."""
    with pytest.raises(SegkitError, match="lies outside"):
        base.write(source, tmp_path / "phantom", 1, 0)
