"""Networks, the model around them (normalization, padding, activation), checkpoints, and weights of other programs.

Networks are plain torch modules. Imports `data`, `config` and `system`; what is exported here is imported when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.models.multitask import MultiTaskUNet
    from segkit.models.segmentation import SegmentationModel
    from segkit.models.smp import SMP
    from segkit.models.unet import UNet

_HOMES = {"MultiTaskUNet": "multitask", "SMP": "smp", "SegmentationModel": "segmentation", "UNet": "unet"}
__all__ = ["SMP", "MultiTaskUNet", "SegmentationModel", "UNet"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
