"""segkit: medical image segmentation experiments. The public Python API; nothing is imported before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lazy_loader

if TYPE_CHECKING:
    from segkit.cli.api import evaluate, predict, train
    from segkit.config.compose import compose
    from segkit.config.groups import CONF
    from segkit.data.case import Case, Manifest
    from segkit.data.datamodule import SegmentationData
    from segkit.data.labels import LabelMap
    from segkit.inference.predictor import load
    from segkit.models.hub import push, save
    from segkit.system.errors import SegkitError
    from segkit.training.module import SegmentationModule

    __version__: str

__all__ = [
    "CONF",
    "Case",
    "LabelMap",
    "Manifest",
    "SegkitError",
    "SegmentationData",
    "SegmentationModule",
    "__version__",
    "compose",
    "evaluate",
    "load",
    "predict",
    "push",
    "save",
    "train",
]

_HOMES = {
    "cli.api": ["evaluate", "predict", "train"],
    "config.compose": ["compose"],
    "config.groups": ["CONF"],
    "data.case": ["Case", "Manifest"],
    "data.datamodule": ["SegmentationData"],
    "data.labels": ["LabelMap"],
    "inference.predictor": ["load"],
    "models.hub": ["push", "save"],
    "system.errors": ["SegkitError"],
    "training.module": ["SegmentationModule"],
}
_public, _, _ = lazy_loader.attach(__name__, submod_attrs=_HOMES)


def __getattr__(name: str) -> Any:
    if name != "__version__":
        return _public(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("segkit")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


def __dir__() -> list[str]:
    return __all__
