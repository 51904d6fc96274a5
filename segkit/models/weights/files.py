"""Files of weights that other programs wrote -> tensors by name. No code in them is ever run.

The pickled formats (.pt, .pth, .bin, .ckpt, .pth.tar) by `torch.load(weights_only=True)`; safetensors by its own library.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segkit.system.errors import SegkitError, first_line, nearest

KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Where training programs keep the weights among other things."""
DEEPEST = 2
"""Levels of a file that are searched."""
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before every name."""
OWN = "model.network."
"""How segkit's own checkpoints name the tensors of the network, beside those of the normalisation."""
PLAIN_STATE = "Ask its owner for a plain state dict:  torch.save(model.state_dict(), FILE)"


class Ignored:
    """Stands in for whatever numpy a pickle asks for: losses and scores beside the weights, which nobody needs here."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_SCALARS = [f"{core}.multiarray" for core in ("numpy.core", "numpy._core")]  # of numpy 1 and 2
_NAMES = [("numpy", "dtype"), ("numpy", "ndarray"), *((module, name) for module in _SCALARS for name in ("scalar", "_reconstruct"))]
IGNORED: list[Any] = [type(name, (Ignored,), {"__module__": module}) for module, name in _NAMES]


def read(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Tensors by name, on the CPU. `key` says where in the file they are (`a.b` inside `a`); without it they are looked for."""
    path = path.expanduser()
    check_is_weights(path)
    content = _load(path)
    found = _at(path, content, key) if key else content
    return without_wrappers(_tensors(path, found))


def check_is_weights(path: Path) -> None:
    """Refuse what a mistaken download leaves, for what it is."""
    if not path.is_file():
        raise SegkitError(f"{path}: there is no such file")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise SegkitError(f"{path} is empty;   fetch it again")
    if is_web_page(head):
        raise SegkitError(f"{path} is a web page, not weights: the download needs a login or has moved")
    if head.startswith(b"version https://git-lfs"):
        raise SegkitError(f"{path} is a git-lfs pointer, not the weights;   run  git lfs pull  in its repository")


def is_web_page(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"\0" not in head


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"  # eight bytes of length, then JSON
    try:
        if is_safetensors:
            return load_file(path)
        with torch.serialization.safe_globals(IGNORED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SegkitError(_refusal(path, str(error))) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        raise SegkitError(f"{path} is cut short, damaged or no file of weights: {first_line(error)}") from error


def _refusal(path: Path, why: str) -> str:
    """torch names the class or function that the pickle asked for."""
    name = re.search(r"GLOBAL ([\w.]+)", why)
    if "Unsupported operand" in why:
        return f"{path} is pickled with another protocol than torch.save has by itself, and cannot be read safely.\n  {PLAIN_STATE}"
    if name is None:
        return f"{path} is cut short, damaged or no file of weights"
    return f"{path} holds more than tensors, {name[1]}, which could run code; it is refused.\n  {PLAIN_STATE}"


def _at(path: Path, content: Any, key: str) -> Any:
    for step in key.split("."):
        if not isinstance(content, Mapping) or step not in content:
            there = [str(name) for name in content] if isinstance(content, Mapping) else []
            hint = nearest(step, there) or f"there is {_few(there)}"
            raise SegkitError(f"key={key}: {path} has no {step};   {hint}")
        content = content[step]
    return content


def _tensors(path: Path, content: Any, depth: int = 0) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise SegkitError(f"{path} holds a {type(content).__name__}, no state dict.\n  {PLAIN_STATE}")
    for key in KEYS if depth < DEEPEST else ():
        if isinstance(content.get(key), Mapping):
            return _tensors(path, content[key], depth + 1)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if any(tensor.is_meta for tensor in tensors.values()):
        raise SegkitError(f"{path} holds names and shapes without values (saved from the meta device)")
    if tensors:
        return tensors
    raise SegkitError(
        f"{path} holds no tensors where they are usually kept; it has {_few(list(map(str, content)))};   say where with  key=NAME"
    )


def without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what all names share because a wrapper put it there; of a segkit checkpoint the network alone."""
    if own := {name.removeprefix(OWN): value for name, value in state.items() if name.startswith(OWN)}:
        return own
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            return without_wrappers({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _few(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"
