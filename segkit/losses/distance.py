"""Losses that weigh a wrong pixel by its distance to the border.

Distances are in pixels of the network's grid; distance maps are computed on the CPU, without gradient. Where a structure
touches ignored pixels, that is a border to them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from segkit.data.labels import Array, Mode
from segkit.losses.base import planes, probabilities


@dataclass(eq=False, repr=False)
class DistanceLoss(nn.Module, ABC):
    """Mean of `of_pixel` over the pixels that count, of the structures without the background.

    `forward` takes logits (B, C, *S) and a target as `prepare` makes it.
    """

    mode: Mode

    def __post_init__(self) -> None:
        super().__init__()

    @abstractmethod
    def of_pixel(self, probs: Tensor, target: Tensor) -> Tensor:
        """Probabilities and target -> loss of each pixel, all (B, K, *S)."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        first = int(self.mode == "multiclass")
        target, counted = planes(target, logits, self.mode)
        probs, target, counted = probabilities(logits, self.mode)[:, first:], target[:, first:], counted.expand_as(target)[:, first:]
        return (self.of_pixel(probs, target) * counted).sum() / counted.sum().clamp_min(1)


class BoundaryLoss(DistanceLoss):
    """Probability times signed distance to the border, negative inside (Kervadec et al., 2019. arXiv:1812.07032).

    In pixels; it may fall below zero. Meant to be added to a loss of overlap with a small weight. An image without the
    structure counts as 0.
    """

    def of_pixel(self, probs: Tensor, target: Tensor) -> Tensor:
        return probs * maps(target > 0.5, signed).to(probs)


@dataclass(eq=False, repr=False)
class HausdorffLoss(DistanceLoss):
    """Squared error times (distance to the target's border ** alpha + to the prediction's ** alpha).

    Equation 8 of Karimi and Salcudean, 2019. arXiv:1904.10030. Here distances are shares of the image's diagonal, so that
    the loss does not grow with the square of its size.
    """

    alpha: float = 2.0

    def of_pixel(self, probs: Tensor, target: Tensor) -> Tensor:
        diagonal = math.hypot(*target.shape[2:])
        of_target, of_prediction = (maps(mask > 0.5, unsigned).to(probs) / diagonal for mask in (target, probs))
        return (probs - target) ** 2 * (of_target**self.alpha + of_prediction**self.alpha)


def maps(masks: Tensor, of_mask: Callable[[Array], Array]) -> Tensor:
    """(B, K, *S) bool -> (B, K, *S) float32 on the same device."""
    array = masks.detach().cpu().numpy()
    made = np.stack([np.stack([of_mask(plane) for plane in image]) for image in array])
    return torch.from_numpy(made).to(masks.device)


def signed(mask: Array) -> Array:
    """Distance to the structure outside, minus the depth (less one) inside: 0 on its outermost pixels."""
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    return np.asarray(distance(~mask) - np.maximum(distance(mask) - 1, 0), np.float32)


def unsigned(mask: Array) -> Array:
    """Distance to the nearest pixel of the other kind."""
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    return distance(mask) + distance(~mask)


def distance(mask: Array) -> Array:
    """Distance of each pixel of `mask` to the nearest outside of it, float32; 0 where there is nothing outside."""
    if mask.all():
        return np.zeros(mask.shape, np.float32)
    if mask.ndim == 2:
        return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
    return np.asarray(ndimage.distance_transform_edt(mask), np.float32)
