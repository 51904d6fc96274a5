"""Which images `segkit predict` takes, what their masks are called, and the table of their sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import segkit
from segkit.data.case import Case
from segkit.data.io.images import ImageFile
from segkit.data.io.volumes import VolumeFile
from segkit.data.phantoms.base import write_png
from segkit.data.slices import Channels, Volume
from segkit.inference.batch import SIZES, BatchResult, OutputOptions, predict_items
from segkit.inference.inputs import InputItem, find_images, name_masks, of_cases, of_files
from segkit.inference.predictor import Predictor
from segkit.inference.writers.masks import SIZE_HEADER
from segkit.inference.writers.tables import read_rows
from segkit.system.errors import SegkitError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_masks_of_an_earlier_run_are_no_input(tmp_path: Path) -> None:
    touch(tmp_path / "1.png", tmp_path / "10.png", tmp_path / "2.png", tmp_path / "masks/1.png")
    for source in (tmp_path, tmp_path / "**/*.png"):
        images, root = find_images(str(source), tmp_path / "masks")
        assert [path.name for path in images] == ["1.png", "2.png", "10.png"]
        assert root == tmp_path


def test_two_images_of_one_stem_keep_their_suffix(tmp_path: Path) -> None:
    images = [tmp_path / "a.png", tmp_path / "a.jpg", tmp_path / "b.png", tmp_path / "sub/c.nii.gz"]
    assert list(name_masks(images, tmp_path).values()) == ["a.png", "a.jpg", "b", "sub/c"]
    with pytest.raises(SegkitError, match="share a name"):
        name_masks([*images, tmp_path / "a.png.png"], tmp_path)


def test_a_mask_has_the_format_of_its_volume_and_is_a_png_otherwise(tmp_path: Path) -> None:
    assert InputItem("sub/a", tmp_path / "a.jpg").files(tmp_path) == [tmp_path / "sub/a.png"]
    assert InputItem("a", tmp_path / "a.nii.gz", like=tmp_path / "a.nii.gz").files(tmp_path) == [tmp_path / "a.nii.gz"]


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    with pytest.raises(SegkitError, match="choose another output"):
        of_files(str(tmp_path / "a.png"), tmp_path)


def test_slices_of_a_volume_file_become_one_mask_and_slices_with_files_of_their_own_one_each(tmp_path: Path) -> None:
    volume = VolumeFile(tmp_path / "scan.nii.gz")
    cut = [Case(f"scan_{z}", ImageFile(volume.path), volume="scan", position=z, whole=volume) for z in (1, 0)]
    own = [Case(f"day_{z}", ImageFile(tmp_path / f"{z}.png"), volume="day", position=z) for z in (0, 1)]
    jobs = of_cases([*cut, *own])
    assert [job.name for job in jobs] == ["day_0", "day_1", "scan"]
    assert [case.position for case in jobs[2].cases] == [0, 1]
    assert jobs[2].like == volume.path


def test_a_page_of_a_stack_becomes_a_picture_and_a_file_of_one_slice_its_like(tmp_path: Path) -> None:
    pages = tmp_path / "stack.tif"
    tifffile.imwrite(pages, np.zeros((3, 8, 9), np.uint8), photometric="minisblack")
    seen = [ImageFile(pages, page=z) for z in range(3)]
    alone = [Case(f"p{z}", seen[z], volume="stack", position=z, whole=Volume(tuple(seen))) for z in range(3)]
    between = Case("n", Channels((seen[0], seen[1], seen[2])), volume="stack", position=1, whole=Volume(tuple(seen)))
    assert [job.files(tmp_path)[0].name for job in of_cases([*alone, between])] == ["n.png", "p0.png", "p1.png", "p2.png"]
    plane = tmp_path / "plane.nii.gz"
    assert of_cases([Case("a", ImageFile(plane))])[0].like == plane


def test_an_input_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match="no such file, folder or match"):
        find_images(str(tmp_path / "nothing"), tmp_path / "out")
    with pytest.raises(SegkitError, match="holds no image"):
        find_images(str(tmp_path), tmp_path / "out")


def predicted(predictor: Predictor, folder: Path, *, overlays: bool = False) -> BatchResult:
    return predict_items(predictor, of_files(str(folder / "scans"), folder / "masks"), folder / "masks", OutputOptions(overlays=overlays))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for i in range(3):
        write_png(tmp_path / f"scans/{i}.png", np.random.default_rng(i).integers(0, 255, (30, 40), np.uint8))
    return tmp_path


def test_every_image_has_a_line_in_the_table_of_sizes_and_a_picture_where_it_is_asked_for(trained: Path, scans: Path) -> None:
    done = predicted(segkit.load(trained, "cpu"), scans, overlays=True)
    assert (done.written, done.skipped, done.problems) == (3, 0, ())
    assert (scans / "masks" / SIZES).read_text().splitlines()[0] == "case,class,n_px,area_mm2,volume_mm3"
    assert list(read_rows(scans / "masks" / SIZES, SIZE_HEADER)) == ["0", "1", "2"]
    assert all((scans / "masks" / f"{i}_overlay.png").is_file() for i in range(3))


def test_overlays_of_masks_that_are_there_are_made_and_those_of_overwritten_masks_go(trained: Path, scans: Path) -> None:
    predictor, items = segkit.load(trained, "cpu"), of_files(str(scans / "scans"), scans / "masks")
    extras = [scans / "masks" / f"{i}_{kind}" for i in range(3) for kind in ("overlay.png", "probabilities.npz")]

    def done(**options: bool) -> tuple[int, int]:
        result = predict_items(predictor, items, scans / "masks", OutputOptions(**options))
        return result.written, result.skipped

    assert done() == (3, 0)
    assert done() == (0, 3)
    assert done(overlays=True, probabilities=True) == (3, 0)
    assert all(path.is_file() for path in extras)
    assert done(overlays=True, probabilities=True) == (0, 3)
    assert done() == (0, 3)
    assert all(path.is_file() for path in extras)
    assert done(overwrite=True) == (3, 0)
    assert not any(path.exists() for path in extras)


def test_what_a_killed_prediction_did_not_come_to_write_into_the_table_is_done_again(trained: Path, scans: Path) -> None:
    predictor = segkit.load(trained, "cpu")
    predicted(predictor, scans)
    table = scans / "masks" / SIZES
    whole = table.read_text()
    table.write_text("".join(whole.splitlines(keepends=True)[:3]))  # without the last
    done = predicted(predictor, scans)
    assert (done.written, done.skipped) == (1, 2)
    assert table.read_text() == whole


def test_the_table_is_written_on_the_way(trained: Path, scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = segkit.load(trained, "cpu")
    monkeypatch.setattr("segkit.inference.writers.tables.SECONDS", 0.0)
    monkeypatch.setattr("segkit.inference.writers.tables.SHARE", 1e9)
    seen: list[int] = []

    def watched(items: Iterable[Any], *_: object) -> Iterator[Any]:
        for item in items:
            yield item
            seen.append(len(read_rows(scans / "masks" / SIZES, SIZE_HEADER)))

    monkeypatch.setattr("segkit.inference.batch.track", watched)
    predicted(predictor, scans)
    assert seen == [1, 2, 3]


def test_a_file_that_is_no_table_is_reported_before_anything_is_predicted(trained: Path, scans: Path) -> None:
    (scans / "masks").mkdir()
    (scans / "masks" / SIZES).write_text("name,size\n")
    with pytest.raises(SegkitError, match="first line is not  case,class"):
        predicted(segkit.load(trained, "cpu"), scans)
    assert len(list((scans / "masks").iterdir())) == 1
