"""Sources: one small class an on-disk layout. A source finds files and pairs them; it decodes nothing.

`conf/data/*.yaml` name these classes in `data.source._target_`. They may import `io`, `slices` and `phantoms` of this folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.data.sources.base import Source
    from segkit.data.sources.brats import BraTS
    from segkit.data.sources.coco import Coco
    from segkit.data.sources.csv import Csv
    from segkit.data.sources.decathlon import Decathlon
    from segkit.data.sources.dicom import Dicom
    from segkit.data.sources.folder import Folder
    from segkit.data.sources.hc18 import HC18
    from segkit.data.sources.isbi_em import IsbiEm
    from segkit.data.sources.labelme import LabelMe
    from segkit.data.sources.lgg import LGG
    from segkit.data.sources.nerve import Nerve
    from segkit.data.sources.nnunet import NnUNet
    from segkit.data.sources.pelvis import Pelvis
    from segkit.data.sources.pengwin import Pengwin
    from segkit.data.sources.phantom import Phantom
    from segkit.data.sources.uw_madison import UWMadison

_MODULES = {
    **{"Source": "base", "BraTS": "brats", "Coco": "coco", "Csv": "csv", "Decathlon": "decathlon", "Dicom": "dicom"},
    **{"Folder": "folder", "HC18": "hc18", "IsbiEm": "isbi_em", "LabelMe": "labelme", "LGG": "lgg", "Nerve": "nerve"},
    **{"NnUNet": "nnunet", "Pelvis": "pelvis", "Pengwin": "pengwin", "Phantom": "phantom", "UWMadison": "uw_madison"},
}
"""Module by class; it is called like the YAML in conf/data/."""

__all__ = [
    "HC18",
    "LGG",
    "BraTS",
    "Coco",
    "Csv",
    "Decathlon",
    "Dicom",
    "Folder",
    "IsbiEm",
    "LabelMe",
    "Nerve",
    "NnUNet",
    "Pelvis",
    "Pengwin",
    "Phantom",
    "Source",
    "UWMadison",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def is_own(source: Mapping[str, Any]) -> bool:
    """Whether `data.source` names a class of segkit."""
    return str(source["_target_"]).startswith(f"{__name__}.")


def source_name(source: Mapping[str, Any]) -> str:
    """'hc18' for segkit's own sources, as their YAML is called; a class of someone else goes by its name."""
    name = str(source["_target_"]).rpartition(".")[2]
    return _MODULES.get(name, name.lower()) if is_own(source) else name.lower()
