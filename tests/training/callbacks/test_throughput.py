"""Batches of the user's own are counted where they tell how many images they hold; any other never ends a training."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from segkit.training.callbacks.throughput import images_in


class Bag:
    """A batch of a class that nobody knows."""


@pytest.mark.parametrize(
    ("batch", "n"),
    [
        (torch.zeros(5, 1, 8, 8), 5),
        ({"name": ["a", "b"], "image": torch.zeros(3, 1, 8, 8), "offsets": torch.zeros(7)}, 3),
        (Bag(), None),
        ({}, None),
    ],
    ids=["tensor", "tensors of unequal length", "class", "nothing"],
)
def test_images_of_a_batch(batch: Any, n: int | None) -> None:
    with warnings.catch_warnings(action="error"):
        assert images_in(batch) == n
