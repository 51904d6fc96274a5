"""Readers and writers of image, volume, DICOM and annotation files, thin over the libraries that decode them.

`images` reads PNG, JPEG, BMP, GIF; `tiff` pages of a TIFF; `volumes` NIfTI, NRRD, MetaImage, NumPy and multi-page TIFF in a
chosen orientation, and writes masks on their grid (`formats`: as they are stored); `dicom` and `dicom_series` images,
DICOM-SEG and RTSTRUCT; `polygons` shapes of LabelMe; `rle` run-length codes. `base` holds what they share: `ReadError`,
suffixes, size limits. All of it imports `segkit.system` only; `dicom` also `data.slices`, which keeps decoded files in memory.

The names exported here are what a source of one's own needs: `Pixels` of files, and the error of a file that cannot be read.
Each is imported when it is used, as the libraries behind them take up to half a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.data.io.base import ReadError
    from segkit.data.io.dicom import DicomSlice
    from segkit.data.io.images import ImageFile, MaskFile, read_image, read_mask
    from segkit.data.io.rle import RunLength
    from segkit.data.io.volumes import VolumeFile, VolumeMask, write_like

_HOMES = {"ReadError": "base", "DicomSlice": "dicom", "RunLength": "rle", "VolumeFile": "volumes", "VolumeMask": "volumes"}
_HOMES |= {"ImageFile": "images", "MaskFile": "images", "read_image": "images", "read_mask": "images", "write_like": "volumes"}
__all__ = [
    "DicomSlice",
    "ImageFile",
    "MaskFile",
    "ReadError",
    "RunLength",
    "VolumeFile",
    "VolumeMask",
    "read_image",
    "read_mask",
    "write_like",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
