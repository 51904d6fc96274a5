"""A sliding window covers everything, and a network that looks at single pixels gives the same through it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from segkit.inference.sliding import gaussian, sliding, starts


def pixelwise(x: Tensor) -> Tensor:
    return torch.cat([x.mean(dim=1, keepdim=True), x.square().sum(dim=1, keepdim=True)], dim=1)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    ("shape", "window"), [((70, 101), (32, 32)), ((33, 32), (32, 40)), ((20, 31, 40), (8, 16, 40)), ((9, 9, 9), (16, 4, 9))]
)
def test_a_pixelwise_network_gives_the_same_through_any_window(shape: tuple[int, ...], window: tuple[int, ...], overlap: float) -> None:
    image = torch.rand(2, 3, *shape)
    torch.testing.assert_close(sliding(pixelwise, image, window, overlap), pixelwise(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_windows_cover_every_pixel_and_overlap_as_asked(overlap: float) -> None:
    covered = np.zeros(101, int)
    (found,) = starts((101,), (24,), overlap)
    for start in found:
        covered[start : start + 24] += 1
    assert covered.min() >= 1
    assert (found[0], found[-1]) == (0, 101 - 24)
    assert np.diff(found).max() <= 24 * (1 - overlap) + 1


def test_very_large_maps_are_kept_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, 3, 70, 64)
    full = sliding(pixelwise, image, (32, 32), 0.5)
    monkeypatch.setattr("segkit.inference.sliding.LARGE", 1000)
    half = sliding(pixelwise, image, (32, 32), 0.5)
    assert (full.dtype, half.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(half.float(), full, rtol=1e-3, atol=1e-3)


def test_an_image_no_larger_than_the_window_goes_through_whole() -> None:
    seen = []

    def network(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x

    sliding(network, torch.rand(1, 1, 30, 40), (32, 64), 0.5)
    sliding(network, torch.rand(1, 1, 30, 40), None, 0.5)
    assert seen == [(1, 1, 30, 40)] * 2


def test_the_middle_of_a_window_counts_most() -> None:
    weight = gaussian((9, 15))
    assert weight.shape == (9, 15)
    assert weight.argmax() == 4 * 15 + 7
    assert (weight > 0).all()
    assert np.allclose(weight, weight[::-1, ::-1])
