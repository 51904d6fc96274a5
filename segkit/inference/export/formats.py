"""Writers of the formats: a graph and the shapes that it takes -> a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segkit.inference.export.card import FilePrecision, Format
from segkit.inference.export.graph import INPUT, OUTPUTS, ExportGraph, Shapes
from segkit.inference.export.runtime import package, quiet
from segkit.system.errors import SegkitError

SUFFIXES: Mapping[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".torchscript", "pt2": ".pt2"}
PACKAGES: Mapping[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torchscript": (),
    "pt2": (),
}
PRECISIONS: Mapping[FilePrecision, tuple[Format, ...]] = {
    "fp32": ("onnx", "openvino", "torchscript", "pt2"),
    "fp16": ("onnx", "openvino"),
    "int8": ("onnx", "openvino"),
}
OPERATOR = re.compile(r"op='([\w.]+)'")


class NoOperator(SegkitError):
    """An operator of the network that a format lacks, whatever the shapes."""


@dataclass(frozen=True)
class Traced:
    """A graph, and the shapes of the images for which it is traced."""

    graph: ExportGraph
    shapes: Shapes

    @property
    def example(self) -> torch.Tensor:
        return self.shapes.example(self.graph)

    @property
    def axes(self) -> dict[int, str]:
        return self.shapes.names(self.graph.dims)

    def program(self) -> torch.export.ExportedProgram:
        """The graph as torch.export captures it."""
        dynamic = dict.fromkeys(self.axes, torch.export.Dim.DYNAMIC)
        program = torch.export.export(self.graph, (self.example,), dynamic_shapes={INPUT: dynamic or None}, strict=False)
        if hasattr(program, "_guards_code"):
            program._guards_code = []  # on the memory order of the example: they would refuse sizes that are right
        return program


def check(fmt: Format, precision: FilePrecision) -> None:
    """Raise SegkitError where a format has no such precision, or its packages are missing."""
    if fmt not in PRECISIONS[precision]:
        able = " or ".join(f"format={name}" for name in PRECISIONS[precision])
        raise SegkitError(f"precision={precision} is for {' and '.join(PRECISIONS[precision])};   use  {able},  or  precision=fp32")
    needed = (*PACKAGES[fmt], *(("onnxruntime",) if precision != "fp32" else ()))
    for name in needed:
        package(name, f"format={fmt}")


def write_onnx(traced: Traced, path: Path) -> None:
    """Through torch.export. The axes that may change get names."""
    package("onnx", "format=onnx")
    try:
        program = torch.onnx.export(traced.program(), (traced.example,), dynamo=True, verbose=False,
                                    input_names=[INPUT], output_names=list(OUTPUTS))  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise (lacking(error) or error) from error
    assert program is not None
    model = program.model_proto
    name_axes(model, traced.axes)
    path.write_bytes(model.SerializeToString())


def lacking(error: BaseException) -> SegkitError | None:
    """The operator that ONNX lacks, where that is what an exception of its exporter comes from."""
    told: BaseException | None = error
    while told is not None:
        if (found := OPERATOR.search(str(told))) and "No ONNX function" in str(told):
            ways = "format=pt2  or  format=torchscript,  which keep torch's own operators"
            return NoOperator(f"ONNX has no operator for {found.group(1)}, which this network needs;   export with  {ways}")
        told = told.__cause__ or told.__context__
    return None


def name_axes(model: Any, axes: Mapping[int, str]) -> None:
    """Name the dynamic axes of the input, and the same axes of the outputs; torch calls them s77."""
    (image,) = model.graph.input
    names = {image.type.tensor_type.shape.dim[axis].dim_param: name for axis, name in axes.items()}
    del model.graph.value_info[:]  # sizes between the layers, in terms of the old names: a runtime infers them anyway
    for value in (image, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = names.get(dim.dim_param, dim.dim_param)


def write_openvino(traced: Traced, path: Path) -> None:
    """From ONNX, whose operators and names it takes over."""
    onnx = path.with_suffix(".onnx")
    try:
        write_onnx(traced, onnx)
        to_openvino(onnx, path)
    finally:
        onnx.unlink(missing_ok=True)


def to_openvino(onnx: Path, path: Path, compress_to_fp16: bool = False) -> None:
    openvino = package("openvino", "format=openvino")
    openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=compress_to_fp16)


def write_torchscript(traced: Traced, path: Path) -> None:
    torch.jit.trace(traced.graph, (traced.example,), check_trace=False).save(str(path))  # type: ignore[no-untyped-call]


def write_pt2(traced: Traced, path: Path) -> None:
    torch.export.save(traced.program(), path)


WRITERS: Mapping[Format, Callable[[Traced, Path], None]] = {
    "onnx": write_onnx,
    "openvino": write_openvino,
    "torchscript": write_torchscript,
    "pt2": write_pt2,
}


def write(traced: Traced, fmt: Format, path: Path) -> None:
    """Write a graph in float32. What the exporters say on the way is for their developers."""
    with torch.no_grad(), quiet():
        WRITERS[fmt](traced, path)
