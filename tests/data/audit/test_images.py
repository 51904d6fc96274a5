"""What the audit says of the pixels of images: values that are no numbers, outliers, gray among color."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest
from PIL import Image, ImageOps

from segkit.config import schema
from segkit.data.audit.audit import AuditResult, inspect
from segkit.system.errors import Problem

Audit = Callable[..., AuditResult]


@pytest.fixture
def audit(tmp_path: Path, data: Callable[..., schema.Data], split: Callable[..., schema.Split]) -> Audit:
    return lambda **keys: inspect(data("folder", tmp_path / "set", **keys), split("holdout"), 0, (), tmp_path / "cache")


def volumes(root: Path, n: int = 6) -> list[Path]:
    """NIfTI volumes with a bright ball."""
    z, y, x = np.indices((6, 16, 16))
    ball = (z - 3) ** 2 + (y - 8) ** 2 + (x - 8) ** 2 < 9
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        image = (200 * ball + np.random.default_rng(i).normal(100, 20, ball.shape)).astype(np.float32)
        for folder, array in (("images", image), ("masks", ball.astype(np.uint8))):
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"v{i}.nii.gz")
    return sorted((root / "images").iterdir())


def change(path: Path, *values: float) -> None:
    """Put values into the first voxels."""
    image = nib.load(path).get_fdata()
    image[0, 0, : len(values)] = values
    nib.save(nib.Nifti1Image(image, np.eye(4)), path)


def about(result: AuditResult, word: str) -> Problem:
    (found,) = [problem for problem in result.problems if word in problem.what]
    return found


@pytest.mark.parametrize("dims", [2, 3])
def test_values_that_are_no_numbers_are_counted_by_file(audit: Audit, tmp_path: Path, dims: int) -> None:
    files = volumes(tmp_path / "set")
    change(files[2], np.inf)
    change(files[3], np.nan, -np.inf, 1e300)
    found = about(audit(dims=dims), "NaN")
    assert (found.where, found.severity) == ("images/v2.nii.gz", "warning")
    assert found.what == "1 value is NaN or infinite (and in 1 more file: v3 3)"


@pytest.mark.parametrize("dims", [2, 3])
def test_a_volume_without_a_single_number_is_an_error(audit: Audit, tmp_path: Path, dims: int) -> None:
    files = volumes(tmp_path / "set")
    nib.save(nib.Nifti1Image(np.full((6, 16, 16), np.nan), np.eye(4)), files[1])
    found = about(audit(dims=dims), "every value is NaN")
    assert (found.where, found.severity) == ("images/v1.nii.gz", "error")
    sound = audit(dims=dims, exclude=["v1"])
    assert not [problem for problem in sound.problems if "NaN" in problem.what]


def test_outliers_that_would_make_an_image_flat_are_named(audit: Audit, tmp_path: Path) -> None:
    files = volumes(tmp_path / "set")
    change(files[4], 1e6)
    found = about(audit(dims=3), "outliers")
    assert found.where == "images/v4.nii.gz"
    assert "all from" in found.what
    assert "preprocess.scale=percentiles" in found.fix


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint32, np.int32, np.float64])
def test_whole_numbers_of_any_width_are_read_without_overflow(audit: Audit, tmp_path: Path, dtype: type) -> None:
    files = volumes(tmp_path / "set")
    least, most = (-120, 120) if dtype == np.int8 else (0, 4_000_000_000) if dtype == np.uint32 else (-32768, 32767)
    image = np.linspace(least, most, 6 * 16 * 16).reshape(6, 16, 16).astype(dtype)
    nib.save(nib.Nifti1Image(image, np.eye(4)), files[0])
    (low, *_, high) = audit(dims=3).statistics["v0"].quantiles[0]
    assert (low, high) == (pytest.approx(least), pytest.approx(most))


# --- gray and color


def pictures(root: Path, colors: int, rgb: int, gray: int) -> None:
    """Pictures in color, gray in three channels, gray in one."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(colors + rgb + gray):
        image = np.random.default_rng(i).integers(0, 255, (20, 24, 3), np.uint8)
        if i >= colors:
            image[:] = image[..., :1]
        cv2.imwrite(str(root / f"images/{i}.png"), image if i < colors + rgb else image[..., 0])
        cv2.imwrite(str(root / f"masks/{i}.png"), np.eye(20, 24, dtype=np.uint8) * 255)


def channels(result: AuditResult) -> set[int]:
    assert not [problem for problem in result.problems if problem.severity == "error"]
    return {stats.channels for stats in result.statistics.values()} | {case.image.read().shape[-1] for case in result.manifest}


def test_gray_pictures_among_color_ones_are_repeated(audit: Audit, tmp_path: Path) -> None:
    pictures(tmp_path / "set", colors=5, rgb=2, gray=3)
    result = audit()
    assert channels(result) == {3}
    found = about(result, "gray")
    assert (found.where, found.severity) == ("7.png", "note")
    assert found.what == "is gray among color images: its channel is repeated (in 3 of 10 images)"


def test_gray_in_three_channels_among_gray_in_one_is_read_as_one(audit: Audit, tmp_path: Path) -> None:
    pictures(tmp_path / "set", colors=0, rgb=3, gray=5)
    result = audit()
    assert channels(result) == {1}
    assert about(result, "gray").what == "holds gray in three equal channels: one is read (in 3 of 8 images)"


