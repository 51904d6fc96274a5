"""Volume files as they are stored: NIfTI, NRRD, MetaImage (MHA, MHD), NumPy and multi-page TIFF. Orientation: `volumes.py`.

The format is told by the first bytes of a file. A header is believed only as far as the file can hold what it claims, so
that neither a damaged nor a malicious one fills the memory.
"""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import tifffile

from segkit.data.io import nifti
from segkit.data.io.base import ReadError, as_read_error
from segkit.data.io.nifti import GZIP, LPS_TO_RAS
from segkit.data.io.tiff import count_pages, read_page, tiff_pages

Array = npt.NDArray[Any]
Size = tuple[int, int, int]

KINDS = "NIfTI, NRRD, MHA, MHD, NPY, NPZ, multi-page TIFF"
MAX_VOXELS = 4 * 10**9
"""A larger volume is taken for a decompression bomb."""
_ZIP, _NPY, _NRRD = b"PK\x03\x04", b"\x93NUMPY", b"NRRD"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_META = re.compile(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=")
_DATA_FILE = re.compile(rb"^\s*(?:ElementDataFile\s*=|data ?file:)\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Stored:
    """A file's grid in its own axes (x, y, z), and how to reach its numbers."""

    kind: str
    size: Size
    channels: int
    affine: Array | None
    """Voxel (x, y, z) to millimetres right, anterior, superior (RAS), 4 x 4. None: the file does not say where it lies."""
    voxels: Callable[[], Array]
    """(X, Y, Z, C) after the file's own scale; raises `ReadError`."""


def open_stored(path: Path) -> Stored:
    """What the header says. Raises `ReadError`."""
    with as_read_error(path):
        kind = _kind(path)
        stored = _OPEN[kind](path, kind)
    claimed = " x ".join(map(str, stored.size)) + (f" x {stored.channels}" if stored.channels != 1 else "")
    if min(*stored.size, stored.channels) < 1:
        raise ReadError(path, f"holds no voxels ({claimed})")
    if prod(stored.size) * stored.channels > MAX_VOXELS:
        raise ReadError(path, f"claims {claimed} voxels, more than {MAX_VOXELS:.0e}: a decompression bomb?")
    return stored


def encode_like(mask: Array, like: Path, compress: bool) -> bytes:
    """A file of `like`'s format, grid and axes that holds `mask` (X, Y, Z); the same bytes for the same mask."""
    kind = _kind(like)
    return _ENCODE[kind](mask, like, compress)


def data_file(path: Path) -> Path | None:
    """The file with the numbers, where a header (.mhd, .nhdr) keeps them beside it. Only below its own folder."""
    head = _head(path, 65536)
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


# which format


def _kind(path: Path) -> str:
    head = _head(path, nifti.HEAD)
    if head.startswith(GZIP):
        with nifti.unpacked(path) as stream:
            if nifti.is_nifti(path, stream.read(nifti.HEAD)):
                return "nifti"
        raise ReadError(path, "gzipped, but no NIfTI inside")
    if nifti.is_nifti(path, head):
        return "nifti"
    for magic, kind in ((_NRRD, "nrrd"), (_NPY, "npy"), (_ZIP, "npz"), *((magic, "tiff") for magic in _TIFF)):
        if head.startswith(magic):
            return kind
    if _META.match(head):
        return "meta"
    if path.suffix.lower() == ".gz":
        raise ReadError(path, "not gzipped in spite of its name, and no NIfTI either (half a download, or a web page?)")
    raise ReadError(path, f"not a volume ({KINDS})")


def _head(path: Path, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(length)
    except FileNotFoundError:
        raise ReadError(path, "is missing") from None
    except OSError as error:
        raise ReadError(path, f"cannot be opened ({error.strerror or error})") from error
    if not head:
        raise ReadError(path, "zero bytes")
    return head


def _open_nifti(path: Path, kind: str) -> Stored:
    header = nifti.read_header(path)
    size, channels = nifti.grid(header)
    return Stored(kind, size, channels, nifti.affine(header), lambda: nifti.read_voxels(path, header))


# NRRD and MetaImage


def _itk_reader(path: Path, kind: str) -> Any:
    reader = _sitk().ImageFileReader()
    reader.SetImageIO(_IMAGE_IO[kind])  # told by content: the suffix may be wrong
    reader.SetFileName(str(path))
    with _itk_failures_told(path):
        reader.ReadImageInformation()
    return reader


def _open_itk(path: Path, kind: str) -> Stored:
    data_file(path)
    reader = _itk_reader(path, kind)
    shape, colours = tuple(map(int, reader.GetSize())), int(reader.GetNumberOfComponents())
    x, y, z = (*shape, 1)[:3]

    def voxels() -> Array:
        with _itk_failures_told(path):
            array = _sitk().GetArrayFromImage(reader.Execute())
        array = array if colours > 1 else array[..., None]
        return np.asarray(array.transpose(*reversed(range(len(shape))), len(shape)).reshape(x, y, z, -1))

    return Stored(kind, (x, y, z), prod(shape[3:]) * colours, _itk_affine(reader), voxels)


def _itk_affine(reader: Any) -> Array | None:
    axes = min(reader.GetDimension(), 3)
    affine = np.eye(4)
    affine[:axes, :axes] = _itk_direction(reader) * reader.GetSpacing()[:axes]
    affine[:axes, 3] = reader.GetOrigin()[:axes]
    return LPS_TO_RAS @ affine if nifti.is_usable(affine) else None


def _itk_direction(reader: Any) -> Array:
    """Of the first three axes at most."""
    axes: int = reader.GetDimension()
    return np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]


def _encode_itk(mask: Array, like: Path, compress: bool) -> bytes:
    """One file, voxels included, also where `like` is a header with its voxels beside it."""
    kind = _kind(like)
    reader = _itk_reader(like, kind)
    axes = min(reader.GetDimension(), 3)
    image = _sitk().GetImageFromArray(mask.reshape(mask.shape[:axes]).T)
    image.SetSpacing(reader.GetSpacing()[:axes])
    image.SetOrigin(reader.GetOrigin()[:axes])
    image.SetDirection(_itk_direction(reader).ravel().tolist())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"mask.{'nrrd' if kind == 'nrrd' else 'mha'}")
        _sitk().WriteImage(image, str(file), useCompression=True)
        return file.read_bytes()


def _sitk() -> Any:
    """Loaded where it is needed: it takes a third of a second."""
    return import_module("SimpleITK")


@contextmanager
def _itk_failures_told(path: Path) -> Iterator[None]:
    """ITK says first where in its own source a thing went wrong; what it was, only teem (NRRD) says, last."""
    try:
        yield
    except RuntimeError as error:
        *_, last = str(error).strip().splitlines()
        why = f" ({last.removeprefix('[nrrd] ')})" if last.startswith("[nrrd]") else ""
        raise ReadError(path, f"damaged or truncated{why}") from error


# NumPy


def _open_npy(path: Path, kind: str) -> Stored:
    with path.open("rb") as file:
        shape = _npy_shape(path, file)

    def voxels() -> Array:
        with as_read_error(path):
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # mapped: fails before anything is allocated

    return _plain(kind, path, shape, voxels)


def _open_npz(path: Path, kind: str) -> Stored:
    """The one array in it; single numbers and lists beside it (a spacing, say) are left alone."""
    with zipfile.ZipFile(path) as archive:
        shapes = {}
        for name in archive.namelist():
            with archive.open(name) as file:
                shapes[name] = _npy_shape(path, file)
    names = [name for name, shape in shapes.items() if len(shape) > 1]
    if len(names) != 1:
        raise ReadError(path, f"one array is wanted, it holds {', '.join(n.removesuffix('.npy') for n in shapes) or 'none'}")

    def voxels() -> Array:
        with as_read_error(path), zipfile.ZipFile(path) as archive, archive.open(names[0]) as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))

    return _plain(kind, path, shapes[names[0]], voxels)


