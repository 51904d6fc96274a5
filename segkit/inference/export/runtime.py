"""An exported file in the place of a checkpoint: images in, probabilities out, by the program that the format belongs to.

What is in a file is data to these programs, never Python. ONNX Runtime and OpenVINO run operators of their own. TorchScript is run by
its interpreter, some of whose operators read and write files: a file that names one is refused. `torch.export.load` unpickles, so a
`.pt2` is opened only with the consent that packages need, `allow_targets=[torch.export]`.
"""

from __future__ import annotations

import inspect
import logging
import re
import warnings
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.config.schema import Train
from segkit.data.labels import Array
from segkit.inference.export import card
from segkit.inference.export.graph import INPUT, OUTPUTS
from segkit.models.checkpoint import EXPORTED
from segkit.models.metadata import Metadata, read_config
from segkit.models.sizes import box
from segkit.system.errors import SegkitError, first_line
from segkit.system.hardware import Accelerator, share_of_cores

CONSENT = "torch.export"
PACKAGES = "onnx onnxscript onnxruntime openvino"
UNSAFE = re.compile(r"\b(save|load|from_file|__setstate__|__getstate__)\b|ops\.(?!prim\b|aten\b)\w+")
"""What the code of a traced network never names: operators that touch files, code that runs while a file is opened, other libraries."""


def package(name: str, wanted_by: str) -> Any:
    """Import a package of the extra `export`. SegkitError with the line that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise SegkitError(f"{wanted_by} needs the package {name.split('.')[0]};   pip install {PACKAGES}") from error


class Runtime(ABC):
    """A program with an exported file in it."""

    @abstractmethod
    def __init__(self, path: Path, threads: int) -> None:
        """Open the file. Any exception: it is damaged, or of another kind."""

    @abstractmethod
    def __call__(self, images: Array) -> tuple[Array, Array]:
        """Images (B, C, *S) float32 in unit scale -> probabilities (B, n_outputs, *S) and mask."""

    @classmethod  # noqa: B027 (most formats hold nothing to be afraid of)
    def check(cls, path: Path, allow: Sequence[str]) -> None:
        """Raise SegkitError where the file must not be opened."""


class OnnxRuntime(Runtime):
    def __init__(self, path: Path, threads: int) -> None:
        ort = package("onnxruntime", str(path))
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        # From memory: a file cannot send the runtime to others, in which ONNX may keep weights.
        self.session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        check_names([one.name for one in self.session.get_inputs()], [one.name for one in self.session.get_outputs()])

    def __call__(self, images: Array) -> tuple[Array, Array]:
        probs, mask = self.session.run(list(OUTPUTS), {INPUT: images})
        return probs, mask


class OpenVino(Runtime):
    """Of IR files, and of ONNX."""

    def __init__(self, path: Path, threads: int) -> None:
        core = package("openvino", str(path)).Core()
        # It computes in bf16 on its own account where the processor can.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self.network = core.compile_model(core.read_model(path), "CPU", settings)
        check_names(*([name_of(port.get_names()) for port in ports] for ports in (self.network.inputs, self.network.outputs)))

    def __call__(self, images: Array) -> tuple[Array, Array]:
        found = self.network({INPUT: images})
        return found[OUTPUTS[0]], found[OUTPUTS[1]]


class TorchScript(Runtime):
    def __init__(self, path: Path, threads: int) -> None:
        self.network: Any = torch.jit.load(path, "cpu")  # type: ignore[no-untyped-call]

    @classmethod
    def check(cls, path: Path, allow: Sequence[str]) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                code = "\n".join(archive.read(one).decode() for one in members if one.filename.lower().endswith(".py"))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError, OSError) as error:
            raise SegkitError(f"{path} is damaged: {first_line(error)};   {card.AGAIN}") from error
        if len({one.filename.lower() for one in members}) < len(members):  # torch looks names up in any case, and finds one of them
            raise SegkitError(f"{path} holds two files of one name, as no export does: it is refused;   {card.AGAIN}")
        if found := UNSAFE.search(code):
            raise SegkitError(f"{path} names {found.group()}, which no exported network needs: it is refused;   {card.AGAIN}")

    def __call__(self, images: Array) -> tuple[Array, Array]:
        probs, mask = self.network(torch.from_numpy(images))
        return probs.numpy(), mask.numpy()


class TorchExport(TorchScript):
    def __init__(self, path: Path, threads: int) -> None:
        program = torch.export.load(path)
        # Guards hold the memory order of the example, which changes no result, and refuse some sizes.
        unguarded = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
        self.network = program.module(**unguarded)

    @classmethod
    def check(cls, path: Path, allow: Sequence[str]) -> None:
        if CONSENT not in allow:
            what = f"{path}: torch.export.load runs what is pickled in a .pt2"
            raise SegkitError(f"{what};   if you trust this file, add  'allow_targets=[{CONSENT}]',  or use a format=onnx export")


RUNTIMES: Mapping[str, type[Runtime]] = dict(zip(EXPORTED, (OnnxRuntime, OpenVino, TorchScript, TorchExport), strict=True))


def is_exported(path: Path) -> bool:
    return path.suffix in RUNTIMES


def check_names(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    if list(inputs) != [INPUT] or not {*OUTPUTS} <= {*outputs}:
        given, wanted = (f"{', '.join(a)} -> {', '.join(b)}" for a, b in ((inputs, outputs), ((INPUT,), OUTPUTS)))
        raise SegkitError(f"it maps {given}, not {wanted}: another program wrote it")


def name_of(names: set[str]) -> str:
    """The name that matters of a port of OpenVINO, which keeps those of operators that it has removed as well."""
    return next(iter(sorted(names, key=lambda name: (name not in (INPUT, *OUTPUTS), name))), "")


class ExportedModel(nn.Module):
    """An exported file where a `SegmentationModel` stands: images (B, C, *S), uint8 or float in unit scale -> probabilities."""

    def __init__(self, runtime: Runtime, about: card.Exported) -> None:
        super().__init__()
        self.runtime, self.about = runtime, about
        self.size, self.batch = about.size, about.batch

    def forward(self, image: Tensor) -> Tensor:
        return self.outputs(image)[0]

    def outputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (B, n_outputs, *S) float32 and mask (B, [K,] *S) uint8, of the size of `image`."""
        x = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        there = tuple(x.shape[2:])
        parts = torch.split(self._padded(x), self.batch or len(x))
        found = [self.runtime(np.ascontiguousarray(part.numpy())) for part in parts]
        probs, mask = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*found, strict=True))
        inside = box([0] * len(there), there)
        return probs[inside].float(), mask[inside].to(torch.uint8)

    def _padded(self, x: Tensor) -> Tensor:
        """Images that are smaller than the one size that the file takes, continued by their borders."""
        if self.size is None or tuple(x.shape[2:]) == self.size:
            return x
        missing = [n - here for n, here in zip(self.size, x.shape[2:], strict=True)]
        if min(missing) < 0:
            what = f"this file takes windows of {list(self.size)}, not of {list(x.shape[2:])}"
            raise SegkitError(f"{what};   leave  inference.window  as it is, or export with another  size")
        for axis, n in enumerate(self.size, start=2):
            x = x.index_select(axis, torch.arange(n).clamp(max=x.shape[axis] - 1))
        return x


