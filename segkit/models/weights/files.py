"""Files of weights that other programs wrote: checked, and read as tensors by name.

No code in them is ever run: the pickled formats (.pt, .pth, .bin, .ckpt, .pth.tar) are read by `torch.load(weights_only=True)`,
safetensors by its own library.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from segkit.system.errors import SegkitError, few, first_line, nearest

CHUNK = 2**20

SHARED = 2
"""Names that may stand for the same values, as tied weights do."""
ROOM = 2**20
"""Bytes, values or parts that are allowed to anything."""
KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Names under which training programs keep the weights beside other things."""
DEEPEST = 2
"""Levels of a file that are searched."""
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes that DataParallel, torch.compile and Lightning put before every name."""
OWN = "model.network."
"""Prefix of the tensors of the network in segkit's own checkpoints, beside those of the normalization."""
PLAIN_STATE = "Ask its owner for a plain state dict:  torch.save(model.state_dict(), FILE)"


class Ignored:
    """Stands in for whatever numpy a pickle asks for: losses and scores beside the weights, which nobody needs here."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_SCALARS = [f"{core}.multiarray" for core in ("numpy.core", "numpy._core")]  # of numpy 1 and 2
_NAMES = [("numpy", "dtype"), ("numpy", "ndarray"), *((module, name) for module in _SCALARS for name in ("scalar", "_reconstruct"))]
IGNORED: list[Any] = [type(name, (Ignored,), {"__module__": module}) for module, name in _NAMES]


def read(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Return tensors by name, on the CPU.

    Args:
        path: a file of weights.
        key: where in the file they are (`a.b` inside `a`); without it the usual places are searched.

    Raises:
        SegkitError: the file is missing, damaged, holds code, or no tensors.
    """
    path = path.expanduser()
    content = load(path)
    found = _at(path, content, key) if key else content
    return without_wrappers(sound_tensors(path, _tensors(path, found)))


def check_is_weights(path: Path) -> None:
    """Raise SegkitError for a missing or empty file, a web page or a git-lfs pointer."""
    if not path.is_file():
        raise SegkitError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise SegkitError(f"{path} is empty;   download it again")
    if is_web_page(head):
        raise SegkitError(f"{path} is a web page, not weights: the download needs a login or has moved")
    if head.startswith(b"version https://git-lfs"):
        raise SegkitError(f"{path} is a git-lfs pointer, not the weights;   run  git lfs pull  in its repository")


def is_web_page(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"\0" not in head


def load(path: Path) -> Any:
    """Return the content of a file as tensors and plain data. SegkitError where it is damaged or holds code, which is never run."""
    check_is_weights(path)
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"  # eight bytes of length, then JSON
    try:
        if is_safetensors:
            return load_file(path)
        check_archive(path)
        with torch.serialization.safe_globals(IGNORED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch remarks about a damaged file, ahead of our line
            return torch.load(path, map_location="cpu", weights_only=True)
    except SegkitError:
        raise
    except pickle.UnpicklingError as error:
        raise SegkitError(_refusal(path, str(error))) from error
    except Exception as error:  # a damaged pickle does whatever it comes to
        raise SegkitError(f"{path} is cut short, damaged or no file of weights: {first_line(error)}") from error


def remarks(path: Path) -> dict[str, str]:
    """Return the text that a safetensors file carries beside its tensors."""
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def check_archive(path: Path, ratio: int = SHARED) -> None:
    """Raise SegkitError for an archive with a changed byte, which torch would not notice, or one that unpacks to far more."""
    if not is_zipfile(path):
        return
    with ZipFile(path) as archive:
        entries = archive.infolist()
        if (unpacked := sum(entry.file_size for entry in entries)) > ratio * path.stat().st_size + ROOM:
            raise SegkitError(f"{path} claims to unpack to {unpacked:,} bytes, far more than it holds: a decompression bomb?")
        for entry in entries:
            if entry.CRC:  # 0: written without, as torch.serialization.set_crc32_options(False) asks for
                with archive.open(entry) as file:
                    while file.read(CHUNK):
                        pass


def sound_tensors(path: Path, state: Any) -> dict[str, Tensor]:
    """Return `state` as tensors by name. SegkitError unless all hold numbers, none NaN, and no more of them than the file."""
    if not isinstance(state, Mapping):
        raise SegkitError(f"{path} is damaged: its state_dict is a {type(state).__name__}, not tensors by name")
    for name, value in state.items():
        if trouble := _trouble(value):
            raise SegkitError(f"{path} is damaged: {name} {trouble}")
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if claimed > SHARED * path.stat().st_size + ROOM:
        raise SegkitError(f"{path} is damaged: its tensors claim {claimed:,} bytes, more than the file holds")
    if unsound := [str(name) for name, value in state.items() if value.element_size() > 1 and value.isnan().any()]:
        raise SegkitError(f"{path} holds NaN ({few(unsound, 3)}): its training failed, or the file is damaged")
    return {str(name): value for name, value in state.items()}


def _trouble(value: Any) -> str:
    """What is wrong with a tensor, to follow its name."""
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, not a tensor"
    if value.is_meta:
        return "has a shape, but no values"
    if value.is_quantized or value.layout != torch.strided:
        return "is quantized or sparse, which is not read here"
    return ""


def _refusal(path: Path, why: str) -> str:
    """torch names the class or function that the pickle asked for."""
    name = re.search(r"GLOBAL ([\w.]+)", why)
    with path.open("rb") as file:
        is_pickled = file.read(1) in (b"P", b"\x80")  # of a ZIP, or as pickles of today begin; else it is any other file
    if "Unsupported operand" in why and is_pickled:
        return f"{path} is pickled with another protocol than torch.save has by itself, and cannot be read safely.\n  {PLAIN_STATE}"
    if name is None:
        return f"{path} is cut short, damaged or no file of weights"
    return f"{path} holds more than tensors, {name[1]}, which could run code; it is refused.\n  {PLAIN_STATE}"


def _at(path: Path, content: Any, key: str) -> Any:
    for step in key.split("."):
        if not isinstance(content, Mapping) or step not in content:
            there = [str(name) for name in content] if isinstance(content, Mapping) else []
            hint = nearest(step, there) or f"available: {few(there)}"
            raise SegkitError(f"key={key}: {path} has no {step};   {hint}")
        content = content[step]
    return content


def _tensors(path: Path, content: Any, depth: int = 0) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise SegkitError(f"{path} holds a {type(content).__name__}, not a state dict.\n  {PLAIN_STATE}")
    for key in KEYS if depth < DEEPEST else ():
        if isinstance(content.get(key), Mapping):
            return _tensors(path, content[key], depth + 1)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if any(tensor.is_meta for tensor in tensors.values()):
        raise SegkitError(f"{path} holds names and shapes without values (saved from the meta device)")
    if tensors:
        return tensors
    raise SegkitError(
        f"{path} holds no tensors where they are usually kept; it has {few(list(map(str, content)))};   name the place with  key=NAME"
    )


def without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix that a wrapper put before all names; of a segkit checkpoint keep the network alone."""
    if own := {name.removeprefix(OWN): value for name, value in state.items() if name.startswith(OWN)}:
        return own
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            return without_wrappers({name.removeprefix(prefix): value for name, value in state.items()})
    return state
