"""Volumes come out as a viewer shows them, whatever way they are stored; a bad file is an error that says why."""

from __future__ import annotations

import gzip
import io
import itertools
import pickle
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from segkit.data.io.base import ReadError, stem
from segkit.data.io.images import ImageFile, MaskFile, image_shape, read_image, read_mask
from segkit.data.io.volumes import VolumeFile, VolumeMask, header, is_volume_file, n_volumes, same_grid, write_like
from segkit.system.errors import SegkitError

RANDOM = np.random.default_rng(0)
SHOWN = RANDOM.integers(0, 200, (5, 7, 9)).astype(np.uint8)
"""Slices, rows, columns as a viewer shows them (LPS): no two slices, rows or columns are alike."""
SPACING = (3.0, 2.0, 1.0)
CODES = ["".join(o) for axes in itertools.permutations(["RL", "AP", "IS"]) for o in itertools.product(*axes)]
LPS = np.array([[-1.0, 0, 0, 40], [0, -2.0, 0, 50], [0, 0, 3.0, -60], [0, 0, 0, 1]])
"""Voxel (column, row, slice) of `SHOWN` to RAS mm."""


def stored(code: str) -> nib.Nifti1Image:
    """`SHOWN` in a file whose axes lead to `code`."""
    turn = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(tuple(code)))
    xyz = SHOWN.transpose(2, 1, 0)
    return nib.Nifti1Image(apply_orientation(xyz, turn), LPS @ inv_ornt_aff(turn, xyz.shape))


def itk(array: np.ndarray = SHOWN, direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)) -> sitk.Image:
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((-40, -50, -60))
    image.SetDirection(direction)
    return image


# orientation


@pytest.mark.parametrize("code", CODES)
def test_all_48_axis_orders_read_as_one(code: str, tmp_path: Path) -> None:
    nib.save(stored(code), tmp_path / "a.nii.gz")
    volume = VolumeFile(tmp_path / "a.nii.gz")
    assert nib.aff2axcodes(nib.load(tmp_path / "a.nii.gz").affine) == tuple(code)
    assert np.array_equal(volume.read()[..., 0], SHOWN)
    assert volume.read().dtype == np.uint8
    assert volume.shape == SHOWN.shape
    assert volume.spacing_mm == SPACING
    assert np.allclose(header(volume.path).affine, LPS)
    assert np.array_equal(VolumeMask(volume.path).read(), SHOWN)


@pytest.mark.parametrize("orient", ["RAS", "PIR", "LPS", "SAL"])
def test_an_array_turned_to_any_orientation_is_what_its_affine_says(orient: str, tmp_path: Path) -> None:
    nib.save(stored("RAS"), tmp_path / "a.nii")
    head = header(tmp_path / "a.nii", orient)
    turned = VolumeFile(tmp_path / "a.nii", orient).read()[..., 0]
    assert head.orientation == orient
    assert head.shape == turned.shape
    assert nib.aff2axcodes(np.array(head.affine)) == tuple(orient)
    expected = nib.as_closest_canonical(nib.load(tmp_path / "a.nii"))
    back = nib.as_closest_canonical(nib.Nifti1Image(turned.transpose(2, 1, 0), np.array(head.affine)))
    assert np.array_equal(np.asarray(back.dataobj), np.asarray(expected.dataobj))
    assert np.allclose(back.affine, expected.affine)


def test_as_stored_is_what_simpleitk_reads(tmp_path: Path) -> None:
    for code in ("LPS", "RAS", "PIR"):
        nib.save(stored(code), tmp_path / "a.nii.gz")
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
        assert np.array_equal(VolumeFile(tmp_path / "a.nii.gz", orient=None).read()[..., 0], array)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha", "mhd", "nhdr"])
