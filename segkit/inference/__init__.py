"""From a checkpoint and images to masks, tables of scores and files in other formats.

Imports `models`, `metrics`, `data`, `config` and `system`; knows neither Lightning nor Hydra. Names are imported when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.inference.ensemble import Combination, Ensemble
    from segkit.inference.evaluation import Evaluation, evaluate_cases
    from segkit.inference.postprocess import FillHoles, FitEllipse, LargestComponents, MinimumSize, Smooth
    from segkit.inference.predictor import Prediction, Predictor, load

_HOMES = {
    "Combination": "ensemble",
    "Ensemble": "ensemble",
    "Evaluation": "evaluation",
    "FillHoles": "postprocess",
    "FitEllipse": "postprocess",
    "LargestComponents": "postprocess",
    "MinimumSize": "postprocess",
    "Prediction": "predictor",
    "Predictor": "predictor",
    "Smooth": "postprocess",
    "evaluate_cases": "evaluation",
    "load": "predictor",
}
__all__ = [
    "Combination",
    "Ensemble",
    "Evaluation",
    "FillHoles",
    "FitEllipse",
    "LargestComponents",
    "MinimumSize",
    "Prediction",
    "Predictor",
    "Smooth",
    "evaluate_cases",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
