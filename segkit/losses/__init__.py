"""Losses: of overlap, of single pixels and of distances, and their weighted sum. Imports `data.labels` and `system`.

Each leaves out ignored pixels (255), knows the three modes (binary, multiclass, multilabel), and works in 2-D and 3-D.
"""

from segkit.losses.base import IgnoreGuard, WeightedLoss, check_shares, prepare
from segkit.losses.distance import BoundaryLoss, HausdorffLoss
from segkit.losses.overlap import DiceLoss, JaccardLoss, MCCLoss, TverskyLoss
from segkit.losses.pixelwise import CrossEntropyLoss, FocalLoss, LovaszLoss, MSELoss

__all__ = [
    "BoundaryLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "HausdorffLoss",
    "IgnoreGuard",
    "JaccardLoss",
    "LovaszLoss",
    "MCCLoss",
    "MSELoss",
    "TverskyLoss",
    "WeightedLoss",
    "check_shares",
    "prepare",
]
