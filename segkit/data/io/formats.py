"""Volume files as they are stored: NIfTI, NRRD, MetaImage (MHA, MHD), NumPy and multi-page TIFF. Orientation: `volumes.py`.

The first bytes of a file decide on its format. A header is believed only as far as the file can hold what it claims, so that
neither a damaged nor a malicious one fills the memory. nibabel reads NIfTI, because ITK refuses affines that are not
orthonormal (https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields); its own checks of a header write to the terminal,
so those that matter are done here.
"""

from __future__ import annotations

import gzip
import io
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import prod
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
import tifffile
from nibabel.volumeutils import apply_read_scaling, array_from_file
from numpy.lib.recfunctions import structured_to_unstructured

from segkit.data.io.base import Array, ReadError, as_read_error, read_start
from segkit.data.io.tiff import SIGNATURES, count_pages, read_page

Size = tuple[int, int, int]

MAX_VOXELS = 4 * 10**9
"""A larger volume is taken for a decompression bomb."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_GZIP, _ZIP, _NPY, _NRRD = b"\x1f\x8b", b"PK\x03\x04", b"\x93NUMPY", b"NRRD"
_META = re.compile(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=")
_DATA_FILE = re.compile(rb"^\s*(?:ElementDataFile\s*=|data ?file:)\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_NIFTI_HEAD = 540  # bytes of the longer header
_NIFTI_LENGTHS = {b"n+1": 348, b"ni1": 348, b"n+2": 540, b"ni2": 540}
_DEFLATE_RATIO = 1100  # deflate shrinks nothing further than 1032 times
_TO_MM = {"meter": 1e3, "micron": 1e-3}


@dataclass(frozen=True)
class Stored:
    """A file's grid in its own axes (x, y, z), and how to reach its numbers."""

    size: Size
    channels: int
    affine: Array | None
    """Voxel (x, y, z) to millimeters right, anterior, superior (RAS), 4 x 4. None: the file does not say where it lies."""
    voxels: Callable[[], Array]
    """Read (X, Y, Z, C) after the file's own scale; raises `ReadError`."""
    encode: Callable[[Array, bool], bytes]
    """Encode a mask (X, Y, Z) in the file's format, grid and axes, gzipped or not: the same bytes for the same mask."""


def open_stored(path: Path) -> Stored:
    """Read the header of a volume file. Raises `ReadError`."""
    with as_read_error(path):
        stored = _opener(path)(path)
    claimed = " x ".join(map(str, stored.size)) + (f" x {stored.channels}" if stored.channels != 1 else "")
    if min(*stored.size, stored.channels) < 1:
        raise ReadError(path, f"holds no voxels ({claimed})")
    if prod(stored.size) * stored.channels > MAX_VOXELS:
        raise ReadError(path, f"claims {claimed} voxels, more than {MAX_VOXELS:.0e}: a decompression bomb?")
    return stored


def data_file(path: Path) -> Path | None:
    """Return the file with the voxels, where a header (.mhd, .nhdr) keeps them beside it. Only below its own folder."""
    head = read_start(path, 65536)
    if not (head.startswith(_NRRD) or _META.match(head)):
        return None
    named = _DATA_FILE.search(head.split(b"\n\n")[0] if head.startswith(_NRRD) else head)
    name = named.group(1).decode("utf-8", "replace") if named else "LOCAL"
    if name.upper() == "LOCAL":
        return None
    if name.upper().startswith("LIST") or "%" in name:
        raise ReadError(path, "its numbers lie in a list of files; save it as one file (.mha, .nrrd)")
    target = path.parent / name
    if not target.resolve().is_relative_to(path.parent.resolve()):
        raise ReadError(path, f"names {name}, which lies outside its folder")
    if not target.is_file():
        raise ReadError(path, f"names {name}, which is missing beside it")
    return target


def _opener(path: Path) -> Callable[[Path], Stored]:
    head = read_start(path, _NIFTI_HEAD)
    if head.startswith(_GZIP):
        with _unpacked(path) as stream:
            if _is_nifti(path, stream.read(_NIFTI_HEAD)):
                return _open_nifti
        raise ReadError(path, "gzipped, but no NIfTI inside")
    if _is_nifti(path, head):
        return _open_nifti
    for signatures, opener in ((_NRRD, _open_itk), (_NPY, _open_npy), (_ZIP, _open_npz), (SIGNATURES, _open_tiff)):
        if head.startswith(signatures):
            return opener
    if _META.match(head):
        return _open_itk
    if path.suffix.lower() == ".gz":
        raise ReadError(path, "not gzipped in spite of its name, and no NIfTI either (half a download, or a web page?)")
    raise ReadError(path, "not a volume (NIfTI, NRRD, MHA, MHD, NPY, NPZ, multi-page TIFF)")


# NIfTI-1 and NIfTI-2


def _is_nifti(path: Path, head: bytes) -> bool:
    """Whether these first bytes are a NIfTI header; refuses one without its voxels."""
    lengths = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")} & {348, 540}
    if len(head) < max(lengths, default=0):
        raise ReadError(path, "truncated (half a header)")
    magic = head[4:7] if 540 in lengths else head[344:347]
    if _NIFTI_LENGTHS.get(magic) not in lengths:
        return False
    if magic.startswith(b"ni"):
        raise ReadError(path, "is a header whose voxels lie in another file (.img); save both as one .nii.gz")
    return True


