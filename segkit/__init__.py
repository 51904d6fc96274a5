"""segkit: medical image segmentation experiments. The public Python API (`__init__.pyi`); nothing is imported before it is used."""

from __future__ import annotations

from typing import Any

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name != "__version__":
        return _public(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("segkit")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
