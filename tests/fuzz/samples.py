"""Small data sets, one a format, of which one file is damaged; and an independent reader of that file."""

from __future__ import annotations

import gzip
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import nibabel as nib
import numpy as np
import SimpleITK as sitk
import tifffile
from PIL import Image

from segkit.data.sources.coco import Coco
from segkit.data.sources.dicom import Dicom
from segkit.data.sources.labelme import LabelMe
from segkit.data.sources.nerve import Nerve

Array = np.ndarray
Files = dict[str, bytes]


@dataclass(frozen=True)
class Sample:
    """A sound data set, and the file of it that is damaged."""

    name: str
    source: str
    file: str
    form: str
    """The key of `mutations.BY_FORMAT`."""
    files: Files
    dims: Literal[2, 3] = 2
    pixels_at: tuple[int, int] = (0, 0)
    """The first and last byte of plain pixels without a checksum: no reader can know that one has changed."""
    reader: Callable[[Path], Array] | None = None
    """Reads the file without segkit; None for annotations, whose words and numbers mean what they say."""

    @property
    def data(self) -> bytes:
        return self.files[self.file]


@cache
def samples() -> dict[str, Sample]:
    every = (*_pictures(), *_volumes(), *_annotations())
    return {sample.name: sample for sample in every}


# images


def _picture() -> tuple[Array, Array]:
    """Gray (24, 20), never flat, and its mask of 0 and 1."""
    rows, columns = np.mgrid[:24, :20]
    gray = (40 + 5 * rows + 4 * columns + np.random.default_rng(0).integers(0, 9, (24, 20))).astype(np.uint8)
    return gray, ((rows - 12) ** 2 + (columns - 9) ** 2 < 36).astype(np.uint8)


def _tiff(pixels: Array, **how: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, software="", metadata=None, **{"photometric": "minisblack", **how})
    return out.getvalue()


def _encoded(suffix: str, pixels: Array) -> bytes:
    return bytes(cv2.imencode(suffix, pixels)[1])


def _pillow(path: Path) -> Array:
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")
        return np.asarray(image)


def _pictures() -> list[Sample]:
    gray, mask = _picture()
    color = np.stack([gray, gray[::-1], gray[:, ::-1]], axis=-1)
    palette = io.BytesIO()
    paletted = Image.fromarray(mask, "P")
    paletted.putpalette([0, 0, 0, 255, 0, 0])
    paletted.save(palette, "PNG")
    good_image, good_mask = _encoded(".png", gray), _encoded(".png", mask)
    plain = _tiff(gray)
    at = plain.find(gray.tobytes())
    images = {
        "png": (_encoded(".png", gray), _pillow),
        "png16": (_encoded(".png", gray.astype(np.uint16) * 200), _pillow),
        "jpg": (_encoded(".jpg", color), _pillow),
        "jpg gray": (_encoded(".jpg", gray), _pillow),
        "tif": (plain, tifffile.imread),
        "tif deflate": (_tiff(gray, compression="zlib", rowsperstrip=8), tifffile.imread),
        "tif lzw": (_tiff(color, compression="lzw", photometric="rgb"), tifffile.imread),
    }
    found = [
        Sample(name, "Folder", f"images/a.{name[:3]}", name[:3], {f"images/a.{name[:3]}": data, "masks/a.png": good_mask}, reader=reader)
        for name, (data, reader) in images.items()
    ]
    found[4] = Sample(**{**vars(found[4]), "pixels_at": (at, at + gray.size)})
    for name, data in (("png mask", good_mask), ("png palette mask", palette.getvalue())):
        found.append(Sample(name, "Folder", "masks/a.png", "png", {"images/a.png": good_image, "masks/a.png": data}, reader=_pillow))
    return found


# volumes


def _volume() -> tuple[Array, Array]:
    """(4, 12, 10) int16, and its mask of 0, 1."""
    z, y, x = np.mgrid[:4, :12, :10]
    values = (100 * z + 9 * y + 7 * x + np.random.default_rng(1).integers(0, 5, z.shape)).astype(np.int16)
    return values, ((y - 6) ** 2 + (x - 5) ** 2 < 12).astype(np.uint8)


def _itk(name: str, volume: Array, compress: bool = False) -> Files:
    """The files that SimpleITK writes."""
    with tempfile.TemporaryDirectory() as folder:
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(Path(folder, name)), useCompression=compress)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _nifti(volume: Array, kind: Any = nib.Nifti1Image) -> bytes:
    return bytes(kind(volume.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.0, 1.0])).to_bytes())


def _numpy(save: Callable[..., None], volume: Array) -> bytes:
    out = io.BytesIO()
    save(out, volume)
    return out.getvalue()


def _read_nifti(path: Path) -> Array:
    data = path.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    kind: Any = nib.Nifti2Image if data[4:7] == b"n+2" else nib.Nifti1Image
    remarks = logging.getLogger("nibabel.global")
    remarks.disabled = True
    try:
        return np.asarray(kind.from_bytes(data).dataobj)
    finally:
        remarks.disabled = False


