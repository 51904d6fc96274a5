"""The U-Net against the numbers of the paper and its sources, in all its variants, and at sizes that do not divide."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segkit.models.segmentation import Normalizer, SegmentationModel, mirrored
from segkit.models.unet import UNet
from segkit.system.errors import SegkitError

SMALL = (4, 8, 16, 32, 64)


def n_parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def wrapped(network: UNet, mode: Any = "binary", dims: int = 2) -> SegmentationModel:
    return SegmentationModel(network, Normalizer("unit", dims=dims), mode)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"in_channels": 3}, 31_043_521),
        ({}, 31_042_369),
        ({"norm": "none", "padding": "valid"}, 31_030_593),
        ({"in_channels": 3, "widths": (32, 64, 128, 256, 512), "bias": False, "concat": "up_first"}, 7_763_041),
    ],
)
def test_parameter_counts_of_the_sources(options: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        assert n_parameters(UNet(**{"in_channels": 1, "out_channels": 1, **options})) == expected


VARIANTS: list[dict[str, Any]] = [
    *({"norm": norm} for norm in ("none", "batch", "instance", "group")),
    *({"activation": name} for name in ("leaky_relu", "prelu", "elu", "gelu", "silu")),
    {"convs": 1},
    {"convs": 3, "bias": False},
    {"pre_norm": True, "bottleneck_norm": True, "head_norm": True, "concat": "up_first"},
    {"residual": True},
    {"residual": True, "down": "conv"},
    {"attention": True},
    {"up": "resize"},
    {"dropout": 0.5},
    {"residual": True, "attention": True, "down": "conv", "up": "resize", "norm": "instance", "concat": "up_first"},
]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()))
def test_output_has_the_input_size_and_gradients_reach_every_weight(options: dict[str, Any], dims: Any) -> None:
    network = UNet(2, 3, (8, 16, 32), dims=dims, **options)
    size = [8, 12, 16][:dims]
    out = network(torch.rand(2, 2, *size))
    assert out.shape == (2, 3, *size)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("n", "out"), [(252, 68), (572, 388), (812, 628), (700, 516)])
def test_sizes_of_unpadded_convolutions(n: int, out: int) -> None:
    network = UNet(1, 1, (2, 2, 2, 2, 2), padding="valid", norm="none")
    assert network.shape.check((n, n)) == (out, out)
    if n < 600:
        assert network(torch.rand(1, 1, n, n)).shape == (1, 1, out, out)


def test_an_impossible_size_is_refused_with_the_nearest_right_ones() -> None:
    network = UNet(1, 1, SMALL, padding="valid")
    with pytest.raises(SegkitError, match=r"'\[684,684\]'  or  preprocess.size='\[700,700\]'"):
        network.shape.check((696, 696))
    with pytest.raises(SegkitError, match=r"use  preprocess.size='\[188,188\]'"):
        network.shape.check((100, 100))


def test_unpadded_variants_say_their_sizes_rightly() -> None:
    for options in ({"convs": 1}, {"residual": True}, {"attention": True}, {"up": "resize"}, {"pool": [2, 3]}):
        network = UNet(1, 1, (2, 4, 8), padding="valid", **options)
        for n in range(20, 90, 1):
            out = network.shape.output(n, 0)
            if out is not None:
                assert network(torch.rand(1, 1, n, n)).shape[-1] == out
                break
        else:
            pytest.fail(f"no size is possible for {options}")


def test_overlap_tile_sees_the_image_where_it_is() -> None:
    """A network that hands its input on must return the image itself, whatever its size."""
    network = UNet(1, 1, (1, 1, 1), padding="valid", norm="none", up="resize").eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for block in (*network.encoder, *network.decoder):
            for conv in block.convs:  # type: ignore[attr-defined]
                conv.conv.weight[0, 0, 1, 1] = 1  # of skip and up, the skip
        network.head.conv.weight[0, 0, 0, 0] = 1  # type: ignore[union-attr,index]
    model = wrapped(network)
    for size in [(60, 61), (52, 40), (7, 90)]:
        image = torch.rand(1, 1, *size)
        assert torch.allclose(model.logits(image), image, atol=1e-6)


def test_mirrored_continues_a_line_without_repeating_its_border() -> None:
    assert mirrored(4, 2, 3).tolist() == [2, 1, 0, 1, 2, 3, 2, 1, 0]
    assert mirrored(2, 3, 2).tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert mirrored(1, 2, 2).tolist() == [0] * 5


def test_targets_of_a_smaller_output() -> None:
    image, mask = torch.rand(1, 1, 52, 52), torch.arange(52, dtype=torch.uint8).expand(1, 52, 52)
    out = UNet(1, 1, (2, 4, 8), padding="valid").shape.check((52, 52))[0]
    for target, expected in {
        "center_crop": list(range((52 - out) // 2, (52 + out) // 2)),
        "resize": [int((i + 0.5) * 52 / out) for i in range(out)],
        "overlap_tile": list(range(52)),
    }.items():
        model = wrapped(UNet(1, 1, (2, 4, 8), padding="valid", target=target))  # type: ignore[arg-type]
        logits, wanted = model.supervised(image, mask)
        assert isinstance(logits, torch.Tensor)
        assert logits.shape[2:] == wanted.shape[1:] == (len(expected), len(expected))
        assert wanted[0, 0].tolist() == expected
        assert model.logits(image).shape == image.shape


def test_what_does_not_divide_is_dropped_or_stretched_as_in_the_sources() -> None:
    assert UNet(1, 1, SMALL, odd_sides="crop_skip")(torch.rand(1, 1, 252, 252)).shape[2:] == (240, 240)
    assert UNet(1, 1, SMALL, odd_sides="resize_up")(torch.rand(1, 1, 253, 250)).shape[2:] == (253, 250)
    dropping = wrapped(UNet(1, 1, SMALL, odd_sides="crop_skip", target="resize"))
    logits, mask = dropping.supervised(torch.rand(1, 1, 252, 252), torch.zeros(1, 252, 252))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape[2:] == mask.shape[1:] == (240, 240)


@pytest.mark.parametrize("concat", ["skip_first", "up_first"])
def test_the_order_of_concatenation(concat: str) -> None:
    """With nothing coming from below, the half of the channels that reads the skip decides."""
    network = UNet(1, 1, (2, 4), norm="none", concat=concat)  # type: ignore[arg-type]
    with torch.no_grad():
        network.up[0].conv.weight.zero_()  # type: ignore[union-attr,operator]
        network.up[0].conv.bias.zero_()  # type: ignore[union-attr,operator]
        weight = network.decoder[0].convs[0].conv.weight  # type: ignore[union-attr,index]
        weight.abs_()[:, :2] = 0  # the first half
        network.encoder[0].convs[1].conv.weight.zero_()  # type: ignore[union-attr,index]
        network.encoder[0].convs[1].conv.bias.fill_(1)  # type: ignore[union-attr,index]  # the skip is 1 everywhere
        network.decoder[0].convs[0].conv.bias.zero_()  # type: ignore[union-attr,index]
    seen = network.decoder[0].convs[0]  # type: ignore[index]
    inputs: list[torch.Tensor] = []
    seen.register_forward_hook(lambda module, args, out: inputs.append(out))
    network(torch.rand(1, 1, 8, 8))
    assert bool(inputs[0].any()) == (concat == "up_first")


def test_deep_supervision_shows_the_coarser_levels_in_training_alone() -> None:
    model = wrapped(UNet(1, 2, (4, 8, 16, 32), deep_supervision=2), "multiclass")
    image, mask = torch.rand(1, 1, 21, 30), torch.zeros(1, 21, 30)
    logits, masks = model.supervised(image, mask)
    assert [tuple(level.shape) for level in logits] == [(1, 2, 21, 30), (1, 2, 11, 15), (1, 2, 6, 8)]
    assert [tuple(level.shape) for level in masks] == [(1, 21, 30), (1, 11, 15), (1, 6, 8)]
    assert model.eval().logits(image).shape == (1, 2, 21, 30)


@pytest.mark.parametrize("size", [(65, 50), (34, 41), (97, 92), (17, 3)])
def test_every_size_is_supervised_by_the_pixels_of_its_own_scale(size: tuple[int, int]) -> None:
    model = wrapped(UNet(1, 2, (4, 4, 4, 4, 4), deep_supervision=3), "multiclass")
    rows = torch.arange(size[0]).view(1, -1, 1).expand(1, *size)
    logits, masks = model.supervised(torch.rand(1, 1, *size), rows)
    for level, (out, mask) in enumerate(zip(logits, masks, strict=True)):
        assert out.shape[2:] == mask.shape[1:]
        assert mask[0, :, 0].tolist() == list(range(0, size[0], 2**level))


def test_an_activation_in_the_network_is_taken_off_for_the_losses() -> None:
    network = UNet(1, 1, (4, 8), final="sigmoid")
    image = torch.rand(1, 1, 8, 8)
    probs = network.eval()(image)
    model = wrapped(network).eval()
    assert torch.allclose(model.logits(image).sigmoid(), probs, atol=1e-6)
    assert torch.allclose(model(image), probs, atol=1e-6)
    assert torch.allclose(UNet(1, 3, (4, 8), final="softmax")(image).sum(1), torch.ones(1, 8, 8))


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_volumes_of_few_slices(norm: Any) -> None:
    network = UNet(1, 2, (8, 16, 32), norm=norm, pool=[[1, 2, 2], 2], dims=3)
    assert network.stride == (2, 4, 4)
    out = wrapped(network, "multiclass", 3)(torch.rand(2, 1, 5, 18, 21))
    assert out.shape == (2, 2, 5, 18, 21)


def test_volumes_two_slices_deep_have_finite_gradients_in_bf16() -> None:
    network = UNet(1, 2, (8, 16, 32), dims=3)
    for _ in range(20):
        freed = [torch.full((2**k,), float("nan")) for k in range(6, 18)]
        del freed
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = network(torch.rand(2, 1, 8, 12, 20))
        network.zero_grad()
        out.float().square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_instance_norm_is_what_it_says() -> None:
    x = torch.randn(2, 8, 5, 7) * 3 + 1
    ours = UNet(1, 1, (8, 16), norm="instance").encoder[0].convs[0].norm  # type: ignore[union-attr,index]
    assert torch.allclose(ours(x), torch.nn.InstanceNorm2d(8)(x), atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": (8,)}, "two levels"),
        ({"widths": (12, 24), "norm": "group"}, "divide by 8"),
        ({"pool": [2]}, "pool needs 2 entries"),
        ({"pool": [2, [2, 2]], "dims": 3}, "a number or 3 of them"),
        ({"deep_supervision": 2}, "1 level"),
        ({"deep_supervision": 1, "padding": "valid"}, "padding=same"),
        ({"down": "conv", "padding": "valid"}, "down=conv"),
        ({"final": "softmax"}, "always 1"),
    ],
)
def test_impossible_networks_are_refused_with_the_reason(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNet(1, 1, **{"widths": (8, 16, 32), **options})


@pytest.mark.parametrize("size", [(37, 53), (1, 1), (16, 17), (250, 3)])
def test_the_wrapper_takes_any_size(size: tuple[int, int]) -> None:
    for options in ({}, {"padding": "valid", "widths": (2, 4, 8)}, {"odd_sides": "crop_skip"}, {"odd_sides": "resize_up"}):
        model = wrapped(UNet(1, 1, **{"widths": (4, 8, 16, 32), **options})).eval()  # type: ignore[arg-type]
        assert model(torch.rand(1, 1, *size)).shape == (1, 1, *size)


def test_padding_does_not_change_an_image_that_divides() -> None:
    model = wrapped(UNet(1, 1, (4, 8))).eval()
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(model.logits(image), model.network(image))


def test_compiling_keeps_the_names_in_the_state_dict() -> None:
    network = UNet(1, 1, (4, 8))
    before = list(network.state_dict())
    network.compile()
    assert list(network.state_dict()) == before
