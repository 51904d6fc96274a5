"""NRRD and MetaImage (MHA, MHD). ITK reads their grids, and the voxels of NRRD; those of MetaImage are read here, as ITK's
reader writes to the terminal, and does not stop, where some are missing.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.io.base import Array, ReadError, as_read_error
from segkit.data.io.stored import LPS_TO_RAS, MAX_VOXELS, Size, Stored, check_length, is_usable
from segkit.data.io.text_header import TextHeader, text_header

_TRUE = ("true", "t", "1")
_GEOMETRY = ("offset", "position", "origin", "elementspacing", "elementsize", "centerofrotation")
_DIRECTIONS = ("transformmatrix", "rotation", "orientation")


def open_nrrd(path: Path) -> Stored:
    """Read the header. Raises `ReadError`."""
    header = text_header(path)
    assert header is not None
    claimed = header.count("dimension", "sizes") * np.dtype(header.type("type")).itemsize
    if header.fields.get("encoding", "").lower() == "raw" and header.integers("lineskip", "0") == [0]:
        header.plain(claimed, "byteskip")
    reader = _reader(path, "NrrdImageIO")
    return _stored(path, reader, "nrrd", lambda size: _itk_voxels(path, reader, size))


def open_meta(path: Path) -> Stored:
    """Read the header. Raises `ReadError`."""
    header = text_header(path)
    assert header is not None
    channels = header.integers("elementnumberofchannels", "1")
    if len(channels) != 1 or not 1 <= channels[0] <= MAX_VOXELS:
        raise header.damaged("elementnumberofchannels")
    claimed = header.count("ndims", "dimsize") * channels[0] * np.dtype(header.type("elementtype")).itemsize
    if not _says(header, "binarydata"):
        raise ReadError(path, "holds its numbers as text, or does not say how; save it again as .mha, with BinaryData = True")
    if not _says(header, "compresseddata"):
        header.plain(claimed, "headersize")
    (axes,) = header.integers("ndims")
    for key in _GEOMETRY:
        header.check_numbers(key, axes)
    for key in _DIRECTIONS:
        header.check_numbers(key, axes**2)
    header.check_numbers("compresseddatasize", 1)
    reader = _reader(path, "MetaImageIO")
    return _stored(path, reader, "mha", lambda size: _meta_voxels(header, claimed, size))


def _says(header: TextHeader, key: str) -> bool:
    return header.fields.get(key, "").lower() in _TRUE


def _sitk() -> Any:
    """SimpleITK, imported on first use: it takes a third of a second."""
    return import_module("SimpleITK")


def _reader(path: Path, image_io: str) -> Any:
    reader = _sitk().ImageFileReader()
    reader.SetImageIO(image_io)  # by content: the suffix may be wrong
    reader.SetFileName(str(path))
    with _itk_as_read_error(path):
        reader.ReadImageInformation()
    return reader


def _stored(path: Path, reader: Any, suffix: str, voxels: Callable[[Size], Array]) -> Stored:
    x, y, z, *further = (*map(int, reader.GetSize()), 1)[: max(3, reader.GetDimension())]
    axes = min(reader.GetDimension(), 3)
    affine = np.eye(4)
    affine[:axes, :axes] = _itk_direction(reader) * reader.GetSpacing()[:axes]
    affine[:axes, 3] = reader.GetOrigin()[:axes]
    if not np.isfinite(affine).all():
        raise ReadError(path, "damaged (its spacing, origin or directions are not finite)")
    usable = LPS_TO_RAS @ affine if is_usable(affine) else None
    channels = prod(further) * int(reader.GetNumberOfComponents())
    return Stored((x, y, z), channels, usable, lambda: voxels((x, y, z)), partial(_encode_itk, reader, suffix), prod(further))


def _itk_direction(reader: Any) -> Array:
    """The directions of the first three axes at most."""
    axes: int = reader.GetDimension()
    return np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]


def _meta_voxels(header: TextHeader, claimed: int, size: Size) -> Array:
    """Read (X, Y, Z, C) of a MetaImage, plain or compressed."""
    with as_read_error(header.path):
        data = _inflated(header, claimed) if _says(header, "compresseddata") else _plain(header, claimed)
        is_big = _says(header, "binarydatabyteordermsb") or _says(header, "elementbyteordermsb")
        array = np.array(np.frombuffer(data, np.dtype(header.type("elementtype")).newbyteorder(">" if is_big else "<")))
        lengths = header.integers("dimsize")
        array = array.reshape(*reversed(lengths), -1)  # channels last
        return np.asarray(array.transpose(*reversed(range(len(lengths))), len(lengths)).reshape(*size, -1))


def _plain(header: TextHeader, claimed: int) -> bytes:
    with header.data.open("rb") as file:
        file.seek(header.plain(claimed, "headersize"))
        return file.read(claimed)


def _inflated(header: TextHeader, claimed: int) -> bytes:
    """Decompress, and compare the checksum."""
    packed = zlib.decompressobj(wbits=47)  # zlib or gzip
    with header.data.open("rb") as file:
        file.seek(header.end)
        data = packed.decompress(file.read(), claimed + 1)
    if not packed.eof:
        data += packed.decompress(packed.unconsumed_tail, 1)
    check_length(header.path, claimed, len(data))
    if not packed.eof:
        raise ReadError(header.path, "truncated (its compressed voxels do not end)")
    return data


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
