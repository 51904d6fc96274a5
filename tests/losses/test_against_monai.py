"""The losses that MONAI has as well, as an independent implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segkit.data.labels import Mode
from segkit.losses import DiceLoss, FocalLoss, HausdorffLoss, JaccardLoss, TverskyLoss, prepare

monai: Any = pytest.importorskip("monai.losses", reason="MONAI is not installed (it comes with the extra: pip install segkit[test])")
MODES: list[Mode] = ["binary", "multiclass", "multilabel"]


def example(mode: Mode, dims: int) -> tuple[Tensor, Tensor, Tensor, dict[str, bool]]:
    """Logits, our target, MONAI's one-hot target, MONAI's activation."""
    g = torch.Generator().manual_seed(dims)
    space = [12, 10, 9][:dims]
    logits = 2 * torch.randn(2, 1 if mode == "binary" else 3, *space, generator=g)
    truth = torch.randint(0, 3 if mode == "multiclass" else 2, [2, *space] if mode != "multilabel" else [2, 3, *space], generator=g)
    if mode == "multiclass":
        hot = torch.nn.functional.one_hot(truth, 3).movedim(-1, 1).float()
        return logits, prepare(truth, mode), hot, {"softmax": True}
    return logits, prepare(truth, mode), truth.float().view_as(logits), {"sigmoid": True}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("per_image", [False, True])
def test_dice_jaccard_tversky(mode: Mode, dims: int, per_image: bool) -> None:
    logits, target, hot, activation = example(mode, dims)
    same: dict[str, Any] = {"batch": not per_image, **activation}
    theirs = monai.DiceLoss(smooth_nr=1.0, smooth_dr=1.0, **same)(logits, hot)
    assert torch.allclose(DiceLoss(mode, smooth=1.0, absent_classes="formula", per_image=per_image)(logits, target), theirs, atol=1e-6)
    theirs = monai.DiceLoss(smooth_nr=0.0, smooth_dr=1e-9, jaccard=True, **same)(logits, hot)
    assert torch.allclose(JaccardLoss(mode, per_image=per_image)(logits, target), theirs, atol=1e-6)
    theirs = monai.TverskyLoss(alpha=0.3, beta=0.7, smooth_nr=0.0, smooth_dr=1e-9, **same)(logits, hot)
    assert torch.allclose(TverskyLoss(mode, 0.3, 0.7, per_image=per_image)(logits, target), theirs, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_focal(dims: int) -> None:
    for mode in ("binary", "multilabel"):
        logits, target, hot, _ = example(mode, dims)  # type: ignore[arg-type]
        assert torch.allclose(FocalLoss(mode, 2.0)(logits, target), monai.FocalLoss(gamma=2.0)(logits, hot), atol=1e-6)  # type: ignore[arg-type]
    logits, target, hot, _ = example("multiclass", dims)
    theirs = monai.FocalLoss(gamma=2.0, use_softmax=True)(logits, hot)  # a mean over classes, too, of which one is not 0
    assert torch.allclose(FocalLoss("multiclass", 2.0)(logits, target), 3 * theirs, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_hausdorff(mode: Mode, dims: int) -> None:
    logits, target, hot, activation = example(mode, dims)
    theirs = monai.HausdorffDTLoss(alpha=2.0, include_background=mode != "multiclass", **activation)(logits, hot)
    square_of_diagonal = sum(n**2 for n in logits.shape[2:])
    assert torch.allclose(HausdorffLoss(mode, 2.0)(logits, target) * square_of_diagonal, theirs, rtol=1e-4)
