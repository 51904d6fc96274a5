"""A sliding window covers everything, and a network that looks no further than windows overlap gives the same through it."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segkit.inference.sliding_window import gaussian, sliding, starts


def pixelwise(x: Tensor) -> Tensor:
    return torch.cat([x.mean(dim=1, keepdim=True), x.square().sum(dim=1, keepdim=True)], dim=1)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    ("shape", "window"), [((70, 101), (32, 32)), ((33, 32), (32, 40)), ((20, 31, 40), (8, 16, 40)), ((9, 9, 9), (16, 4, 9))]
)
def test_a_pixelwise_network_gives_the_same_through_any_window(shape: tuple[int, ...], window: tuple[int, ...], overlap: float) -> None:
    image = torch.rand(2, 3, *shape)
    torch.testing.assert_close(sliding(pixelwise, image, window, overlap), pixelwise(image), rtol=1e-4, atol=1e-5)


def edges(dims: int) -> torch.nn.Module:
    """Sees two pixels to each side, and zeros beyond its input."""
    torch.manual_seed(0)
    Conv = (torch.nn.Conv2d, torch.nn.Conv3d)[dims - 2]
    first, second = Conv(1, 4, 3, padding=1, bias=False), Conv(4, 2, 3, padding=1, bias=False)
    for weight in (first.weight.data, second.weight.data):
        weight /= weight.abs().sum(dim=tuple(range(1, dims + 2)), keepdim=True)
    return torch.nn.Sequential(first, torch.nn.ReLU(), second)


@torch.no_grad()
@pytest.mark.parametrize(("shape", "window"), [((101, 90), (40, 32)), ((50, 41, 36), (24, 24, 24)), ((20, 61, 50), (20, 32, 24))])
def test_a_convolutional_network_gives_the_same_inside(shape: tuple[int, ...], window: tuple[int, ...]) -> None:
    """Window borders, where it sees zeros in place of neighbours, count next to nothing, also near the borders of the image."""
    network, image = edges(len(shape)), torch.rand(1, 1, *shape)
    whole, inside = network(image), (slice(None), slice(None), *[slice(2, -2)] * len(shape))
    torch.testing.assert_close(sliding(network, image, window, 0.5)[inside], whole[inside], rtol=0, atol=1e-4)


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside, beside what is `given`: the most at one time."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given.untyped_storage().data_ptr()
        self.now = self.most = 0
        self.users: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.hold(tensor)
        return out

    def hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        where, size = storage.data_ptr(), storage.nbytes()
        if where == self.given:
            return
        if where not in self.users:
            self.now += size
            self.most = max(self.most, self.now)
        self.users[where] = self.users.get(where, 0) + 1
        weakref.finalize(tensor, self.release, where, size)

    def release(self, where: int, size: int) -> None:
        self.users[where] -= 1
        if not self.users[where]:
            del self.users[where]
            self.now -= size


@torch.no_grad()
@pytest.mark.parametrize("shape", [(64,), (12, 32)])
def test_memory_beyond_the_result_does_not_grow_with_the_rows(shape: tuple[int, ...]) -> None:
    window, network = (32,) * (1 + len(shape)), edges(1 + len(shape))
    beyond = []
    for rows in (100, 800):
        image = torch.rand(1, 1, rows, *shape)
        with Held(image) as held:
            result = sliding(network, image, tuple(min(w, s) for w, s in zip(window, (rows, *shape), strict=True)), 0.5)
        beyond.append(held.most - result.nbytes)
    assert 0 < beyond[1] <= beyond[0]


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
    monkeypatch.setattr("segkit.inference.sliding_window.LARGE", 1000)
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
