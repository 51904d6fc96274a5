"""The network with a head for each task: what a task's logit is, and what its gradient reaches."""

from __future__ import annotations

import pytest
import torch

from segkit.models.multitask import MultiTaskUNet
from segkit.models.segmentation import Normalizer, SegmentationModel
from segkit.system.errors import SegkitError

SMALL = "resnet18"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_tasks", [1, 4])
def test_one_plane_a_task_at_an_odd_size(n_tasks: int, dtype: torch.dtype) -> None:
    model = SegmentationModel(MultiTaskUNet(1, n_tasks, SMALL), Normalizer("unit"), "multilabel").train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        logits = model.logits(torch.rand(2, 1, 70, 90))
    assert logits.shape == (2, n_tasks, 70, 90)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_probability_is_the_softmax_over_foreground_and_background() -> None:
    network = MultiTaskUNet(1, 3, SMALL).eval()
    image = torch.rand(2, 1, 64, 32)
    with torch.no_grad():
        probs = network(image).sigmoid()
        shared = network.decoder(network.encoder(image))
        for task, head in enumerate(network.heads):
            torch.testing.assert_close(probs[:, task], head(shared).softmax(dim=1)[:, 0])


def test_tasks_share_all_but_their_heads() -> None:
    network = MultiTaskUNet(1, 2, SMALL)
    network(torch.rand(2, 1, 32, 32))[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.heads[0].conv.parameters())  # type: ignore[union-attr]
    assert next(network.encoder.parameters()).grad.any()
    assert not any(p.grad.any() for p in network.heads[1].parameters() if p.grad is not None)


def test_the_preset_s_encoder_is_dense_and_any_other_can_be_named() -> None:
    with torch.device("meta"):
        assert type(MultiTaskUNet(1, 1).encoder).__name__ == "DenseNetEncoder"
        assert MultiTaskUNet(1, 1).stride == 32
        with pytest.raises(SegkitError, match="did you mean resnet34"):
            MultiTaskUNet(1, 1, "resnet43")


def test_options_reach_the_decoder() -> None:
    network = MultiTaskUNet(2, 1, SMALL, encoder_depth=3, decoder_channels=[32, 16, 8])
    assert network.stride == 8
    assert network.eval()(torch.rand(1, 2, 24, 40)).shape == (1, 1, 24, 40)
