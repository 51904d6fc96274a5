"""Losses that know how far a wrong pixel is from the border, by distance maps of the truth (and of the prediction).

Kervadec et al., Boundary loss for highly unbalanced segmentation, 2019. arXiv:1812.07032. Karimi and Salcudean, Reducing the
Hausdorff distance in medical image segmentation with convolutional neural networks, 2019. arXiv:1904.10030.
Distances are in pixels of the network's grid; maps are made on the processor, without gradient. Where a structure touches
ignored pixels, that is a border to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from segkit.data.labels import Mode
from segkit.losses.base import planes, probabilities

Array = npt.NDArray[Any]


class DistanceLoss(nn.Module):
    """Mean of a map (B, K, *S) over the pixels that count, of the structures without the background."""

    def __init__(self, mode: Mode, of_pixel: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.mode, self.of_pixel = mode, of_pixel

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        first = int(self.mode == "multiclass")
        truth, counted = planes(target, logits, self.mode)
        probs, truth, counted = probabilities(logits, self.mode)[:, first:], truth[:, first:], counted.expand_as(truth)[:, first:]
        return (self.of_pixel(probs, truth) * counted).sum() / counted.sum().clamp_min(1)


def boundary_loss(mode: Mode) -> nn.Module:
    """Probability times signed distance to the border, negative inside; an image without the structure counts as 0.

    It may fall below zero. Meant to be added to a loss of overlap, with a small weight.
    """
    return DistanceLoss(mode, lambda probs, truth: probs * maps(truth > 0.5, signed).to(probs))


def hausdorff_loss(mode: Mode, alpha: float = 2.0) -> nn.Module:
    """Squared error times (distance to the border of the truth ** alpha + of the prediction ** alpha) (eq. 8).

    Here distances are shares of the image's diagonal, so that the loss does not grow with the square of its size.
    """

    def of_pixel(probs: Tensor, truth: Tensor) -> Tensor:
        diagonal = math.hypot(*truth.shape[2:])
        of_truth, of_prediction = (maps(mask > 0.5, unsigned).to(probs) / diagonal for mask in (truth, probs))
        return (probs - truth) ** 2 * (of_truth**alpha + of_prediction**alpha)

    return DistanceLoss(mode, of_pixel)


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
    """Of each pixel of `mask` to the nearest outside of it, float32; 0 where there is nothing outside."""
    if mask.all():
        return np.zeros(mask.shape, np.float32)
    if mask.ndim == 2:
        return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
    return np.asarray(ndimage.distance_transform_edt(mask), np.float32)