@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 1, 0, 1, 0, 0, 0, 0, -1), (0, 0, -1, 1, 0, 0, 0, -1, 0)])
def test_every_format_agrees_with_simpleitk(suffix: str, direction: tuple[float, ...], tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    sitk.WriteImage(itk(direction=direction), str(path))
    turned = sitk.DICOMOrient(itk(direction=direction), "LPS")
    assert np.array_equal(VolumeFile(path).read()[..., 0], sitk.GetArrayFromImage(turned))
    head = header(path)
    assert head.spacing_mm == pytest.approx(turned.GetSpacing()[::-1])
    assert np.allclose(np.array(head.affine)[:3, 3], np.array(turned.GetOrigin()) * (-1, -1, 1))
    assert head.orientation == "LPS"


def test_an_oblique_scan_is_not_resampled(tmp_path: Path) -> None:
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0, 0], [np.sin(angle), np.cos(angle), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(SHOWN.transpose(2, 1, 0), turn @ LPS), tmp_path / "a.nii.gz")
    assert np.array_equal(VolumeFile(tmp_path / "a.nii.gz").read()[..., 0], SHOWN)
    assert header(tmp_path / "a.nii.gz").spacing_mm == pytest.approx(SPACING)


def test_without_any_orientation_in_the_header_the_order_is_the_stored_one_as_in_simpleitk(tmp_path: Path) -> None:
    image = nib.Nifti1Image(SHOWN.transpose(2, 1, 0), None)
    image.header.set_zooms(SPACING[::-1])
    nib.save(image, tmp_path / "a.nii")
    assert np.array_equal(VolumeFile(tmp_path / "a.nii").read()[..., 0], SHOWN)
    assert header(tmp_path / "a.nii").spacing_mm == SPACING
    image.header["pixdim"][1:4], image.header["sform_code"] = 0, 1  # an affine of nothing but zeros
    image.header["srow_x"] = image.header["srow_y"] = image.header["srow_z"] = 0
    (tmp_path / "b.nii").write_bytes(image.to_bytes())
    assert np.array_equal(VolumeFile(tmp_path / "b.nii").read()[..., 0], SHOWN)


def test_micrometres_become_millimetres(tmp_path: Path) -> None:
    image = stored("RAS")
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    assert header(tmp_path / "a.nii").spacing_mm == pytest.approx([mm / 1000 for mm in SPACING])


def test_an_impossible_orientation_is_an_error(tmp_path: Path) -> None:
    nib.save(stored("RAS"), tmp_path / "a.nii")
    for wrong in ("LPX", "LLS", "LP", "lps"):
        with pytest.raises(SegkitError, match="orientation"):
            VolumeFile(tmp_path / "a.nii", wrong).read()


# numbers


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha", "npy"])
def test_types_of_numbers(suffix: str, tmp_path: Path) -> None:
    kinds = {"uint8": "uint8", "uint16": "uint16", "int16": "float32", "float64": "float32", "int32": "float32"}
    for kind, expected in kinds.items():
        path, array = tmp_path / f"{kind}.{suffix}", SHOWN.astype(kind)
        np.save(path, array) if suffix == "npy" else sitk.WriteImage(itk(array), str(path))
        read = VolumeFile(path).read()
        assert (read.dtype, read.flags.c_contiguous) == (expected, True), kind
        assert np.array_equal(read[..., 0], SHOWN), kind


def test_slope_and_intercept_of_the_file_are_applied(tmp_path: Path) -> None:
    image = stored("LPS")
    image.header.set_slope_inter(2, -1024)
    (tmp_path / "a.nii").write_bytes(with_scale(image.to_bytes(), 2, -1024))
    read = VolumeFile(tmp_path / "a.nii").read()
    assert read.dtype == np.float32
    assert np.array_equal(read[..., 0], SHOWN.astype(np.float32) * 2 - 1024)


def with_scale(data: bytes, slope: float, intercept: float) -> bytes:
    return data[:112] + struct.pack("<ff", slope, intercept) + data[120:]


