"""segkit: medical image segmentation experiments. The public Python API; nothing is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.cli.api import evaluate, predict, train
    from segkit.config.compose import compose
    from segkit.data.case import Case, Manifest
    from segkit.data.labels import LabelMap
    from segkit.inference.predictor import load
    from segkit.models.hub import push, save
    from segkit.system.errors import SegkitError

    __version__: str

_HOMES = {
    "load": "segkit.inference.predictor",
    "save": "segkit.models.hub",
    "push": "segkit.models.hub",
    "train": "segkit.cli.api",
    "evaluate": "segkit.cli.api",
    "predict": "segkit.cli.api",
    "compose": "segkit.config.compose",
    "Case": "segkit.data.case",
    "Manifest": "segkit.data.case",
    "LabelMap": "segkit.data.labels",
    "SegkitError": "segkit.system.errors",
}

__all__ = [
    "Case",
    "LabelMap",
    "Manifest",
    "SegkitError",
    "__version__",
    "compose",
    "evaluate",
    "load",
    "predict",
    "push",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'segkit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("segkit")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
