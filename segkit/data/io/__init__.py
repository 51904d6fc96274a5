"""Readers and writers of image, volume, DICOM and annotation files, thin over the libraries that decode them.

`images` reads PNG, JPEG, BMP, GIF; `tiff` pages of a TIFF; `volumes` NIfTI, NRRD, MetaImage, NumPy and multi-page TIFF in a
chosen orientation, and writes masks on their grid (`formats`: as they are stored); `dicom` and `dicom_series` images,
DICOM-SEG and RTSTRUCT; `masks` makes label maps of mask files (whole numbers, or a threshold); `polygons` shapes of LabelMe;
`rle` run-length codes. `base` holds what they share: `ReadError`, suffixes, size limits, tables. All of it imports
`segkit.system` and `data.labels` only; `dicom` also `data.slices`, which keeps decoded files in memory.

The names exported here are what a source of one's own needs: `Pixels` of files, and the error of a file that cannot be read.
Each is imported when it is used, as the libraries behind them take up to half a second.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
