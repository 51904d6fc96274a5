"""Progressive resizing: sizes by epoch, image and mask alike, a function of the epoch alone."""

from __future__ import annotations

import numpy as np
import pytest

from segkit.config.schema import Preprocess, Progressive
from segkit.data.transforms.progressive import ProgressiveResizing


def resizing(**keys: float) -> ProgressiveResizing:
    return ProgressiveResizing(Progressive(**keys), 10, Preprocess())  # type: ignore[arg-type]


def test_small_at_first_full_at_the_end_linear_between() -> None:
    by_epoch = [resizing(size_increment=1).size((200, 100), epoch) for epoch in range(10)]
    assert by_epoch[:6] == [(100, 50)] * 6  # half of ten epochs, and the ramp starts at the next
    assert by_epoch[6:8] == [(133, 67), (167, 83)]
    assert by_epoch[8:] == [(200, 100)] * 2


def test_without_a_ramp_the_size_changes_once() -> None:
    by_epoch = [resizing(delay_fraction=0.7, finetune_fraction=0.3).size((64, 64), epoch) for epoch in range(10)]
    assert by_epoch == [(32, 32)] * 7 + [(64, 64)] * 3


@pytest.mark.parametrize("shape", [(40, 64), (8, 40, 64), (5, 5)])
def test_sides_are_multiples_and_never_larger_than_the_image(shape: tuple[int, ...]) -> None:
    size = resizing(initial_scale=0.3).size(shape, 0)
    assert all(n == full if full <= 16 else n % 16 == 0 and 16 <= n <= full for n, full in zip(size, shape, strict=True))


@pytest.mark.parametrize("shape", [(32, 64), (32, 32, 64)])
def test_image_and_mask_shrink_alike_and_the_mask_keeps_its_values(shape: tuple[int, ...]) -> None:
    mask = np.zeros(shape, np.uint8)
    mask[..., : shape[-1] // 2] = 3
    image, small = resizing()(mask[..., None].astype(np.float32), mask, 0)
    assert image.shape[:-1] == small.shape == tuple(n // 2 for n in shape)
    assert set(np.unique(small)) == {0, 3}
    assert np.array_equal(image[..., 0], small)
    planes = np.stack([mask, 3 - mask])
    assert resizing()(mask[..., None], planes, 0)[1].shape == (2, *small.shape)
