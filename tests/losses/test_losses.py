"""Losses against closed forms, with empty masks, ignored pixels and small floats."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.config.compose import CONF, compose
from segkit.config.targets import instantiate
from segkit.data.labels import IGNORE, LabelMap, Mode
from segkit.losses import (
    BoundaryLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    HausdorffLoss,
    JaccardLoss,
    LovaszLoss,
    MCCLoss,
    MSELoss,
    TverskyLoss,
    WeightedLoss,
    prepare,
)
from segkit.losses.logistic import binary_cross_entropy, sigmoid
from segkit.system.errors import SegkitError
from segkit.training.building import build_loss

MODES: list[Mode] = ["binary", "multiclass", "multilabel"]
PRESETS = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))
ALL: dict[str, Any] = {
    "dice": DiceLoss,
    "jaccard": JaccardLoss,
    "tversky": TverskyLoss,
    "mcc": MCCLoss,
    "ce": CrossEntropyLoss,
    "focal": FocalLoss,
    "mse": MSELoss,
    "lovasz": LovaszLoss,
    "boundary": BoundaryLoss,
    "hausdorff": HausdorffLoss,
}


def make(mode: Mode, dice: float = 1.0, ce: float = 1.0) -> WeightedLoss:
    return WeightedLoss({"dice": DiceLoss(mode), "ce": CrossEntropyLoss(mode)}, {"dice": dice, "ce": ce}, mode)


def preset(name: str, mode: Mode, *keys: str) -> WeightedLoss:
    """As `segkit train loss=NAME` builds it."""
    values = {"0": "background", "1": "a"} | ({} if mode == "binary" else {"2": "b"})
    return build_loss(composed(f"loss={name}", *keys), LabelMap.of(values, mode == "multilabel"))


@cache
def composed(*keys: str) -> Any:
    return compose("train", list(keys))


def example(mode: Mode, size: int = 8, seed: int = 0, dims: int = 2) -> tuple[Tensor, Tensor]:
    """Logits of three outputs (one where binary) and a random mask."""
    g = torch.Generator().manual_seed(seed)
    space = [size] * dims
    logits = torch.randn(2, 1 if mode == "binary" else 3, *space, generator=g)
    shape, high = ([2, 3, *space], 2) if mode == "multilabel" else ([2, *space], 3 if mode == "multiclass" else 2)
    return logits, torch.randint(0, high, shape, generator=g, dtype=torch.uint8)


def value(loss: nn.Module, logits: Tensor, mask: Tensor, mode: Mode) -> float:
    return float(loss(logits.detach(), prepare(mask, mode)))


def soft(mode: Mode, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, mask, and probabilities and truth as (B, C, N)."""
    logits, mask = example(mode, seed=seed)
    probs = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    truth = nn.functional.one_hot(mask.long(), 3).movedim(-1, 1) if mode == "multiclass" else mask.view_as(logits)
    return logits, mask, probs.flatten(2), truth.flatten(2).float()


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_cross_entropy_is_its_definition() -> None:
    for mode in MODES:
        logits, mask = example(mode)
        if mode == "multiclass":
            wanted = -logits.log_softmax(1).gather(1, mask.long()[:, None]).mean()
        else:
            p, y = logits.sigmoid(), mask.float().view_as(logits)
            wanted = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        assert make(mode)(logits, mask)["loss_ce"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_sigmoid_and_binary_cross_entropy_are_torchs_in_double_precision() -> None:
    """Also where a pixel is sure, rightly or wrongly: the value stays finite, and the gradient as large as it is."""
    logits = torch.cat([torch.linspace(-100, 100, 4001), torch.tensor([-1e4, -0.0, 1e4])])
    target = torch.linspace(0, 1, 7)[torch.arange(len(logits)) % 7]
    exact, ours = logits.double().requires_grad_(), logits.clone().requires_grad_()
    pairs = (
        (sigmoid(ours), nn.functional.logsigmoid(exact).exp()),
        (binary_cross_entropy(ours, target), nn.functional.binary_cross_entropy_with_logits(exact, target.double(), reduction="none")),
    )
    for mine, wanted in pairs:
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-6, atol=1e-7)
        slopes = [torch.autograd.grad(value.sum(), start)[0] for value, start in ((mine, ours), (wanted, exact))]
        torch.testing.assert_close(slopes[0].double(), slopes[1], rtol=1e-5, atol=1e-7)
    half = torch.linspace(-8, 8, 33, dtype=torch.bfloat16)
    assert torch.equal(binary_cross_entropy(half, torch.ones(33)), binary_cross_entropy(half.float(), torch.ones(33)))
    assert torch.equal(sigmoid(half), sigmoid(half.float()))
    wrong = torch.tensor([30.0], requires_grad=True)
    (slope,) = torch.autograd.grad(sigmoid(wrong), wrong)
    assert slope.item() == pytest.approx(math.exp(-30), rel=1e-5)


