"""Patches: as often on a structure as asked, the same for the same key, padded where the image is too small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segkit.data.labels import IGNORE, LabelMap
from segkit.data.transforms.patches import Patches, locations_of

LABELS = LabelMap.of({0: "background", 1: "large", 2: "tiny"})


def scene(shape: tuple[int, ...]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """An image whose mask is its only channel; a large structure, and one of a few pixels in the far corner."""
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(n // 3, 2 * n // 3) for n in shape)] = 1
    mask[tuple(slice(n - 3, n - 1) for n in shape)] = 2
    return mask[..., None], mask


@pytest.mark.parametrize("shape", [(90, 120), (24, 40, 50)])
def test_image_and_mask_are_cut_alike_and_equal_keys_give_equal_patches(shape: tuple[int, ...]) -> None:
    image, mask = scene(shape)
    patches = Patches(tuple(n // 2 for n in shape), 0.5, {})
    where = locations_of(mask, LABELS)
    cut = [patches.cut(image, mask, where, (0, epoch, 3)) for epoch in range(6)]
    again = [patches.cut(image, mask, where, (0, epoch, 3)) for epoch in range(6)]
    assert all((i[..., 0] == m).all() and m.shape == patches.size for i, m in cut)
    assert all((a[1] == b[1]).all() for a, b in zip(cut, again, strict=True))
    assert len({m.tobytes() for _, m in cut}) > 1


def test_small_structures_come_as_often_as_large_ones() -> None:
    image, mask = scene((200, 200))
    where = locations_of(mask, LABELS)
    n = 400
    shown = [patches.cut(image, mask, where, (i,))[1] for patches in [Patches((20, 20), 1.0, {})] for i in range(n)]
    tiny = sum((m == 2).any() for m in shown) / n
    assert 0.4 < tiny < 0.6
    assert all((m > 0).any() for m in shown)


def test_class_weights_and_the_foreground_share_rule_the_draw() -> None:
    image, mask = scene((200, 200))
    where = locations_of(mask, LABELS)
    only_tiny = [Patches((20, 20), 1.0, {"large": 0.0}).cut(image, mask, where, (i,))[1] for i in range(50)]
    assert all((m == 2).any() for m in only_tiny)
    anywhere = [Patches((20, 20), 0.0, {}).cut(image, mask, where, (i,))[1] for i in range(200)]
    assert sum((m == 2).any() for m in anywhere) < 20


def test_an_image_smaller_than_the_patch_is_padded_with_what_the_mask_ignores() -> None:
    image, mask = scene((10, 40))
    patch, of_mask = Patches((20, 20), 0.5, {}).cut(image, mask, locations_of(mask, LABELS), (0,))
    assert patch.shape == (20, 20, 1)
    assert (of_mask[:5] == IGNORE).all()
    assert (of_mask[5:15] != IGNORE).all()


def test_planes_of_overlapping_classes_are_cut_together() -> None:
    labels = LabelMap.of({"a": "a", "b": "b"}, overlap=True)
    planes = np.zeros((2, 50, 60), np.uint8)
    planes[0, 5:9, 5:9], planes[1, 40:48, 50:55] = 1, 1
    where = locations_of(planes, labels)
    assert set(where) == {"a", "b"}
    cut = [Patches((16, 16), 1.0, {}).cut(planes[0][..., None], planes, where, (i,))[1] for i in range(40)]
    assert all(m.shape == (2, 16, 16) for m in cut)
    assert any(m[0].any() for m in cut)
    assert any(m[1].any() for m in cut)


def test_an_image_without_a_structure_gives_patches_from_anywhere() -> None:
    mask = np.zeros((64, 64), np.uint8)
    assert Patches((8, 8), 1.0, {}).cut(mask[..., None], mask, locations_of(mask, LABELS), (0,))[1].shape == (8, 8)