def hardware(path: Path, accelerator: Accelerator, precision: str | None) -> tuple[Accelerator, str]:
    """Where an exported file runs, whose own precision is all there is. SegkitError where something else is asked for."""
    if accelerator in ("gpu", "mps"):
        raise SegkitError(f"{path} runs on the processor;   use  hardware=cpu,  or the checkpoint that it was made of")
    if precision not in (None, "auto", "32"):
        raise SegkitError(f"{path} has its own precision;   leave out  hardware.precision={precision},  or use the checkpoint itself")
    return "cpu", "32"


def load(path: Path, allow: Sequence[str] = (), threads: str | int = "auto") -> tuple[ExportedModel, Metadata, Train]:
    """Open an exported file: what `models.checkpoint.load_model` returns of a checkpoint.

    Raises:
        SegkitError: there is no card, file and card do not belong together, or the file is damaged, foreign or not trusted.
    """
    kind = RUNTIMES[path.suffix]
    metadata, about = card.read(path)
    # The network is in the file: whatever class it once was is neither imported nor asked for.
    known = replace(metadata, config={**metadata.config, "model": {"_target_": "segkit.models.UNet"}})
    config = read_config(card.card_of(path), known, allow)
    kind.check(path, allow)
    if about.size is not None:
        config = config.model_copy(update={"inference": config.inference.model_copy(update={"window": about.size})})
    return ExportedModel(start(kind, path, share_of_cores(threads)), about), metadata, config


def start(kind: type[Runtime], path: Path, threads: int) -> Runtime:
    """Open a file with a runtime. SegkitError where that fails."""
    try:
        with quiet():
            return kind(path, threads)
    except SegkitError as error:
        raise (error if str(path) in str(error) else SegkitError(f"{path} cannot be used: {error};   {card.AGAIN}")) from error
    except Exception as error:  # each runtime raises its own, for whatever is wrong in a file
        raise SegkitError(f"{path} cannot be opened by {kind.__name__}: {first_line(error)[:200]};   {card.AGAIN}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines of exporters, and of the packages that they use."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("torch", "onnxscript", "onnx_ir", "onnxruntime")]
    loggers = [logging.getLogger(name) for name in ("", *names)]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)