def test_big_endian_and_nifti_2(tmp_path: Path) -> None:
    array = SHOWN.transpose(2, 1, 0).astype(np.uint16) * 300
    head = nib.Nifti1Header(endianness=">")
    head.set_data_dtype(np.uint16)
    nib.save(nib.Nifti1Image(array, LPS, head), tmp_path / "big.nii")
    nib.save(nib.Nifti2Image(array, LPS), tmp_path / "two.nii.gz")
    assert (tmp_path / "big.nii").read_bytes()[:4] == b"\0\0\x01\x5c"
    for name in ("big.nii", "two.nii.gz"):
        assert np.array_equal(VolumeFile(tmp_path / name).read()[..., 0], SHOWN.astype(np.uint16) * 300)
        assert VolumeMask(tmp_path / name).read().dtype == np.uint16
        assert VolumeMask(tmp_path / name).read().dtype.isnative


def test_a_fourth_axis_is_channels(tmp_path: Path) -> None:
    four = np.stack([SHOWN, SHOWN + 1, SHOWN + 2], axis=-1)
    nib.save(nib.Nifti1Image(four.transpose(2, 1, 0, 3), LPS), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(four.transpose(2, 1, 0, 3)[:, :, :, None], LPS), tmp_path / "vector.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(four, isVector=True), str(tmp_path / "a.nrrd"))
    sitk.WriteImage(sitk.JoinSeries([itk(four[..., c]) for c in range(3)]), str(tmp_path / "a.mha"))
    np.save(tmp_path / "a.npy", four)
    for name in ("a.nii.gz", "vector.nii.gz", "a.nrrd", "a.mha", "a.npy"):
        assert np.array_equal(VolumeFile(tmp_path / name).read(), four), name
        assert header(tmp_path / name).channels == 3
    assert np.array_equal(VolumeFile(tmp_path / "a.nii.gz", channels=(2, 0)).read(), four[..., [2, 0]])
    with pytest.raises(ReadError, match=r"has 3 channels .from 0., requested: 3"):
        VolumeFile(tmp_path / "a.nii.gz", channels=(3,)).read()
    with pytest.raises(ReadError, match="one number a voxel, this file has 3"):
        VolumeMask(tmp_path / "a.nii.gz").read()


def test_colours_of_a_nifti_are_channels(tmp_path: Path) -> None:
    colours = RANDOM.integers(0, 255, (9, 7, 5, 3), dtype=np.uint8)
    packed = colours.copy().view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nib.save(nib.Nifti1Image(packed, LPS), tmp_path / "a.nii.gz")
    assert np.array_equal(VolumeFile(tmp_path / "a.nii.gz").read(), colours.transpose(2, 1, 0, 3))


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(SHOWN.astype(np.complex64), LPS), tmp_path / "a.nii")
    for pixels in (VolumeFile(tmp_path / "a.nii"), VolumeMask(tmp_path / "a.nii")):
        with pytest.raises(ReadError, match="complex"):
            pixels.read()


def test_nan_stays_in_an_image_until_it_is_normalized(tmp_path: Path) -> None:
    holes = SHOWN.astype(np.float32)
    holes[0] = np.nan
    np.save(tmp_path / "a.npy", holes)
    assert np.array_equal(VolumeFile(tmp_path / "a.npy").read()[..., 0], holes, equal_nan=True)


def test_masks_of_whole_floats_are_integers_and_others_are_refused(tmp_path: Path) -> None:
    labels = (SHOWN % 3).transpose(2, 1, 0)
    nib.save(nib.Nifti1Image(labels.astype(np.float64), LPS), tmp_path / "whole.nii.gz")
    scaled = with_scale(nib.Nifti1Image(labels * np.uint8(85), LPS).to_bytes(), 2 / 170, 0)
    (tmp_path / "scaled.nii").write_bytes(scaled)
    for name in ("whole.nii.gz", "scaled.nii"):
        mask = VolumeMask(tmp_path / name).read()
        assert mask.dtype.kind == "i"
        assert np.array_equal(mask, SHOWN % 3)
    nib.save(nib.Nifti1Image(labels * 0.3, LPS), tmp_path / "soft.nii.gz")
    nib.save(nib.Nifti1Image(np.full(labels.shape, np.nan), LPS), tmp_path / "nan.nii.gz")
    for name, reason in (("soft", "fractions"), ("nan", "NaN")):
        with pytest.raises(ReadError, match=reason):
            VolumeMask(tmp_path / f"{name}.nii.gz").read()


