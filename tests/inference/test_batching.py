"""Batches that fit: what does not is halved, and results do not depend on the batch."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import segkit
from segkit.inference.batching import Batched, images_at_once, keeps_nothing
from segkit.inference.predictor import STREAM_FLOP, CheckpointPredictor
from segkit.inference.sliding_window import sliding
from segkit.inference.tta import averaged, views
from segkit.models import UNet


class Limited:
    """A network for which more than `room` images are out of memory."""

    def __init__(self, room: int) -> None:
        self.room, self.sizes = room, []  # type: ignore[var-annotated]

    def __call__(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return images * 2


def test_a_batch_is_halved_until_it_fits_and_the_next_ones_as_well() -> None:
    network = Limited(3)
    batched, images = Batched(network, 16), torch.rand(10, 1, 4, 4)
    assert torch.equal(batched(images), images * 2)
    assert network.sizes == [10, 5, 2, 2, 2, 2, 2]
    assert torch.equal(batched(images[:3]), images[:3] * 2)
    assert network.sizes[7:] == [2, 1]


def test_one_image_that_does_not_fit_is_an_error_and_so_is_all_else() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Batched(Limited(0), 8)(torch.rand(4, 1, 2, 2))

    def broken(images: Tensor) -> Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        Batched(broken, 8)(torch.rand(4, 1, 2, 2))


@pytest.mark.parametrize("kind", ["horizontal", "flips", "turns"])
@pytest.mark.parametrize("window", [None, (16, 16)])
def test_the_result_does_not_depend_on_the_batch(kind: str, window: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    network, images = UNet(1, 2, widths=[4, 8]).eval(), torch.rand(3, 1, 24, 32)
    over = views(kind, 2)  # type: ignore[arg-type]
    with torch.no_grad():
        alone = torch.cat([sliding(averaged(network, over), image[None], window, 0.5, at_once=1) for image in images])
        filled = sliding(averaged(Batched(network, 5), over, together=True), images, window, 0.5, at_once=32)
    torch.testing.assert_close(filled, alone, rtol=0, atol=1e-5)


def test_auto_is_one_image_on_a_processor_and_many_on_a_gpu() -> None:
    assert images_at_once("auto", "cpu") == 1
    assert images_at_once("auto", "cuda") == 32
    assert images_at_once(4, "cpu") == images_at_once(4, "cuda") == 4


def test_a_network_of_the_users_own_predicts_one_image_at_a_time() -> None:
    """It may keep something between calls, which overlapping calls would mix up."""
    assert keeps_nothing(UNet(1, 2, widths=[4, 8]))
    assert not keeps_nothing(torch.nn.Conv2d(1, 2, 1))
    assert not keeps_nothing(type("Own", (UNet,), {"__module__": "mine"})(1, 2, widths=[4, 8]))


def test_images_run_side_by_side_where_the_network_is_small_with_the_same_masks(trained: Path) -> None:
    """A large one has work enough for all threads, and its images would push each other out of the caches."""
    predictor = segkit.load(trained, "cpu", threads=2)
    assert isinstance(predictor, CheckpointPredictor)
    assert 0 < predictor.flop < STREAM_FLOP
    assert [predictor.streams(n) for n in (1, 2, 50)] == [1, 2, 2]
    images = list(np.random.default_rng(0).integers(0, 255, (5, 48, 64), np.uint8))
    side_by_side = [one.mask for one in predictor.predict_all(images)]
    predictor.__dict__["flop"] = 2 * STREAM_FLOP
    assert predictor.streams(50) == 1
    assert all((one.mask == other).all() for one, other in zip(predictor.predict_all(images), side_by_side, strict=True))


def test_a_batch_that_fails_is_free_again_before_its_images_are_tried_one_by_one(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = segkit.load(trained, "cpu", threads=1, inference={"batch_size": 4})
    assert isinstance(predictor, CheckpointPredictor)
    probabilities, held, still_there = predictor._probabilities, [], []

    def limited(stack: np.ndarray) -> np.ndarray:
        activations = torch.zeros(len(stack), 8)
        still_there.extend(one() is not None for one in held)
        if len(stack) > 1:
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return probabilities(stack)

    monkeypatch.setattr(predictor, "_probabilities", limited)
    images = list(np.random.default_rng(0).integers(0, 255, (4, 48, 64), np.uint8))
    done = predictor.compute([predictor.prepare(image) for image in images])
    assert still_there == [False] * 4
    assert not any(isinstance(one, Exception) for one in done)
