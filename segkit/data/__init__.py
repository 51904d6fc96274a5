"""Data sets: sources and readers, cases and labels, audit, splits, transforms, datasets and the DataModule. Imports config and system."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.data.case import Case, Manifest
    from segkit.data.datamodule import SegmentationData
    from segkit.data.labels import LabelMap
    from segkit.data.splits import Split

_HOMES = {"Case": "case", "Manifest": "case", "LabelMap": "labels", "SegmentationData": "datamodule", "Split": "splits"}
__all__ = ["Case", "LabelMap", "Manifest", "SegmentationData", "Split"]


def __getattr__(name: str) -> Any:
    """Imported on first use: the DataModule takes torch and Lightning along."""
    if name not in _HOMES:
        raise AttributeError(f"module 'segkit.data' has no attribute {name!r}")
    return getattr(import_module(f"segkit.data.{_HOMES[name]}"), name)