@pytest.mark.parametrize(
    ("mode", "outputs", "mask"), [("binary", 2, (2, 8, 8)), ("multilabel", 3, (2, 1, 8, 8)), ("multilabel", 3, (1, 3, 8, 8))]
)
def test_logits_of_another_shape_than_the_mask_are_an_error(mode: Mode, outputs: int, mask: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="but the target is"):
        make(mode)(torch.zeros(2, outputs, 8, 8), torch.zeros(mask, dtype=torch.uint8))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("per_image", [False, True])
def test_losses_of_overlap_are_their_definitions(mode: Mode, per_image: bool) -> None:
    logits, mask, p, y = soft(mode)
    axes = (2,) if per_image else (0, 2)
    tp, fp, fn = (p * y).sum(axes), (p * (1 - y)).sum(axes), ((1 - p) * y).sum(axes)
    for loss, score in {
        DiceLoss(mode, per_image=per_image): 2 * tp / (2 * tp + fp + fn),
        DiceLoss(mode, smooth=3.0, per_image=per_image): (2 * tp + 3) / (2 * tp + fp + fn + 3),
        JaccardLoss(mode, per_image=per_image): tp / (tp + fp + fn),
        TverskyLoss(mode, 0.2, 0.7, per_image=per_image): tp / (tp + 0.2 * fp + 0.7 * fn),
    }.items():
        assert value(loss, logits, mask, mode) == pytest.approx((1 - score).mean().item(), rel=1e-4)
    focal = TverskyLoss(mode, 0.2, 0.7, gamma=0.75, per_image=per_image)
    assert value(focal, logits, mask, mode) == pytest.approx(((1 - tp / (tp + 0.2 * fp + 0.7 * fn)) ** 0.75).mean().item(), rel=1e-4)
    log = DiceLoss(mode, log_loss=True, per_image=per_image)
    assert value(log, logits, mask, mode) == pytest.approx(-(2 * tp / (2 * tp + fp + fn)).log().mean().item(), rel=1e-4)


def test_mcc_is_the_correlation_of_prediction_and_truth() -> None:
    _, mask, _, y = soft("binary")
    logits = torch.where(torch.rand(2, 1, 8, 8) > 0.3, mask[:, None].float(), 1 - mask[:, None].float()) * 80 - 40
    wanted = torch.corrcoef(torch.stack([(logits.flatten() > 0).float(), y.flatten()]))[0, 1]
    assert value(MCCLoss("binary"), logits, mask, "binary") == pytest.approx(1 - wanted.item(), abs=1e-4)


