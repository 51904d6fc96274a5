"""Normalisation and activation, which training, prediction and export share."""

from __future__ import annotations

import pytest
import torch

from segkit.models.segmentation import IMAGENET_MEAN, IMAGENET_SD, Normalizer, activate


def test_uint8_and_float_mean_the_same() -> None:
    image = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    normalizer = Normalizer("dataset", [0.4], [0.2])
    assert torch.allclose(normalizer(image), normalizer(image.float() / 255))


def test_image_wise_kinds_have_their_defining_property() -> None:
    x = torch.rand(3, 2, 16, 16) * torch.tensor([1.0, 5.0]).view(1, 2, 1, 1) + 3
    z = Normalizer("image")(x)
    assert torch.allclose(z.mean((2, 3)), torch.zeros(3, 2), atol=1e-4)
    assert torch.allclose(z.std((2, 3), correction=0), torch.ones(3, 2), atol=1e-4)
    m = Normalizer("minmax")(x)
    assert m.amin() == 0
    assert torch.allclose(m.amax((2, 3)), torch.ones(3, 2))


@pytest.mark.parametrize("kind", ["unit", "dataset", "image", "minmax", "imagenet"])
def test_a_constant_image_stays_finite(kind: str) -> None:
    normalizer = Normalizer(kind, [0.5], [0.0])  # type: ignore[arg-type]
    assert normalizer(torch.full((1, 1, 4, 4), 0.5)).isfinite().all()


def test_imagenet_constants_for_colour_and_grey() -> None:
    colour = Normalizer("imagenet", [0.0] * 3, [1.0] * 3)
    assert torch.allclose(colour(torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)), torch.zeros(1, 3, 1, 1), atol=1e-6)
    assert torch.allclose(colour.sd.flatten(), torch.tensor(IMAGENET_SD))
    assert Normalizer("imagenet", [0.0], [1.0]).mean.shape == (1, 1, 1, 1)


def test_probabilities() -> None:
    logits = torch.randn(2, 3, 4, 4)
    assert torch.allclose(activate(logits, "multiclass").sum(1), torch.ones(2, 4, 4))
    assert torch.equal(activate(logits, "multilabel"), logits.sigmoid())
