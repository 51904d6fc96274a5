"""A thousand damaged files: each is refused in a line that names it, or read rightly, or is damaged as no reader can see.

Not detectable is, by format: pixels of NIfTI, NRRD, MetaImage, NPY, TIFF and DICOM without compression, and the coded blocks of a
JPEG (none of them has a checksum; those of PNG, gzip, zlib and ZIP are compared); a header of as many pixels that another reader
understands as segkit does (rows for columns, another type of the same size, another spacing, slope or origin); and words and
numbers of annotations, which mean what they say.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from segkit.data.case import Case
from segkit.data.io.base import ReadError
from segkit.data.io.images import ImageFile, read_image
from segkit.data.io.volumes import VolumeFile
from segkit.data.statistics import statistics_of
from tests.fuzz.campaign import GOOD, Outcome, make, run
from tests.fuzz.samples import samples

ALL = 1000


def bad(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.verdict not in GOOD]


@pytest.mark.slow
def test_forty_damaged_files() -> None:
    outcomes = list(run(range(0, ALL, 26)))
    assert len(outcomes) == 39
    assert bad(outcomes) == []


@pytest.mark.slow
def test_a_thousand_damaged_files() -> None:
    outcomes = list(run(range(ALL)))
    assert len(outcomes) == ALL
    assert bad(outcomes) == []
    assert sum(outcome.verdict == "refused" for outcome in outcomes) > ALL / 2


def test_a_damage_is_the_same_each_time_and_leaves_no_file_as_it_was() -> None:
    for number in range(60):
        sample, damage, data = make(number)
        assert data != sample.data, damage
        assert make(number) == (sample, damage, data)


def changed(name: str, before: bytes, after: bytes, folder: Path) -> Path:
    """The file of a sample with some bytes replaced."""
    sample = samples()[name]
    assert before in sample.data
    path = folder / Path(sample.file).name
    path.write_bytes(sample.data.replace(before, after, 1))
    return path


@pytest.mark.parametrize("axes", ["9999999", "0", "-1", "nan", "3 3"])
def test_axes_of_a_metaimage_are_counted_before_a_library_sees_them(axes: str, tmp_path: Path) -> None:
    path = changed("mha", b"NDims = 3", f"NDims = {axes}".encode(), tmp_path)
    with pytest.raises(ReadError, match=r"a\.mha: damaged \(its header says ndims"):
        VolumeFile(path).read()


@pytest.mark.parametrize("name", ["nii", "nrrd", "mha", "npy"])
def test_a_volume_of_more_numbers_than_its_header_claims_is_not_cut(name: str, tmp_path: Path) -> None:
    sample = samples()[name]
    path = tmp_path / Path(sample.file).name
    path.write_bytes(sample.data + bytes(range(1, 100)))
    with pytest.raises(ReadError, match=f"a.{name}: damaged .its header claims 960 bytes of voxels, but 1059 follow"):
        VolumeFile(path).read()


def test_zeros_that_fill_a_block_behind_a_nifti_do_no_harm(tmp_path: Path) -> None:
    sample = samples()["nii"]
    path = tmp_path / "a.nii"
    path.write_bytes(sample.data + bytes(100))
    assert VolumeFile(path).read().shape == (4, 12, 10, 1)


def test_a_jpeg_that_ends_before_its_last_block_is_not_half_gray(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    whole = bytes(cv2.imencode(".jpg", noise)[1])
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    with pytest.raises(ReadError, match=r"a\.jpg: truncated or damaged"):
        read_image(path)
    noise[-16:, -16:] = 0  # a black corner is none
    path.write_bytes(bytes(cv2.imencode(".jpg", noise)[1]))
    assert read_image(path).shape == (64, 80, 3)


def test_a_png_of_fewer_columns_than_it_holds_is_not_cut(tmp_path: Path) -> None:
    data = samples()["png"].data
    head = b"IHDR" + (19).to_bytes(4) + data[20:29]
    path = tmp_path / "a.png"
    path.write_bytes(data[:12] + head + zlib.crc32(head).to_bytes(4) + data[33:])
    with pytest.raises(ReadError, match="its header claims 24 x 19 pixels, and more follow"):
        read_image(path)


def test_a_tiff_whose_strips_are_missing_is_not_filled_with_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((24, 20), np.uint8), rowsperstrip=8, compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["RowsPerStrip"].overwrite(4)
    with pytest.raises(ReadError, match="it lists 3 strips of pixels, of 6"):
        read_image(path)


def test_a_tiff_of_a_few_kilobytes_that_claims_more_than_the_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((200, 200), np.uint8), compression="zlib")

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("segkit.data.statistics.quantiles", fail)
    assert statistics_of(Case("a", ImageFile(path))).errors == ((str(path), "does not fit into memory"),)


def test_a_stack_of_imagej_behind_one_page_is_refused_not_read_as_its_first_slice(tmp_path: Path) -> None:
    stack = np.arange(4 * 12 * 10, dtype=np.uint16).reshape(4, 12, 10)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"})
    assert np.array_equal(VolumeFile(path).read()[..., 0], stack)
    tifffile.imwrite(path, stack[0], description="ImageJ=1.11a\nimages=4\nslices=4\n", metadata=None)
    path.write_bytes(path.read_bytes() + stack[1:].tobytes())
    for read in (VolumeFile(path).read, ImageFile(path).read):
        with pytest.raises(ReadError, match=r"a\.tif: holds 4 images, but lists 1"):
            read()


def test_an_ome_tiff_of_slices_is_a_volume(tmp_path: Path) -> None:
    stack = np.arange(4 * 12 * 10, dtype=np.uint16).reshape(4, 12, 10)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "ZYX"}, photometric="minisblack")
    assert np.array_equal(VolumeFile(path).read()[..., 0], stack)
    with pytest.raises(ReadError, match="holds 4 pages, expected one"):
        read_image(path)


def test_channels_as_pages_are_no_slices(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((3, 4, 12, 10), np.uint8), ome=True, metadata={"axes": "CZYX"}, photometric="minisblack")
    with pytest.raises(ReadError, match=r"its pages are 3 x 4 x 12 x 10 \(CZYX\), not the slices of one volume"):
        VolumeFile(path).read()
