"""Readers and writers of image, volume, DICOM and annotation files, thin over the libraries that decode them.

`images` reads PNG, JPEG, BMP, GIF; `tiff` pages of a TIFF; `volumes` NIfTI, NRRD, MetaImage, NumPy and multi-page TIFF in a
chosen orientation, and writes masks on their grid (`formats`: as they are stored); `dicom` and `dicom_series` images,
DICOM-SEG and RTSTRUCT; `polygons` shapes of LabelMe; `rle` run-length codes. `base` holds what they share: `ReadError`,
suffixes, size limits. All of it imports `segkit.system` only; `dicom` also `data.slices`, which keeps decoded files in memory.
"""
