"""Metrics of one case and class on the original grid, the tables and summaries of them, and the comparison of two runs.

Imports `data`, `config` and `system`, never torch. Metrics are imported when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segkit.metrics.base import NAN, Array, CaseMetric, Statistic, VolumeMetric

if TYPE_CHECKING:
    from segkit.metrics.head_circumference import HeadCircumference
    from segkit.metrics.overlap import Confusion, Overlap, VolumeError
    from segkit.metrics.surface import Surface
    from segkit.metrics.topology import CellScores, Centerline, ObjectScores
    from segkit.metrics.uw_madison import UWMadison
    from segkit.metrics.volumes import VolumeDice

_HOMES = {
    "CellScores": "topology",
    "Centerline": "topology",
    "Confusion": "overlap",
    "HeadCircumference": "head_circumference",
    "ObjectScores": "topology",
    "Overlap": "overlap",
    "Surface": "surface",
    "UWMadison": "uw_madison",
    "VolumeDice": "volumes",
    "VolumeError": "overlap",
}
__all__ = [
    "NAN",
    "Array",
    "CaseMetric",
    "CellScores",
    "Centerline",
    "Confusion",
    "HeadCircumference",
    "ObjectScores",
    "Overlap",
    "Statistic",
    "Surface",
    "UWMadison",
    "VolumeDice",
    "VolumeError",
    "VolumeMetric",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
