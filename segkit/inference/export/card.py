"""The card of an exported file: the metadata of its checkpoint as JSON, and under `export` what the file takes and gives.

It lies beside the file, under its name and `.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from segkit.config import messages
from segkit.config.schema import Hash, Positive, Size, Strict
from segkit.models.metadata import METADATA_KEY, Metadata, read_metadata
from segkit.system.errors import ProblemsFound, SegkitError, of_file
from segkit.system.files import write_text_atomic
from segkit.system.plain import read_json
from segkit.system.shell import override

Format = Literal["onnx", "openvino", "torchscript", "pt2"]
FilePrecision = Literal["fp32", "fp16", "int8"]
SECTION = "export"
AGAIN = "export the checkpoint again"


class Exported(Strict):
    """What the card says of the file itself."""

    format: Format
    precision: FilePrecision
    size: Size | None
    """Rows and columns (of volumes slices, rows and columns) of each image; None: any."""
    batch: Positive | None
    """Images at once; None: any number."""
    classes: list[str]
    """The class k of a mask is `classes[k - 1]`, 0 is background; of overlapping classes the plane k is `classes[k]`."""
    image: str
    probabilities: str
    mask: str
    sha256: Hash | None = None
    """Of the file, and of the weights beside it; without it, the file is not compared."""
    checkpoint_sha256: Hash | None = None
    parity: Annotated[dict[str, float], Field(default_factory=dict)]
    """What the export has found in comparison with torch."""
    versions: Annotated[dict[str, str], Field(default_factory=dict)]


def card_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def weights_of(path: Path) -> list[Path]:
    """The files of an export: OpenVINO keeps its weights in one of their own."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def write(path: Path, metadata: Metadata, about: Exported) -> None:
    """Write the card of the file at `path`, which is there already."""
    section = about.model_copy(update={"sha256": digest(path)}).model_dump()
    write_text_atomic(card_of(path), json.dumps({**metadata.as_dict(), SECTION: section}, indent=1) + "\n")


def read(path: Path) -> tuple[Metadata, Exported]:
    """Read the card of the file at `path`. SegkitError where it has none, it is damaged, or the file is not the one that it is of."""
    card = card_of(path)
    if not card.is_file():
        what = f"{path} has no card {card.name} beside it, so its classes and preprocessing are not known"
        raise SegkitError(f"{what};   write both with  segkit export ckpt=RUN {override('output', str(path.parent))}")
    plain = read_json(card)
    if SECTION not in plain:
        raise SegkitError(f"{card} has no section {SECTION}: it is the card of no exported file;   {AGAIN}")
    about, problems = messages.fit(Exported, plain.pop(SECTION))
    if about is None or problems:
        raise of_file(card, "has a damaged section export", ProblemsFound(problems))
    metadata = read_metadata(card, {METADATA_KEY: plain})
    missing = [file for file in weights_of(path) if not file.is_file()]
    if missing:
        raise SegkitError(f"{path} has no {missing[0].name} beside it, which holds its weights;   copy both, or {AGAIN}")
    if about.sha256 is not None and about.sha256 != digest(path):
        raise SegkitError(f"{path} is damaged, or was changed after it was written: it does not match {card.name};   {AGAIN}")
    return metadata, about


def digest(path: Path) -> str:
    """SHA-256 of an exported file with its weights."""
    found = hashlib.sha256()
    for file in weights_of(path):
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                found.update(block)
    return found.hexdigest()


def axes(dims: int, size: Sequence[int] | None, batch: int | None, channels: str | int | None) -> str:
    """Shape of an input or output in words."""
    spatial = size or ("slices", "rows", "columns")[-dims:]
    return f"({', '.join(str(part) for part in (batch or 'batch', channels, *spatial) if part is not None)})"


def describe(metadata: Metadata, fmt: Format, precision: FilePrecision, size: Sequence[int] | None, batch: int | None) -> dict[str, Any]:
    """The fields of `Exported` that follow from the network."""
    labels, overlap = metadata.label_map(), metadata.labels["overlap"]
    planes = len(labels.classes) if overlap else None
    meaning = "1 where its class is" if overlap else "class indices, 0 is background"
    return {
        "format": fmt,
        "precision": precision,
        "size": None if size is None else tuple(size),
        "batch": batch,
        "classes": list(labels.classes),
        "image": f"{axes(metadata.dims, size, batch, metadata.channels)} float32, 0 to 1 (8-bit images over 255)",
        "probabilities": f"{axes(metadata.dims, size, batch, labels.n_outputs)} float32, 0 to 1",
        "mask": f"{axes(metadata.dims, size, batch, planes)} uint8, {meaning}",
    }