def _read_itk(path: Path) -> Array:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def _read_numpy(path: Path) -> Array:
    found = np.load(path)
    return found if isinstance(found, np.ndarray) else next(found[name] for name in found)


def _volumes() -> list[Sample]:
    volume, mask = _volume()
    raw = volume.tobytes()
    one, two = _nifti(volume), _nifti(volume, nib.Nifti2Image)
    plain = {
        "nii": (one, "nii", _read_nifti),
        "nii of nifti-2": (two, "nii", _read_nifti),
        "nii.gz": (gzip.compress(one, mtime=0), "nii", _read_nifti),
        "nrrd": (_itk("a.nrrd", volume)["a.nrrd"], "text", _read_itk),
        "nrrd gzip": (_itk("a.nrrd", volume, True)["a.nrrd"], "text", _read_itk),
        "mha": (_itk("a.mha", volume)["a.mha"], "text", _read_itk),
        "mha zlib": (_itk("a.mha", volume, True)["a.mha"], "text", _read_itk),
        "npy": (_numpy(np.save, volume), "text", _read_numpy),
        "npz": (_numpy(np.savez_compressed, volume), "npz", _read_numpy),
        "tif stack": (_tiff(volume.astype(np.uint16)), "tif", tifffile.imread),
    }
    found = []
    for name, (data, form, reader) in plain.items():
        suffix = name.split()[0]
        good = {"nii": _nifti(mask), "nii.gz": _nifti(mask), "nrrd": _itk("a.nrrd", mask), "mha": _itk("a.mha", mask)}.get(suffix)
        good = good or {"a.npy": _numpy(np.save, mask)}
        other = good if isinstance(good, dict) else {"a.nii": good}
        files = {f"images/a.{suffix}": data, **{f"masks/{key}": value for key, value in other.items()}}
        at = data.find(raw)
        place = (at, at + len(raw)) if at > 0 else (0, 0)
        found.append(Sample(name, "Folder", f"images/a.{suffix}", form, files, 3, place, reader))
    files = {f"images/{name}": data for name, data in _itk("a.mhd", volume).items()}
    files |= {"masks/a.mha": _itk("a.mha", mask)["a.mha"]}
    found.append(Sample("mhd", "Folder", "images/a.mhd", "text", files, 3, reader=_read_itk))
    return found


# DICOM and annotations


def _written(write: Callable[[Path], None]) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def _annotations() -> list[Sample]:
    dicom = _written(lambda root: Dicom(root).write_phantom(root, 1, 0))
    image = min(name for name in dicom if "ct_" in name)
    found = [
        Sample("dicom", "Dicom", image, "dcm", dicom, pixels_at=(_pixel_data(dicom[image]), len(dicom[image]))),
        Sample("dicom seg", "Dicom", min(name for name in dicom if name.endswith("seg.dcm")), "dcm", dicom),
    ]
    labelme = _written(lambda root: LabelMe(root).write_phantom(root, 3, 0))
    documents = [name for name in labelme if name.endswith(".json")]
    found.append(Sample("labelme", "LabelMe", documents[0], "json", labelme))
    found.append(Sample("labelme image inside", "LabelMe", documents[2], "json", labelme))
    found.append(Sample("coco", "Coco", "annotations.json", "json", _written(lambda root: Coco(root).write_phantom(root, 3, 0))))
    nerve = _written(lambda root: Nerve(root).write_phantom(root, 2, 0))
    nerve = {name: data for name, data in nerve.items() if not name.endswith("_mask.tif")}
    found.append(Sample("rle csv", "Nerve", "train_masks.csv", "csv", nerve))
    gray, mask = _picture()
    table = b"id,image,mask,group,spacing\n" + b"".join(b"case%d,a.png,m.png,p%d,0.2\n" % (i, i) for i in range(2))
    files = {"cases.csv": table, "a.png": _encoded(".png", gray), "m.png": _encoded(".png", mask)}
    found.append(Sample("csv", "Csv", "cases.csv", "csv", files))
    volume, labels = _volume()
    nifti, label = gzip.compress(_nifti(volume), mtime=0), gzip.compress(_nifti(labels), mtime=0)
    names = {"background": 0, "organ": 1}
    card = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": 1, "file_ending": ".nii.gz"}
    files = {"dataset.json": json.dumps(card).encode(), "imagesTr/a_0000.nii.gz": nifti, "labelsTr/a.nii.gz": label}
    found.append(Sample("nnunet dataset.json", "NnUNet", "dataset.json", "json", files, 3))
    listed = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    card = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}, "training": [listed]}
    files = {"dataset.json": json.dumps(card).encode(), "imagesTr/a.nii.gz": nifti, "labelsTr/a.nii.gz": label}
    found.append(Sample("decathlon dataset.json", "Decathlon", "dataset.json", "json", files, 3))
    return found


def _pixel_data(data: bytes) -> int:
    """Where the numbers of PixelData begin, in explicit little endian."""
    return data.find(b"\xe0\x7f\x10\x00OW") + 12