def test_focal_loss_is_its_definition_and_with_gamma_one_the_weighted_cross_entropy() -> None:
    logits, mask, p, y = soft("binary")
    right = torch.where(y > 0, p, 1 - p)
    assert value(FocalLoss("binary", 2.0), logits, mask, "binary") == pytest.approx(
        ((1 - right) ** 2 * -right.log()).mean().item(), rel=1e-5
    )
    alpha = torch.where(y > 0, 0.25, 0.75)
    weighted = (alpha * (1 - right) * -right.log()).mean()
    assert value(FocalLoss("binary", 1.0, 0.25), logits, mask, "binary") == pytest.approx(weighted.item(), rel=1e-5)
    logits, mask, p, y = soft("multiclass")
    right = (p * y).sum(1)
    assert value(FocalLoss("multiclass"), logits, mask, "multiclass") == pytest.approx(
        ((1 - right) ** 2 * -right.log()).mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("mode", MODES)
def test_mean_squared_error_is_that_of_probabilities(mode: Mode) -> None:
    logits, mask, p, y = soft(mode)
    assert value(MSELoss(mode), logits, mask, mode) == pytest.approx((p - y).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_top_k_is_the_mean_of_the_worst_pixels(mode: Mode) -> None:
    logits, mask, p, y = soft(mode)
    each = -(p * y).sum(1).log() if mode == "multiclass" else -torch.where(y > 0, p, 1 - p).log()
    worst = each.flatten().sort(descending=True).values[: math.ceil(0.1 * each.numel())]
    assert value(CrossEntropyLoss(mode, topk_fraction=0.1), logits, mask, mode) == pytest.approx(worst.mean().item(), rel=1e-5)


def test_ignored_pixels_are_none_of_the_worst_where_most_are_sure() -> None:
    """A pixel that is sure to the last digit costs 0, like an ignored one, but is one of those that a mean is over."""
    mask = torch.zeros(1, 10, 10, dtype=torch.uint8)
    mask[:, ::2] = IGNORE
    logits = torch.zeros(1, 2, 10, 10)
    logits[:, 0] = 1000
    logits[:, 0, 9, 9] = 0  # undecided: log 2
    worst = value(CrossEntropyLoss("multiclass", topk_fraction=0.5), logits, mask, "multiclass")
    assert worst == pytest.approx(math.log(2) / 25, rel=1e-5)


def test_lovasz_of_hard_masks_is_the_jaccard_loss() -> None:
    """The extension equals the set function at its corners."""
    _, mask = example("multiclass")
    wrong = torch.randint(0, 3, mask.shape)
    logits = nn.functional.one_hot(wrong, 3).movedim(-1, 1).float() * 200 - 100
    wanted = [1 - ((wrong == c) & (mask == c)).sum() / ((wrong == c) | (mask == c)).sum() for c in range(3)]
    assert value(LovaszLoss("multiclass"), logits, mask, "multiclass") == pytest.approx(float(sum(wanted) / 3), rel=1e-4)


def test_lovasz_of_overlapping_structures_is_the_mean_over_them() -> None:
    logits, mask = example("multilabel")
    alone = [value(LovaszLoss("binary"), logits[:, k : k + 1], mask[:, k], "binary") for k in range(3)]
    assert value(LovaszLoss("multilabel"), logits, mask, "multilabel") == pytest.approx(sum(alone) / 3, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_lovasz_by_image_is_the_mean_over_images(mode: Mode) -> None:
    logits, mask = example(mode)
    first = value(LovaszLoss(mode), logits[:1], mask[:1], mode)
    both = first + value(LovaszLoss(mode), logits[1:], mask[1:], mode)
    assert value(LovaszLoss(mode, per_image=True), logits, mask, mode) == pytest.approx(both / 2, rel=1e-5)


def test_boundary_loss_of_a_square_is_its_signed_distance() -> None:
    mask = torch.zeros(1, 9, 9, dtype=torch.uint8)
    mask[0, 3:6, 3:6] = 1
    logits = torch.full((1, 1, 9, 9), -40.0)
    logits[..., 4, 8] = 40.0  # three pixels to the right of the border
    assert value(BoundaryLoss("binary"), logits, mask, "binary") == pytest.approx(3 / 81)
    logits = mask[:, None].float() * 80 - 40  # the truth: 0 on the border, -1 in the middle
    assert value(BoundaryLoss("binary"), logits, mask, "binary") == pytest.approx(-1 / 81)


def test_hausdorff_loss_of_one_far_pixel() -> None:
    mask = torch.zeros(1, 9, 9, dtype=torch.uint8)
    mask[0, 4, 4] = 1
    logits = mask[:, None].float() * 80 - 40
    logits[..., 4, 8] = 40.0  # wrong: 4 from the truth; of the prediction's own pixels 1 from its border
    assert value(HausdorffLoss("binary"), logits, mask, "binary") == pytest.approx((4**2 + 1) / 81 / (9**2 + 9**2), rel=1e-5)


def test_an_untrained_network_starts_at_log_of_the_classes() -> None:
    _, mask = example("multiclass")
    assert make("multiclass")(torch.zeros(2, 3, 8, 8), mask)["loss_ce"].item() == pytest.approx(math.log(3), rel=1e-5)


# --- which classes, with which weight ---------------------------------------------------------------------------------


def test_absent_classes_have_the_published_floor_or_none() -> None:
    """Seven classes, of which three never occur: the plain mean cannot fall below 3/7."""
    mask = torch.randint(0, 4, (2, 16, 16), dtype=torch.uint8)
    perfect = nn.functional.one_hot(mask.long(), 7).movedim(-1, 1).float() * 80 - 40
    perfect[:, 4:] += 30  # a trace of the absent classes, as any softmax leaves
    values = {
        rule: value(DiceLoss("multiclass", smooth=1e-12, absent_classes=rule), perfect, mask, "multiclass")  # type: ignore[arg-type]
        for rule in ("formula", "zero", "skip")
    }
    assert values["formula"] == pytest.approx(3 / 7, abs=1e-3)
    assert values["zero"] == pytest.approx(0, abs=1e-3)
    assert values["skip"] == pytest.approx(0, abs=1e-3)


def test_the_mean_over_present_classes_does_not_shrink_with_absent_ones() -> None:
    logits, mask = example("multilabel")
    mask[:, 2] = 0
    two = value(DiceLoss("multilabel"), logits[:, :2], mask[:, :2], "multilabel")
    assert value(DiceLoss("multilabel", absent_classes="skip"), logits, mask, "multilabel") == pytest.approx(two, rel=1e-5)
    assert value(DiceLoss("multilabel", absent_classes="zero"), logits, mask, "multilabel") == pytest.approx(two * 2 / 3, rel=1e-5)


def test_the_background_can_be_left_out() -> None:
    logits, mask, p, y = soft("multiclass")
    scores = 2 * (p * y).sum((0, 2)) / (p + y).sum((0, 2))
    assert value(DiceLoss("multiclass", background=False), logits, mask, "multiclass") == pytest.approx(
        1 - scores[1:].mean().item(), rel=1e-4
    )


def test_class_weights_by_name() -> None:
    logits, mask, p, y = soft("multiclass")
    weights = torch.tensor([0.5, 1.0, 4.0])
    named = {"background": 0.5, "b": 4.0}
    more: Any = {"class_weights": named, "classes": ("a", "b")}
    scores = 2 * (p * y).sum((0, 2)) / (p + y).sum((0, 2))
    wanted = ((1 - scores) * weights).sum() / weights.sum()
    assert value(DiceLoss("multiclass", **more), logits, mask, "multiclass") == pytest.approx(wanted.item(), rel=1e-4)
    ours = value(CrossEntropyLoss("multiclass", **more), logits, mask, "multiclass")
    assert ours == pytest.approx(nn.functional.cross_entropy(logits, mask.long(), weights).item(), rel=1e-5)


def test_class_weights_of_planes_and_of_one_structure() -> None:
    logits, mask = example("multilabel")
    each = nn.functional.binary_cross_entropy_with_logits(logits, mask.float(), reduction="none").mean((0, 2, 3))
    weights = torch.tensor([1.0, 3.0, 1.0])
    more: Any = {"class_weights": {"b": 3.0}, "classes": ("a", "b", "c")}
    wanted = (each * weights).sum() / weights.sum()
    assert value(CrossEntropyLoss("multilabel", **more), logits, mask, "multilabel") == pytest.approx(wanted.item(), rel=1e-5)
    logits, mask = example("binary")
    each = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], mask.float(), reduction="none")
    weight = torch.where(mask > 0, 5.0, 1.0)
    more = {"class_weights": {"head": 5.0}, "classes": ("head",)}
    wanted = (each * weight).sum() / weight.sum()
    assert value(CrossEntropyLoss("binary", **more), logits, mask, "binary") == pytest.approx(wanted.item(), rel=1e-5)


def test_a_class_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(SegkitError, match="no class livr; did you mean liver"):
        DiceLoss("multiclass", class_weights={"livr": 2.0}, classes=("liver", "tumour"))


@pytest.mark.parametrize("options", [{"gamma": 0.5}, {"alpha": 0.3}])
def test_focal_refuses_what_it_cannot_do(options: dict[str, float]) -> None:
    with pytest.raises(SegkitError, match="FocalLoss"):
        FocalLoss("multiclass", **options)  # type: ignore[arg-type]


# --- the sum, and deep supervision -------------------------------------------------------------------------------------


def test_the_sum_is_weighted() -> None:
    logits, mask = example("multiclass")
    parts = make("multiclass", dice=0.25, ce=3.0)(logits, mask)
    assert parts["loss"].item() == pytest.approx(0.25 * parts["loss_dice"].item() + 3 * parts["loss_ce"].item(), rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_deep_supervision_weighs_each_scale_against_its_own_mask(mode: Mode) -> None:
    logits, mask = example(mode, size=9)
    coarse = torch.randn(2, logits.shape[1], 5, 5)
    single = make(mode)
    fine, rough = single(logits, mask), single(coarse, mask[..., ::2, ::2])
    for weights, share in ((None, 2 / 3), ([3.0, 1.0], 0.75)):
        both = WeightedLoss(dict(single.parts), {}, mode, weights)([logits, coarse], [mask, mask[..., ::2, ::2]])  # type: ignore[arg-type]
        for name in both:
            assert both[name].item() == pytest.approx(share * fine[name].item() + (1 - share) * rough[name].item(), rel=1e-5)
    with pytest.raises(SegkitError, match=r"loss\.deep_supervision has 3 weights, but the network gives 2"):
        WeightedLoss(dict(single.parts), {}, mode, [1, 1, 1])([logits, coarse], [mask, mask[..., ::2, ::2]])  # type: ignore[arg-type]


def test_volumes_are_supervised_at_scales_by_axis() -> None:
    logits, mask = example("multiclass", dims=3)
    coarse = torch.randn(2, 3, 8, 4, 4)
    alone = make("multiclass")(coarse, mask[:, :, ::2, ::2])["loss"]
    both = WeightedLoss(dict(make("multiclass").parts), {}, "multiclass", [0.0, 1.0])([logits, coarse], [mask, mask[:, :, ::2, ::2]])[
        "loss"
    ]  # type: ignore[arg-type]
    assert both.item() == pytest.approx(alone.item(), rel=1e-5)


# --- every loss, every mode -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ALL)
def test_ignored_pixels_count_nowhere(name: str, mode: Mode, dims: int) -> None:
    """Neither by their value nor by their gradient, nor in the number that a mean is over."""
    logits, mask = example(mode, dims=dims)
    mask[..., :4, :] = IGNORE
    logits.requires_grad_()
    loss = ALL[name](mode)
    first = loss(logits, prepare(mask, mode))
    first.backward()
    assert logits.grad is not None
    assert logits.grad[..., :4, :].abs().max() == 0
    assert logits.grad[..., 4:, :].abs().max() > 0
    if name not in ("boundary", "hausdorff"):  # a border beside ignored pixels is a border all the same
        alone = value(loss, logits[..., 4:, :], mask[..., 4:, :], mode)
        assert first.item() == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in ALL if name not in ("boundary", "hausdorff", "lovasz")])