# NumPy and TIFF


def test_numpy_files_come_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SHOWN)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(SHOWN))
    np.savez_compressed(tmp_path / "a.npz", volume=SHOWN, spacing=np.array(SPACING))
    np.save(tmp_path / "bool.npy", SHOWN > 100)
    for name in ("a.npy", "fortran.npy", "a.npz"):
        assert np.array_equal(VolumeFile(tmp_path / name).read()[..., 0], SHOWN)
        assert (header(tmp_path / name).shape, VolumeFile(tmp_path / name).spacing_mm) == (SHOWN.shape, ())
        assert np.array_equal(VolumeFile(tmp_path / name, "RAS").read()[..., 0], SHOWN)
    assert VolumeMask(tmp_path / "bool.npy").read().dtype == np.uint8


def test_pages_of_a_tiff_are_slices(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", SHOWN, photometric="minisblack", compression="zlib")
    rgb = RANDOM.integers(0, 255, (5, 7, 9, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb")
    assert np.array_equal(VolumeFile(tmp_path / "a.tif").read()[..., 0], SHOWN)
    assert np.array_equal(VolumeMask(tmp_path / "a.tif").read(), SHOWN)
    assert VolumeFile(tmp_path / "a.tif").shape == SHOWN.shape
    assert np.array_equal(VolumeFile(tmp_path / "rgb.tif").read(), rgb)
    with tifffile.TiffWriter(tmp_path / "two sizes.tif") as tiff:
        tiff.write(SHOWN[0], contiguous=False)
        tiff.write(SHOWN[0, :3], contiguous=False)
    with pytest.raises(ReadError, match="2 pages differ"):
        header(tmp_path / "two sizes.tif")


def test_a_fourth_axis_is_counted_but_vectors_and_colors_are_channels(tmp_path: Path) -> None:
    four = np.stack([SHOWN] * 3, axis=-1).transpose(2, 1, 0, 3)
    nib.save(nib.Nifti1Image(four, LPS), tmp_path / "time.nii.gz")
    nib.save(nib.Nifti1Image(four[:, :, :, None], LPS), tmp_path / "vector.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(four.transpose(2, 1, 0, 3), isVector=True), str(tmp_path / "vector.nrrd"))
    sitk.WriteImage(sitk.JoinSeries([itk(SHOWN)] * 3), str(tmp_path / "time.mha"))
    found = {name: n_volumes(tmp_path / name) for name in ("time.nii.gz", "vector.nii.gz", "vector.nrrd", "time.mha")}
    assert found == {"time.nii.gz": 3, "vector.nii.gz": 1, "vector.nrrd": 1, "time.mha": 3}


# single slices


def test_a_png_saved_as_nifti_by_simpleitk_stays_upright(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(SHOWN[0]), str(tmp_path / "flat.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(SHOWN[:1]), str(tmp_path / "deep.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(SHOWN[0]), str(tmp_path / "a.nrrd"))
    sitk.WriteImage(sitk.GetImageFromArray(SHOWN[0]), str(tmp_path / "a.mha"))
    np.save(tmp_path / "a.npy", SHOWN[0])
    np.savez(tmp_path / "a.npz", SHOWN[0])
    for name in ("flat.nii.gz", "deep.nii.gz", "a.nrrd", "a.mha", "a.npy", "a.npz"):
        path = tmp_path / name
        assert np.array_equal(ImageFile(path).read()[..., 0], SHOWN[0]), name
        assert np.array_equal(MaskFile(path).read(), SHOWN[0]), name
        assert image_shape(path) == (7, 9, 1)


def test_pixel_size_and_colours_of_a_single_slice(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(SHOWN[0])
    image.SetSpacing((0.2, 0.3))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    assert header(tmp_path / "a.nii.gz").spacing_mm[1:] == pytest.approx((0.3, 0.2))
    colours = RANDOM.integers(0, 255, (7, 9, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", colours)
    assert np.array_equal(read_image(tmp_path / "a.npy"), colours)


@pytest.mark.parametrize(("axis", "upright"), [(1, "LI"), (2, "PI")])
@pytest.mark.parametrize("code", ["LPS", "RAS", "LIP", "RSA", "PIL", "ASR"])
def test_a_coronal_or_sagittal_slice_shows_the_head_up(code: str, axis: int, upright: str, tmp_path: Path) -> None:
    image = stored(code)
    away = next(i for i, letter in enumerate(code) if letter in ("AP" if axis == 1 else "LR"))
    nib.save(image.slicer[tuple(slice(0, 1) if i == away else slice(None) for i in range(3))], tmp_path / "a.nii.gz")
    index = 0 if code[away] == "LPS"[2 - axis] else -1
    plane = np.take(SHOWN, index, axis=axis)[::-1]  # slices lead up, rows of a picture down
    path = tmp_path / "a.nii.gz"
    assert np.array_equal(ImageFile(path).read()[..., 0], plane)
    assert header(path).orientation[:2] == upright
    write_like(tmp_path / "out.nii.gz", plane, path)
    assert np.array_equal(np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj), np.asarray(nib.load(path).dataobj))


def test_a_volume_is_no_single_image(tmp_path: Path) -> None:
    nib.save(stored("RAS"), tmp_path / "a.nii.gz")
    for read in (read_image, read_mask):
        with pytest.raises(ReadError, match="a volume of 5 slices, expected one image"):
            read(tmp_path / "a.nii.gz")


# bad files


def refused(path: Path, reason: str) -> None:
    for pixels in (VolumeFile(path), VolumeMask(path)):
        with pytest.raises(ReadError, match=reason) as caught:
            pixels.read()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    refused(tmp_path / "gone.nii.gz", "is missing")
    (tmp_path / "folder.nii.gz").mkdir()
    refused(tmp_path / "folder.nii.gz", "cannot be opened")
    for suffix in ("nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd", "npy", "npz", "tif"):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(b"")
        refused(path, "zero bytes")
        path.write_text("<html>you are not logged in</html>")
        refused(path, "not gzipped in spite of its name" if suffix == "nii.gz" else "not a volume")
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"no volume" * 100))
    refused(tmp_path / "text.nii.gz", "gzipped, but no NIfTI inside")


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "plain.nii.gz").write_bytes(stored("RAS").to_bytes())
    (tmp_path / "packed.nii").write_bytes(gzip.compress(stored("RAS").to_bytes()))
    sitk.WriteImage(itk(), str(tmp_path / "a.nrrd"))
    (tmp_path / "a.nrrd").rename(tmp_path / "nrrd.mha")
    sitk.WriteImage(itk(), str(tmp_path / "a.mha"))
    (tmp_path / "a.mha").rename(tmp_path / "mha.nii.gz")
    for name in ("plain.nii.gz", "packed.nii", "nrrd.mha", "mha.nii.gz"):
        assert np.array_equal(VolumeFile(tmp_path / name).read()[..., 0], SHOWN), name


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha", "npy", "npz", "tif"])
def test_a_truncated_file_is_an_error_never_half_a_volume(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix in ("npy", "npz"):
        np.save(path, SHOWN) if suffix == "npy" else np.savez_compressed(path, SHOWN)
    elif suffix == "tif":
        tifffile.imwrite(path, SHOWN, photometric="minisblack")
    else:
        sitk.WriteImage(itk(), str(path))
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.7, 0.98):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, "truncated|damaged")


def test_a_gzip_with_a_flipped_bit_or_without_its_last_bytes_is_found(tmp_path: Path) -> None:
    whole = gzip.compress(stored("RAS").to_bytes())
    (tmp_path / "cut.nii.gz").write_bytes(whole[:-5])
    refused(tmp_path / "cut.nii.gz", "truncated")
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # in the checksum
    (tmp_path / "flipped.nii.gz").write_bytes(flipped)
    refused(tmp_path / "flipped.nii.gz", "damaged")


def nifti_claiming(*shape: int) -> bytes:
    data = bytearray(stored("RAS").to_bytes())
    data[40:56] = struct.pack("<8h", len(shape), *shape, *[1] * (7 - len(shape)))
    return bytes(data)


def test_headers_that_claim_nonsense_or_too_much_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    (tmp_path / "bomb.nii").write_bytes(nifti_claiming(30000, 30000, 30000))
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(nifti_claiming(30000, 30000, 30000)))
    (tmp_path / "negative.nii").write_bytes(nifti_claiming(-3, 5, 5))
    (tmp_path / "large.nii").write_bytes(nifti_claiming(1000, 1000, 1000))
    (tmp_path / "large.nii.gz").write_bytes(gzip.compress(nifti_claiming(1000, 1000, 1000)))
    (tmp_path / "dimensions.nii").write_bytes(nifti_claiming(5, 5, 5)[:40] + struct.pack("<h", 99) + nifti_claiming(5)[42:])
    sitk.WriteImage(itk(), str(tmp_path / "bomb.nrrd"))
    data = (tmp_path / "bomb.nrrd").read_bytes()
    (tmp_path / "bomb.nrrd").write_bytes(data.replace(b"sizes: 9 7 5", b"sizes: 90000 70000 50000"))
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": (10**5, 10**5, 10**5)})
    (tmp_path / "bomb.npy").write_bytes(out.getvalue())
    for name in ("bomb.nii", "bomb.nii.gz", "bomb.nrrd", "bomb.npy"):
        refused(tmp_path / name, "decompression bomb")
    refused(tmp_path / "negative.nii", "no voxels|damaged")
    refused(tmp_path / "large.nii", "truncated")
    refused(tmp_path / "large.nii.gz", "truncated")
    refused(tmp_path / "dimensions.nii", "claims .* dimensions")


def test_numpy_files_with_objects_or_of_other_shapes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([[{"a": 1}]]), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", np.array([[{"a": 1}]]))
    np.savez(tmp_path / "several.npz", image=SHOWN, mask=SHOWN)
    np.save(tmp_path / "line.npy", np.arange(5))
    np.save(tmp_path / "nothing.npy", np.zeros((3, 0, 5)))
    with zipfile.ZipFile(tmp_path / "letter.npz", "w") as archive:
        archive.writestr("letter.txt", "hello")
    refused(tmp_path / "objects.npy", "Python objects")
    refused(tmp_path / "objects.npz", "Python objects")
    refused(tmp_path / "several.npz", "expected one array, it holds image, mask")
    refused(tmp_path / "line.npy", "1 dimensions")
    refused(tmp_path / "nothing.npy", "no voxels")
    refused(tmp_path / "letter.npz", "damaged")


@pytest.mark.parametrize("suffix", ["mhd", "nhdr"])
def test_a_header_beside_its_voxels(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / f"a.{suffix}"
    sitk.WriteImage(itk(), str(path))
    assert VolumeFile(path).paths == (path, path.with_name("a.raw"))
    text = path.read_text()
    path.with_name("a.raw").rename(tmp_path / "a.raw")
    refused(path, r"names a\.raw, which is missing beside it")
    for outside in ("../a.raw", str(tmp_path / "a.raw")):
        path.write_text(text.replace("a.raw", outside))
        refused(path, "outside its folder")
    path.write_text(text.replace("a.raw", "LIST"))
    refused(path, "list of files")


def test_a_nifti_pair_of_files_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(SHOWN, LPS), tmp_path / "a.img")
    refused(tmp_path / "a.hdr", r"another file \(\.img\)")


# grids


def test_how_two_grids_differ(tmp_path: Path) -> None:
    nib.save(stored("RAS"), tmp_path / "image.nii.gz")
    nib.save(stored("PIR"), tmp_path / "turned.nii.gz")
    image = header(tmp_path / "image.nii.gz")
    assert same_grid(header(tmp_path / "turned.nii.gz"), image) == ""
    assert same_grid(replace(image, shape=(4, 7, 9)), image) == "4 x 7 x 9, the image 5 x 7 x 9"
    assert same_grid(replace(image, spacing_mm=(5.0, 2.0, 1.0)), image) == "spacing 5 x 2 x 1 mm, the image 3 x 2 x 1 mm"
    moved = np.array(image.affine) + np.array([[0, 0, 0, 3.0], *3 * [[0] * 4]])
    assert same_grid(replace(image, affine=tuple(map(tuple, moved))), image) == "another affine: origin 3 mm apart"
    flipped = np.array(image.affine) * [[-1, 1, 1, 1], [1] * 4, [1] * 4, [1] * 4]
    assert same_grid(replace(image, affine=tuple(map(tuple, flipped))), image) == "another affine: rotated, corners up to 16 mm apart"
    rounded = np.array(image.affine) + 1e-3
    assert same_grid(replace(image, affine=tuple(map(tuple, rounded))), image) == ""
    np.save(tmp_path / "a.npy", SHOWN)
    assert same_grid(header(tmp_path / "a.npy"), image) == ""


# writing


@pytest.mark.parametrize("orient", ["LPS", "RAS", None])
@pytest.mark.parametrize("name", ["RAS.nii.gz", "PIR.nii", "SLA.nii.gz", "a.nrrd", "a.mha", "a.mhd", "a.npy", "a.npz", "a.tif"])
def test_a_mask_is_written_on_the_grid_of_its_image(name: str, orient: str | None, tmp_path: Path) -> None:
    like, out = tmp_path / name, tmp_path / "out" / name
    if ".nii" in name:
        nib.save(stored(name[:3]), like)
    elif name.endswith(("npy", "npz")):
        np.save(like, SHOWN) if name.endswith("npy") else np.savez(like, SHOWN)
    elif name.endswith("tif"):
        tifffile.imwrite(like, SHOWN, photometric="minisblack")
    else:
        sitk.WriteImage(itk(direction=(0, 0, -1, 1, 0, 0, 0, -1, 0)), str(like))
    mask = VolumeMask(like, orient).read() % 4
    write_like(out, mask.astype(np.int64), like, orient)
    assert np.array_equal(VolumeMask(out, orient).read(), mask)
    assert VolumeMask(out, orient).read().dtype == np.uint8
    assert header(out, orient) == header(like, orient)
    assert header(out, None) == header(like, None)  # axes and affine as stored
    first = out.read_bytes()
    write_like(out, mask, like, orient)
    assert out.read_bytes() == first
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_nifti_masks_keep_the_codes_of_their_image_and_equal_the_original_mask(tmp_path: Path) -> None:
    original = nib.Nifti1Image(stored("PIR").get_fdata().astype(np.uint8) % 3, stored("PIR").affine)
    original.header.set_qform(original.affine, 1)
    original.header.set_sform(original.affine, 4)
    nib.save(original, tmp_path / "mask.nii.gz")
    image = nib.Nifti1Image(stored("PIR").get_fdata(dtype=np.float32) * 7, original.affine, original.header)
    image.header.set_data_dtype(np.int16)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a name that is private"))
    (tmp_path / "image.nii.gz").write_bytes(gzip.compress(image.to_bytes()))
    write_like(tmp_path / "out.nii.gz", VolumeMask(tmp_path / "mask.nii.gz").read(), tmp_path / "image.nii.gz")
    out, mask = nib.load(tmp_path / "out.nii.gz"), nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(out.dataobj), np.asarray(mask.dataobj))
    assert np.array_equal(out.affine, mask.affine)
    assert (out.header["qform_code"], out.header["sform_code"]) == (1, 4)
    assert b"private" not in gzip.decompress((tmp_path / "out.nii.gz").read_bytes())
    read = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(read), np.asarray(mask.dataobj).transpose(2, 1, 0))