@contextmanager
def _unpacked(path: Path) -> Iterator[Any]:
    """The bytes of a file, out of their gzip where there is one, whatever the file is called."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as stream:
            yield stream


def _open_nifti(path: Path) -> Stored:
    with _unpacked(path) as stream:
        head = stream.read(_NIFTI_HEAD)
    kind, length = (nib.Nifti2Header, 540) if head[4:7] == b"n+2" else (nib.Nifti1Header, 348)
    header: Any = cast(Any, kind)(head[:length], check=False)
    if not 1 <= int(header["dim"][0]) <= 7:
        raise ReadError(path, f"damaged (claims {int(header['dim'][0])} dimensions)")
    header["pixdim"][0] = -1 if header["pixdim"][0] == -1 else 1  # the standard: 0 means 1
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    x, y, z, *further = (*map(int, header.get_data_shape()), 1, 1)
    channels = prod(further) * len(header.get_data_dtype().fields or "1")
    affine = _nifti_affine(header)
    return Stored((x, y, z), channels, affine, lambda: _nifti_voxels(path, header, (x, y, z)), partial(_encode_nifti, header))


def _nifti_affine(header: Any) -> Array:
    """Voxel to RAS mm: sform, else qform, else the voxel size on axes taken for left, posterior, superior as ITK does."""
    scale = np.diag([*3 * [_TO_MM.get(header.get_xyzt_units()[0], 1.0)], 1.0])
    for code, matrix in (("sform_code", header.get_sform), ("qform_code", header.get_qform)):
        if header[code] > 0 and _is_usable(matrix()):
            return np.asarray(scale @ matrix(), float)
    sizes = [size if np.isfinite(size) and size > 0 else 1.0 for size in header["pixdim"][1:4]]
    return np.asarray(scale @ LPS_TO_RAS @ np.diag([*sizes, 1.0]), float)


def _is_usable(matrix: Array) -> bool:
    """Finite, and no axis is without length."""
    return bool(np.isfinite(matrix).all() and abs(np.linalg.det(matrix[:3, :3])) > 1e-12)


def _nifti_voxels(path: Path, header: Any, size: Size) -> Array:
    """Read (X, Y, Z, C) in the stored axes, after the file's slope and intercept (then float32)."""
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    offset, wanted = max(int(header["vox_offset"]), header.sizeof_hdr), prod(map(int, shape)) * dtype.itemsize
    with as_read_error(path), _unpacked(path) as stream:
        ratio = _DEFLATE_RATIO if isinstance(stream, gzip.GzipFile) else 1
        if offset + wanted > path.stat().st_size * ratio:
            raise ReadError(path, f"truncated (its header claims {wanted} bytes of voxels)")
        array: Array = array_from_file(shape, dtype, stream, offset, mmap=False)
        stream.read(1)  # gzip compares its checksum here
    if dtype.fields:
        return structured_to_unstructured(array).reshape(*size, -1)
    scaled = apply_read_scaling(array, *header.get_slope_inter())
    return (scaled if scaled is array else scaled.astype(np.float32)).reshape(*size, -1, order="F")


def _encode_nifti(like: Any, mask: Array, compress: bool) -> bytes:
    """Keep the affine, codes and units of the header `like`, but none of its extensions."""
    header = like.copy()
    shape = header.get_data_shape()[:3]
    header.set_data_dtype(mask.dtype)
    header.set_data_shape(shape)
    header.set_slope_inter(1, 0)
    for field in ("cal_max", "cal_min", "intent_code", "vox_offset"):
        header[field] = 0
    header["intent_name"] = b""
    image: Any = nib.Nifti2Image if header.sizeof_hdr == 540 else nib.Nifti1Image
    data: bytes = image(mask.reshape(shape), None, header).to_bytes()
    return gzip.compress(data, mtime=0) if compress else data  # no time stamp


# NRRD and MetaImage


def _sitk() -> Any:
    """SimpleITK, imported on first use: it takes a third of a second."""
    return import_module("SimpleITK")


def _open_itk(path: Path) -> Stored:
    data_file(path)
    image_io, suffix = ("NrrdImageIO", "nrrd") if read_start(path, 4) == _NRRD else ("MetaImageIO", "mha")
    reader = _sitk().ImageFileReader()
    reader.SetImageIO(image_io)  # by content: the suffix may be wrong
    reader.SetFileName(str(path))
    with _itk_as_read_error(path):
        reader.ReadImageInformation()
    x, y, z, *further = (*map(int, reader.GetSize()), 1)[: max(3, reader.GetDimension())]
    axes = min(reader.GetDimension(), 3)
    affine = np.eye(4)
    affine[:axes, :axes] = _itk_direction(reader) * reader.GetSpacing()[:axes]
    affine[:axes, 3] = reader.GetOrigin()[:axes]
    usable = LPS_TO_RAS @ affine if _is_usable(affine) else None
    channels = prod(further) * int(reader.GetNumberOfComponents())
    return Stored((x, y, z), channels, usable, lambda: _itk_voxels(path, reader, (x, y, z)), partial(_encode_itk, reader, suffix))