def _npy_shape(path: Path, file: IO[bytes]) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ReadError(path, "holds Python objects, which may run code when they are opened: refused")
    return shape


def _plain(kind: str, path: Path, shape: tuple[int, ...], voxels: Callable[[], Array]) -> Stored:
    """(D, H, W, C), (D, H, W), (H, W), or (H, W, 3 or 4) in colour: what else could so thin a volume be?"""
    if not 2 <= len(shape) <= 4:
        raise ReadError(path, f"has {len(shape)} dimensions; (H, W), (D, H, W) or (D, H, W, C) is wanted")
    colour = len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) > 4
    full = {2: (1, *shape, 1), 3: (1, *shape) if colour else (*shape, 1), 4: shape}[len(shape)]
    depth, rows, columns, channels = (int(n) for n in full)
    return Stored(kind, (columns, rows, depth), channels, None, lambda: voxels().reshape(full).transpose(2, 1, 0, 3))


def _encode_npy(mask: Array, like: Path, compress: bool) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, _as_plain(mask, like), allow_pickle=False)
    return out.getvalue()


def _encode_npz(mask: Array, like: Path, compress: bool) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("mask.npy"), _encode_npy(mask, like, compress), zipfile.ZIP_DEFLATED)  # no time stamp
    return out.getvalue()


def _as_plain(mask: Array, like: Path) -> Array:
    """(D, H, W), or (H, W) of a single slice."""
    array = np.ascontiguousarray(mask.transpose(2, 1, 0))
    return array[0] if len(array) == 1 else array


# TIFF


def _open_tiff(path: Path, kind: str) -> Stored:
    with tifffile.TiffFile(path) as tiff:
        count_pages(path, tiff)
        pages = [(page.shape, page.dtype) for page in tiff.pages]
    if len(set(pages)) > 1:
        raise ReadError(path, f"its {len(pages)} pages differ in size or kind; slices of one volume are alike")
    rows, columns, channels = (*pages[0][0], 1)[:3]
    return Stored(kind, (columns, rows, len(pages)), channels, None, lambda: _tiff_voxels(path))


def _tiff_voxels(path: Path) -> Array:
    slices = [read_page(path, page, indices=True) for page in range(tiff_pages(path))]
    array = np.stack([one if one.ndim == 3 else one[..., None] for one in slices])
    return array.transpose(2, 1, 0, 3)


def _encode_tiff(mask: Array, like: Path, compress: bool) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, _as_plain(mask, like), photometric="minisblack", compression="zlib")
    return out.getvalue()


_IMAGE_IO = {"nrrd": "NrrdImageIO", "meta": "MetaImageIO"}
_OPEN: dict[str, Callable[[Path, str], Stored]] = {
    "nifti": _open_nifti,
    "nrrd": _open_itk,
    "meta": _open_itk,
    "npy": _open_npy,
    "npz": _open_npz,
    "tiff": _open_tiff,
}
_ENCODE: dict[str, Callable[[Array, Path, bool], bytes]] = {
    "nifti": nifti.encode_like,
    "nrrd": _encode_itk,
    "meta": _encode_itk,
    "npy": _encode_npy,
    "npz": _encode_npz,
    "tiff": _encode_tiff,
}
