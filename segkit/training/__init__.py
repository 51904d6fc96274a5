"""Training: the recipe (`train`), the LightningModule, Trainer, callbacks, run folder, sweeps. Imports everything below `cli`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.training.module import SegmentationModule
    from segkit.training.run_folder import RunFolder

__all__ = ["RunFolder", "SegmentationModule"]
_HOMES = {"RunFolder": "segkit.training.run_folder", "SegmentationModule": "segkit.training.module"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: Lightning takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