def _itk_direction(reader: Any) -> Array:
    """The directions of the first three axes at most."""
    axes: int = reader.GetDimension()
    return np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]


def _itk_voxels(path: Path, reader: Any, size: Size) -> Array:
    axes: int = reader.GetDimension()
    with _itk_as_read_error(path):
        array = _sitk().GetArrayFromImage(reader.Execute())
    array = array.reshape(*array.shape[:axes], -1)  # channels last
    return np.asarray(array.transpose(*reversed(range(axes)), axes).reshape(*size, -1))


def _encode_itk(reader: Any, suffix: str, mask: Array, compress: bool) -> bytes:
    """One file, voxels included, also where the image is a header with its voxels beside it."""
    axes = min(reader.GetDimension(), 3)
    image = _sitk().GetImageFromArray(mask.reshape(mask.shape[:axes]).T)
    image.SetSpacing(reader.GetSpacing()[:axes])
    image.SetOrigin(reader.GetOrigin()[:axes])
    image.SetDirection(_itk_direction(reader).ravel().tolist())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"mask.{suffix}")
        _sitk().WriteImage(image, str(file), useCompression=True)
        return file.read_bytes()


@contextmanager
def _itk_as_read_error(path: Path) -> Iterator[None]:
    """ITK's message begins with the place in its own source; only teem (NRRD) gives the cause, in the last line."""
    try:
        yield
    except RuntimeError as error:
        *_, last = str(error).strip().splitlines()
        why = f" ({last.removeprefix('[nrrd] ')})" if last.startswith("[nrrd]") else ""
        raise ReadError(path, f"damaged or truncated{why}") from error


# NumPy and TIFF: nothing but the array


def _open_npy(path: Path) -> Stored:
    with path.open("rb") as file:
        shape = _npy_shape(path, file)
    # mapped, so that it fails before anything is allocated
    return _plain(path, shape, lambda: np.array(np.load(path, mmap_mode="r", allow_pickle=False)), _npy_bytes)


def _open_npz(path: Path) -> Stored:
    """Read the one array in it; single numbers and lists beside it (a spacing, say) are left alone."""
    with zipfile.ZipFile(path) as archive:
        shapes = {}
        for name in archive.namelist():
            with archive.open(name) as file:
                shapes[name] = _npy_shape(path, file)
    names = [name for name, shape in shapes.items() if len(shape) > 1]
    if len(names) != 1:
        raise ReadError(path, f"expected one array, it holds {', '.join(n.removesuffix('.npy') for n in shapes) or 'none'}")

    def load() -> Array:
        with zipfile.ZipFile(path) as archive, archive.open(names[0]) as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))

    return _plain(path, shapes[names[0]], load, _npz_bytes)


def _npy_shape(path: Path, file: IO[bytes]) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ReadError(path, "holds Python objects, which may run code when they are opened: refused")
    return shape


def _plain(path: Path, shape: tuple[int, ...], load: Callable[[], Array], encoded: Callable[[Array], bytes]) -> Stored:
    """(D, H, W, C), (D, H, W), (H, W), or (H, W, 3 or 4) in color: what else could so thin a volume be?"""
    if not 2 <= len(shape) <= 4:
        raise ReadError(path, f"has {len(shape)} dimensions; expected (H, W), (D, H, W) or (D, H, W, C)")
    color = len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) > 4
    full = {2: (1, *shape, 1), 3: (1, *shape) if color else (*shape, 1), 4: shape}[len(shape)]
    depth, rows, columns, channels = (int(n) for n in full)

    def voxels() -> Array:
        with as_read_error(path):
            return load().reshape(depth, rows, columns, -1).transpose(2, 1, 0, 3)

    def encode(mask: Array, compress: bool) -> bytes:
        """(D, H, W), or (H, W) of a single slice."""
        array = np.ascontiguousarray(mask.transpose(2, 1, 0))
        return encoded(array[0] if len(array) == 1 else array)

    return Stored((columns, rows, depth), channels, None, voxels, encode)


def _npy_bytes(array: Array) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _npz_bytes(array: Array) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("mask.npy"), _npy_bytes(array), zipfile.ZIP_DEFLATED)  # no time stamp
    return out.getvalue()


def _open_tiff(path: Path) -> Stored:
    with tifffile.TiffFile(path) as tiff:
        count_pages(path, tiff)
        pages = [(page.shape, page.dtype) for page in tiff.pages]
    if len(set(pages)) > 1:
        raise ReadError(path, f"its {len(pages)} pages differ in size or kind; slices of one volume are alike")
    rows, columns, channels = (*pages[0][0], 1)[:3]
    shape = (len(pages), rows, columns, channels)
    return _plain(path, shape, lambda: np.stack([read_page(path, page, indices=True) for page in range(len(pages))]), _tiff_bytes)


def _tiff_bytes(array: Array) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, photometric="minisblack", compression="zlib")
    return out.getvalue()
