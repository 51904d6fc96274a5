"""Smaller files: weights in half precision, or 8-bit integers whose ranges are those of validation images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from segkit.data.labels import Array
from segkit.inference.export.card import FilePrecision
from segkit.inference.export.formats import Traced, to_openvino, write_onnx
from segkit.inference.export.graph import INPUT
from segkit.inference.export.runtime import package, quiet

KEPT = ("Softmax", "Sigmoid", "ArgMax", "GreaterOrEqual")
"""Operators of the outputs: 256 steps of a probability would be too few."""


def write_onnx_as(traced: Traced, precision: FilePrecision, images: Sequence[Array], path: Path) -> None:
    """Write ONNX in fp16 or int8. `images`: (B, C, *S), to calibrate on."""
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "fp32.onnx"
        write_onnx(traced, whole)
        with quiet():
            (halved if precision == "fp16" else quantized)(whole, path, images)


def write_openvino_as(traced: Traced, precision: FilePrecision, images: Sequence[Array], path: Path) -> None:
    """Write OpenVINO with weights in fp16, or from ONNX in int8."""
    with TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        if precision == "fp16":
            write_onnx(traced, onnx)
        else:
            write_onnx_as(traced, precision, images, onnx)
        to_openvino(onnx, path, compress_to_fp16=precision == "fp16")


def halved(whole: Path, path: Path, images: Sequence[Array]) -> None:
    """Weights and operators in fp16; the input, and the outputs, stay float32."""
    onnx, float16 = package("onnx", "precision=fp16"), package("onnxruntime.transformers.float16", "precision=fp16")
    onnx.save(float16.convert_float_to_float16(onnx.load(whole), keep_io_types=True), path)


def quantized(whole: Path, path: Path, images: Sequence[Array]) -> None:
    """Convolutions and what lies between them as 8-bit integers, by channel, calibrated on `images`."""
    quantization = package("onnxruntime.quantization", "precision=int8")
    shaped = whole.with_name("shaped.onnx")
    package("onnxruntime.quantization.shape_inference", "precision=int8").quant_pre_process(whole, shaped, skip_symbolic_shape=True)
    kept = [node.name for node in package("onnx", "precision=int8").load(shaped).graph.node if node.op_type in KEPT]
    quantization.quantize_static(shaped, path, reader(quantization, images), per_channel=True, nodes_to_exclude=kept)


def reader(quantization: Any, images: Iterable[Array]) -> Any:
    """What onnxruntime calibrates with: an object that gives one input after the other."""

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Array] = iter(images)

        def get_next(self) -> dict[str, Array] | None:
            image = next(self.left, None)
            return None if image is None else {INPUT: np.ascontiguousarray(image)}

    return Images()