def test_gradients_are_those_of_the_values(name: str, mode: Mode) -> None:
    logits, mask = example(mode, size=3, seed=1)
    mask[..., 0, 0] = IGNORE
    loss = ALL[name](mode)
    target = prepare(mask, mode)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.double().requires_grad_(), eps=1e-6, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_of_lovasz_is_that_of_its_value(mode: Mode) -> None:
    """In single precision, which is all that smp's knows: along a random direction."""
    logits, mask = example(mode, size=6)
    loss, target = LovaszLoss(mode), prepare(mask, mode)
    logits.requires_grad_()
    loss(logits, target).backward()
    assert logits.grad is not None
    way, h = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)), 1e-3
    with torch.no_grad():
        slope = (loss(logits + h * way, target) - loss(logits - h * way, target)) / (2 * h)
    assert slope.item() == pytest.approx((logits.grad * way).sum().item(), rel=0.02, abs=1e-3)


ALONE = ("ce", "topk", "dice", "jaccard", "focal_tversky", "mcc", "lovasz", "focal", "mse", "boundary", "hausdorff")
"""Presets of which the others are sums."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("fill", "dtype"), [("empty", torch.float16), ("ignored", torch.bfloat16), ("full", torch.float16)])
@pytest.mark.parametrize("name", ALONE)
def test_finite_at_512_in_small_floats(name: str, mode: Mode, fill: str, dtype: torch.dtype) -> None:
    check_finite(preset(name, mode), mode, fill, dtype, 512)  # 262,144 pixels: beyond the largest float16


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fill", ["empty", "ignored", "full"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_finite_in_every_precision(name: str, mode: Mode, fill: str) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check_finite(preset(name, mode), mode, fill, dtype, 40)


def check_finite(loss: WeightedLoss, mode: Mode, fill: str, dtype: torch.dtype, n: int) -> None:
    channels = {"binary": 1, "multiclass": 3, "multilabel": 2}[mode]
    mask = torch.full(
        (1, 2, n, n) if mode == "multilabel" else (1, n, n), {"empty": 0, "ignored": IGNORE, "full": 1}[fill], dtype=torch.uint8
    )
    logits = torch.full((1, channels, n, n), 11.0, dtype=dtype)
    logits[..., ::7] = -11.0
    logits.requires_grad_()
    parts = loss(logits, mask)
    parts["loss"].backward()
    assert all(part.isfinite() and part.ndim == 0 for part in parts.values())
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in ALL if name != "boundary"])
def test_a_perfect_answer_costs_nothing(name: str, mode: Mode) -> None:
    _, mask = example(mode)
    truth = nn.functional.one_hot(mask.long(), 3).movedim(-1, 1) if mode == "multiclass" else mask.float().view(2, -1, 8, 8)
    assert value(ALL[name](mode), truth.float() * 80 - 40, mask, mode) < 1e-4


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("mode", MODES)
def test_an_image_that_is_ignored_as_a_whole_changes_nothing(name: str, mode: Mode) -> None:
    logits, mask = example(mode)
    mask[1] = IGNORE
    options = {"per_image": True} if name == "lovasz" else {}
    loss = ALL[name](mode, **options)
    assert value(loss, logits, mask, mode) == pytest.approx(value(loss, logits[:1], mask[:1], mode), rel=1e-4)


def test_a_loss_that_knows_nothing_of_ignored_pixels_says_so(tmp_path: Any) -> None:
    logits, mask = example("binary")
    loss = preset("ce", "binary", "+loss.parts.bce={_target_: torch.nn.BCEWithLogitsLoss}", "loss.parts.ce=null")
    assert loss(logits, mask)["loss"].isfinite()
    mask[0, 0, 0] = IGNORE
    with pytest.raises(SegkitError, match=r"loss\.parts\.bce cannot handle ignored pixels"):
        loss(logits, mask)


def test_a_weight_for_no_part_is_refused() -> None:
    with pytest.raises(SegkitError, match=r"loss\.weights\.focl: not a part of the loss; did you mean focal"):
        preset("focal", "binary", "+loss.weights.focl=2")


def test_a_loss_of_torch_itself_is_a_part() -> None:
    logits, mask = example("binary")
    parts = {"bce": instantiate({"_target_": "torch.nn.BCEWithLogitsLoss"})}
    ours = make("binary")(logits, mask)["loss_ce"].item()
    assert WeightedLoss(parts, {}, "binary")(logits, mask)["loss_bce"].item() == pytest.approx(ours, rel=1e-5)


def test_class_weights_come_from_the_config_by_name() -> None:
    logits, mask = example("multiclass")
    plain, weighted = preset("ce", "multiclass"), preset("ce", "multiclass", "loss.parts.ce.class_weights={b: 10}")
    assert plain(logits, mask)["loss"] != weighted(logits, mask)["loss"]
    with pytest.raises(SegkitError, match="no class c"):
        preset("ce", "multiclass", "loss.parts.ce.class_weights={c: 10}")
