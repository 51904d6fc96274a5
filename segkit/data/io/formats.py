"""Volume files as they are stored, by format: NIfTI, NRRD, MetaImage (MHA, MHD), NumPy and multi-page TIFF. Orientation: `volumes.py`.

The first bytes of a file decide on its format. A header is believed only as far as the file can hold what it claims, so that
neither a damaged nor a malicious one fills the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segkit.data.io.arrays import open_npy, open_npz, open_tiff
from segkit.data.io.base import ReadError, as_read_error, read_start
from segkit.data.io.itk import open_meta, open_nrrd
from segkit.data.io.nifti import GZIP, HEAD, is_nifti, open_nifti, unpacked
from segkit.data.io.stored import Stored
from segkit.data.io.text_header import is_meta, is_nrrd
from segkit.data.io.tiff import SIGNATURES

_ZIP, _NPY = b"PK\x03\x04", b"\x93NUMPY"


def open_stored(path: Path) -> Stored:
    """Read the header of a volume file. Raises `ReadError`."""
    with as_read_error(path):
        return _opener(path)(path).check(path)


def _opener(path: Path) -> Callable[[Path], Stored]:
    head = read_start(path, HEAD)
    if head.startswith(GZIP):
        with unpacked(path) as stream:
            if is_nifti(path, stream.read(HEAD)):
                return open_nifti
        raise ReadError(path, "gzipped, but no NIfTI inside")
    if is_nifti(path, head):
        return open_nifti
    for signatures, opener in ((_NPY, open_npy), (_ZIP, open_npz), (SIGNATURES, open_tiff)):
        if head.startswith(signatures):
            return opener
    if is_nrrd(head) or is_meta(head):
        return open_nrrd if is_nrrd(head) else open_meta
    if path.suffix.lower() == ".gz":
        raise ReadError(path, "not gzipped in spite of its name, and no NIfTI either (half a download, or a web page?)")
    raise ReadError(path, "not a volume (NIfTI, NRRD, MHA, MHD, NPY, NPZ, multi-page TIFF)")
