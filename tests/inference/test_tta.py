"""Test-time augmentation: exact inverses, and no view twice."""

from __future__ import annotations

import pytest
import torch

from segkit.inference.tta import averaged, views, warn_of_mirrors

COUNTS = [("none", 2, 1), ("horizontal", 2, 2), ("flips", 2, 4), ("turns", 2, 8), ("flips", 3, 8), ("turns", 3, 16)]


@pytest.mark.parametrize(("kind", "dims", "n"), COUNTS)
def test_every_view_is_another_one_and_is_undone_exactly(kind: str, dims: int, n: int) -> None:
    image = torch.rand(2, 3, *(4, 5, 7)[-dims:])
    found = views(kind, dims)  # type: ignore[arg-type]
    assert len(found) == n
    for view in found:
        assert torch.equal(view.undo(view(image)), image)
    square = torch.rand(1, 1, *(6,) * dims)
    turned = [view(square) for view in found]
    assert not any(torch.equal(a, b) for i, a in enumerate(turned) for b in turned[:i])


@pytest.mark.parametrize("kind", ["horizontal", "flips", "turns"])
def test_of_an_equivariant_network_it_changes_nothing(kind: str) -> None:
    image = torch.rand(1, 1, 9, 12)
    network = torch.nn.AvgPool2d(3, 1, 1)
    assert torch.allclose(averaged(network, views(kind, 2))(image), network(image), atol=1e-6)  # type: ignore[arg-type]


def test_it_is_the_mean_over_the_views() -> None:
    image = torch.rand(1, 1, 4, 4)
    ramp = torch.arange(4.0).expand(4, 4)
    mean = averaged(lambda x: x * ramp, views("horizontal", 2))(image)
    assert torch.allclose(mean, image * 1.5)


def test_an_unknown_kind_names_the_others() -> None:
    with pytest.raises(ValueError, match="none, horizontal, flips, turns"):
        views("mirror", 2)  # type: ignore[arg-type]


def test_mirrored_copies_of_structures_with_a_side_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    def said(tta: str, *classes: str) -> str:
        warn_of_mirrors(tta, classes)  # type: ignore[arg-type]
        return " ".join(capsys.readouterr().out.split())

    assert "warning class left_lung has a side, but inference.tta=flips mirrors the images" in said("flips", "left_lung", "right_lung")
    assert said("none", "left_lung", "right_lung") == said("flips", "lung", "heart") == ""