def test_gray_in_three_channels_stays_so_until_the_proposed_key_is_typed(audit: Audit, tmp_path: Path) -> None:
    pictures(tmp_path / "set", colors=0, rgb=8, gray=0)
    result = audit()
    assert channels(result) == {3}
    assert about(result, "gray").fix == "read one, in a third of the memory:  data.channels=1"
    assert channels(audit(channels=1)) == {1}


def test_color_is_lost_only_where_it_is_typed(audit: Audit, tmp_path: Path) -> None:
    pictures(tmp_path / "set", colors=5, rgb=1, gray=2)
    result = audit(channels=1)
    assert channels(result) == {1}
    assert about(result, "luminance").what == "is in color: its luminance is read (data.channels=1) (in 5 of 8 images)"
    picture = cv2.imread(str(tmp_path / "set/images/0.png"))
    expected = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    assert np.abs(result.manifest.by_id["0"].image.read()[..., 0].astype(int) - expected).max() <= 1


def test_all_become_color_where_it_is_typed(audit: Audit, tmp_path: Path) -> None:
    pictures(tmp_path / "set", colors=0, rgb=0, gray=8)
    assert channels(audit(channels=3)) == {3}


def test_volumes_of_one_channel_among_others_of_three_are_no_matter_of_color(audit: Audit, tmp_path: Path) -> None:
    files = volumes(tmp_path / "set")
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(6, 16, 16, 3)), np.eye(4)), files[0])
    assert about(audit(dims=3, fourth_axis="channels"), "channel").severity == "error"


# --- a fourth axis


def test_time_points_do_not_become_channels_until_a_key_says_so(audit: Audit, tmp_path: Path) -> None:
    """The lines that the message gives work as they stand."""
    files = volumes(tmp_path / "set", n=8)
    for path in files[:2]:
        nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(6, 16, 16, 3)), np.eye(4)), path)
    found = about(audit(dims=3), "4-D")
    assert (found.where, found.severity) == (str(files[0]), "error")
    assert found.what == "is 4-D: 3 volumes in one file, time points or channels (so are 1 more)"
    assert found.fix == """if they are channels:  data.fourth_axis=channels,  else  data.exclude='["v0","v1"]'"""
    assert not [problem for problem in audit(dims=3, exclude=["v0", "v1"]).problems if problem.severity == "error"]
    for path in files[2:]:
        nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(6, 16, 16, 3)), np.eye(4)), path)
    for dims in (2, 3):
        result = audit(dims=dims, fourth_axis="channels")
        assert {stats.channels for stats in result.statistics.values()} == {3}


# --- EXIF orientation


def turned_pictures(root: Path, orientation: int, shape: tuple[int, int], masks: str) -> None:
    """JPEG with this orientation; `masks` drawn on the "shown" or the "stored" grid, without a tag, or "tagged" themselves."""
    exif = Image.Exif()
    exif[274] = orientation
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(8):
        stored = Image.fromarray(np.random.default_rng(i).integers(0, 255, shape, np.uint8))
        stored.save(root / f"images/{i}.jpg", exif=exif)
        mask = Image.fromarray(np.eye(*shape, dtype=np.uint8) * 255)
        with Image.open(root / f"images/{i}.jpg") as image:
            on_shown = mask.resize(ImageOps.exif_transpose(image).size, Image.Resampling.NEAREST)
        keys = {"exif": exif} if masks == "tagged" else {}
        (on_shown if masks == "shown" else mask).save(root / f"masks/{i}.png", **keys)


def errors(result: AuditResult) -> list[Problem]:
    return [problem for problem in result.problems if problem.severity == "error"]


@pytest.mark.parametrize(("orientation", "shape", "masks"), [(6, (20, 30), "shown"), (6, (20, 30), "tagged"), (3, (20, 20), "tagged")])
def test_turned_pictures_and_their_masks_lie_on_the_grid_that_viewers_show(
    audit: Audit, tmp_path: Path, orientation: int, shape: tuple[int, int], masks: str
) -> None:
    turned_pictures(tmp_path / "set", orientation, shape, masks)
    result = audit()
    assert not errors(result)
    assert result.statistics["0"].shape == result.statistics["0"].masks[""].shape == (shape[::-1] if orientation == 6 else shape)


def test_masks_drawn_on_stored_pixels_are_refused_with_the_key_that_reads_them(audit: Audit, tmp_path: Path) -> None:
    turned_pictures(tmp_path / "set", 8, (20, 30), "stored")
    found = errors(audit())
    assert "is 20 x 30 but its image is 30 x 20 (turned by its EXIF orientation)" in found[0].what
    assert found[0].fix == "drawn on the stored pixels:  data.exif=stored"
    result = audit(exif="stored")
    assert not errors(result)
    assert result.statistics["0"].shape == (20, 30)


@pytest.mark.parametrize(("orientation", "shape"), [(3, (20, 30)), (2, (20, 30)), (6, (20, 20))])
def test_pairs_whose_sizes_leave_it_open_are_refused_until_a_key_says_which_grid(
    audit: Audit, tmp_path: Path, orientation: int, shape: tuple[int, int]
) -> None:
    turned_pictures(tmp_path / "set", orientation, shape, "stored")
    (found,) = errors(audit())
    assert f"has EXIF orientation {orientation}, its mask none, so it is unsure which grid the mask is on (and 7 more" in found.what
    read = {}
    for exif in ("shown", "stored"):
        assert f"data.exif={exif}" in found.fix
        result = audit(exif=exif)
        assert not errors(result)
        read[exif] = result.manifest.by_id["0"].image.read()
    assert not np.array_equal(read["shown"], read["stored"])