def test_a_mask_of_a_scan_with_channels_and_of_a_flat_image(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.stack([SHOWN.transpose(2, 1, 0)] * 2, -1), LPS), tmp_path / "four.nii.gz")
    write_like(tmp_path / "mask.nii.gz", SHOWN % 2, tmp_path / "four.nii.gz")
    assert nib.load(tmp_path / "mask.nii.gz").shape == (9, 7, 5)
    for suffix in ("nii.gz", "nrrd", "mha"):
        sitk.WriteImage(sitk.GetImageFromArray(SHOWN[0].astype(np.float32)), str(tmp_path / f"flat.{suffix}"))
        write_like(tmp_path / f"out.{suffix}", SHOWN[0].astype(np.int32) + 1000, tmp_path / f"flat.{suffix}")
        flat = sitk.ReadImage(str(tmp_path / f"out.{suffix}"))
        assert np.array_equal(sitk.GetArrayFromImage(flat), SHOWN[0].astype(np.uint16) + 1000)
        assert MaskFile(tmp_path / f"out.{suffix}").read().dtype == np.uint16


def test_a_mask_of_another_size_is_not_written(tmp_path: Path) -> None:
    nib.save(stored("RAS"), tmp_path / "a.nii.gz")
    with pytest.raises(SegkitError, match=r"5 x 9 x 7 does not fit .* of 5 x 7 x 9"):
        write_like(tmp_path / "out.nii.gz", SHOWN.transpose(0, 2, 1), tmp_path / "a.nii.gz")
    assert not (tmp_path / "out.nii.gz").exists()


# names


@pytest.mark.parametrize("name", ["a b Größe 胎儿 v1.2", "x" * 200])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".npy"])
def test_names_with_blanks_accents_chinese_dots_and_200_letters(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "Köpfe 胎" / f"{name}{suffix}"
    path.parent.mkdir()
    np.save(path, SHOWN) if suffix == ".npy" else sitk.WriteImage(itk(), str(path))
    assert np.array_equal(VolumeFile(path).read()[..., 0], SHOWN)
    assert stem(path) == name
    assert is_volume_file(path)
    write_like(path.with_name(f"out {name[:190]}{suffix}"), SHOWN, path)
    assert np.array_equal(VolumeMask(path.with_name(f"out {name[:190]}{suffix}")).read(), SHOWN)


def test_which_files_are_volumes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", SHOWN, photometric="minisblack")
    tifffile.imwrite(tmp_path / "one.tif", SHOWN[0])
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    assert is_volume_file(tmp_path / "stack.tif")
    assert not any(is_volume_file(tmp_path / name) for name in ("one.tif", "broken.tif", "a.png", "a.gz"))
    assert is_volume_file(tmp_path / "SCAN.NII.GZ")
    assert stem(tmp_path / "SCAN.NII.GZ") == "SCAN"


def test_pixels_travel_between_processes(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    for pixels in (VolumeFile(path, "RAS", (1, 0)), VolumeMask(path), ImageFile(path), MaskFile(path, None)):
        assert pickle.loads(pickle.dumps(pixels)) == pixels
        assert hash(pixels) == hash(pickle.loads(pickle.dumps(pixels)))
        assert pixels.paths == (path,)


# real scans


def test_forty_real_hippocampi(real_data: Path) -> None:
    """Medical Segmentation Decathlon, Task04 (Simpson et al. 2019, CC BY-SA 4.0): two labels, voxels of 1 mm."""
    images = sorted((real_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))
    assert len(images) == 40
    for path in images:
        mask = real_data / "hippocampus" / "labelsTr" / path.name
        assert same_grid(header(mask), header(path)) == ""
        assert header(path).spacing_mm == (1, 1, 1)
        volume, labels = VolumeFile(path).read(), VolumeMask(mask).read()
        turned = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
        assert np.array_equal(volume[..., 0], sitk.GetArrayFromImage(turned))
        assert volume.shape[:3] == labels.shape == VolumeFile(path).shape
        assert set(np.unique(labels)) == {0, 1, 2}
