"""Networks of other programs, written anew from their descriptions, must give the same numbers in segkit's own U-Net."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from segkit.config.schema import Weights
from segkit.models.segmentation import Normalizer, SegmentationModel
from segkit.models.unet import UNet
from segkit.models.weights.load import PLAIN, SCHEMAS, identify, load_into, obtain, options_of, translate
from segkit.system.errors import SegkitError
from segkit.system.files import sha256_of

NARROW = (2, 3, 4, 5, 6)


def middle(x: Tensor, like: Tensor) -> Tensor:
    top, left = (x.shape[2] - like.shape[2]) // 2, (x.shape[3] - like.shape[3]) // 2
    return x[:, :, top : top + like.shape[2], left : left + like.shape[3]]


class Isbi(nn.Module):
    """EM membranes: unpadded, no norm, a layer that nobody calls, sigmoid at the end."""

    def __init__(self, w: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        for i, (a, b) in enumerate(zip((1, *w), w, strict=False), start=1):
            setattr(self, f"conv{i}", self.double(a, b))
        for k, (deep, shallow) in enumerate(zip(w[::-1], w[-2::-1], strict=False), start=1):
            setattr(self, f"up_conv{k}", nn.ConvTranspose2d(deep, shallow, 2, 2))
            setattr(self, f"conv{5 + k}", self.double(2 * shallow, shallow))
        self.upconv4 = nn.ConvTranspose2d(w[4], w[3], 2, 2)
        self.conv10 = nn.Conv2d(w[0], 1, 1)

    @staticmethod
    def double(a: int, b: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(a, b, 3), nn.ReLU(), nn.Conv2d(b, b, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        c1 = self.conv1(x)
        c2 = self.conv2(max_pool2d(c1, 2))
        c3 = self.conv3(max_pool2d(c2, 2))
        c4 = self.conv4(max_pool2d(c3, 2))
        x = self.conv5(max_pool2d(c4, 2))
        for k, skip in enumerate((c4, c3, c2, c1), start=1):
            up = getattr(self, f"up_conv{k}")(x)
            x = getattr(self, f"conv{5 + k}")(torch.cat([middle(skip, up), up], 1))
        return self.conv10(x).sigmoid()


def conv_norm_relu_twice(a: int, b: int) -> nn.Sequential:
    parts = [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*parts)


class Brats(nn.Module):
    """Whole tumor on T2: padded, batch norm, logits."""

    def __init__(self, w: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        for i, (a, b) in enumerate(zip((1, *w), w, strict=False), start=1):
            setattr(self, f"down_convolution_{i}", conv_norm_relu_twice(a, b))
        for k, (deep, shallow) in enumerate(zip(w[::-1], w[-2::-1], strict=False), start=1):
            setattr(self, f"up_transpose_{k}", nn.ConvTranspose2d(deep, shallow, 2, 2))
            setattr(self, f"up_convolution_{k}", conv_norm_relu_twice(2 * shallow, shallow))
        self.out = nn.Conv2d(w[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        d1 = self.down_convolution_1(x)
        d2 = self.down_convolution_2(max_pool2d(d1, 2))
        d3 = self.down_convolution_3(max_pool2d(d2, 2))
        d4 = self.down_convolution_4(max_pool2d(d3, 2))
        x = self.down_convolution_5(max_pool2d(d4, 2))
        x = self.up_convolution_1(torch.cat([d4, self.up_transpose_1(x)], 1))
        x = self.up_convolution_2(torch.cat([d3, self.up_transpose_2(x)], 1))
        x = self.up_convolution_3(torch.cat([d2, self.up_transpose_3(x)], 1))
        x = self.up_convolution_4(torch.cat([d1, self.up_transpose_4(x)], 1))
        return self.out(x)


class DoubleConv(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv = conv_norm_relu_twice(a, b)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Chest(nn.Module):
    """Clavicles and ribs: lists of modules, what comes from below is stretched to the skip, logits."""

    def __init__(self, w: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        *features, bottom = w
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        n = 3
        for width in features:
            self.downs.append(DoubleConv(n, width))
            n = width
        for width, below in zip(features[::-1], [bottom, *features[::-1]], strict=False):
            self.ups.append(nn.ConvTranspose2d(below, width, 2, 2))
            self.ups.append(DoubleConv(2 * width, width))
        self.bottleneck, self.finalConv = DoubleConv(features[-1], bottom), nn.Conv2d(features[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
            x = max_pool2d(x, 2)
        x = self.bottleneck(x)
        for i in range(0, len(self.ups), 2):
            x, skip = self.ups[i](x), skips.pop()
            if x.shape != skip.shape:
                x = interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False)
            x = self.ups[i + 1](torch.cat((skip, x), 1))
        return self.finalConv(x)


class Fetal(nn.Module):
    """Fetal head: batch norm before each block, at the bottom and on the logit; up first; sides lose remainders."""

    def __init__(self, w: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        for i, (a, b) in enumerate(zip((1, *w), w, strict=False), start=1):
            setattr(self, f"down_conv{i}", nn.Sequential(nn.BatchNorm2d(a), *conv_norm_relu_twice(a, b)))
        self.conv_bn = nn.BatchNorm2d(w[4])
        for k, (deep, shallow) in enumerate(zip(w[::-1], w[-2::-1], strict=False), start=1):
            setattr(self, f"trans{k}", nn.ConvTranspose2d(deep, shallow, 2, 2))
            setattr(self, f"up_conv{k}", nn.Sequential(nn.BatchNorm2d(2 * shallow), *conv_norm_relu_twice(2 * shallow, shallow)))
        self.out = nn.Sequential(nn.Conv2d(w[0], 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.down_conv1(x)]
        for i in (2, 3, 4):
            skips.append(getattr(self, f"down_conv{i}")(max_pool2d(skips[-1], 2)))
        x = self.conv_bn(self.down_conv5(max_pool2d(skips[-1], 2)))
        for k in (1, 2, 3, 4):
            x = getattr(self, f"trans{k}")(x)
            x = getattr(self, f"up_conv{k}")(torch.cat([x, middle(skips[-k], x)], 1))
        return self.out(x)


class Hub(nn.Module):
    """Brain MR of torch.hub: named layers, no conv bias, up first, levels counted from the image, sigmoid."""

    def __init__(self, w: tuple[int, ...] = (32, 64, 128, 256, 512)) -> None:
        super().__init__()
        for i, (a, b) in enumerate(zip((3, *w), w[:4], strict=False), start=1):
            setattr(self, f"encoder{i}", self.block(a, b, f"enc{i}"))
        self.bottleneck = self.block(w[3], w[4], "bottleneck")
        for i in (4, 3, 2, 1):
            setattr(self, f"upconv{i}", nn.ConvTranspose2d(w[i], w[i - 1], 2, 2))
            setattr(self, f"decoder{i}", self.block(2 * w[i - 1], w[i - 1], f"dec{i}"))
        self.conv = nn.Conv2d(w[0], 1, 1)

    @staticmethod
    def block(a: int, b: int, name: str) -> nn.Sequential:
        parts = OrderedDict[str, nn.Module]()
        for n, width in ((1, a), (2, b)):
            parts[f"{name}conv{n}"] = nn.Conv2d(width, b, 3, padding=1, bias=False)
            parts[f"{name}norm{n}"], parts[f"{name}relu{n}"] = nn.BatchNorm2d(b), nn.ReLU()
        return nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        e1 = self.encoder1(x)
        e2 = self.encoder2(max_pool2d(e1, 2))
        e3 = self.encoder3(max_pool2d(e2, 2))
        e4 = self.encoder4(max_pool2d(e3, 2))
        x = self.bottleneck(max_pool2d(e4, 2))
        x = self.decoder4(torch.cat((self.upconv4(x), e4), 1))
        x = self.decoder3(torch.cat((self.upconv3(x), e3), 1))
        x = self.decoder2(torch.cat((self.upconv2(x), e2), 1))
        x = self.decoder1(torch.cat((self.upconv1(x), e1), 1))
        return self.conv(x).sigmoid()


FOREIGN: dict[str, tuple[Callable[..., nn.Module], tuple[int, int, int]]] = {
    "isbi_valid_unet": (Isbi, (1, 188, 204)),
    "brats_unet": (Brats, (1, 32, 48)),
    "chest_bones_unet": (Chest, (3, 37, 50)),
    "fetal_head_unet": (Fetal, (1, 60, 44)),
    "mateuszbuda_hub": (Hub, (3, 32, 48)),
}
"""By schema: the network, and channels, rows, columns of an image that shows its ways with borders and remainders."""
GIVES_PROBABILITIES = ("isbi_valid_unet", "fetal_head_unet", "mateuszbuda_hub")
N_PARAMETERS = {
    "isbi_valid_unet": 31_030_593 + 2_097_664,
    "brats_unet": 31_042_369,
    "chest_bones_unet": 31_043_521,
    "mateuszbuda_hub": 7_763_041,
}


def foreign_network(schema: str) -> tuple[nn.Module, Tensor]:
    """A narrow one as after a training, with statistics in its norms, and images of which half the pixels are structure."""
    torch.manual_seed(len(schema))
    build, size = FOREIGN[schema]
    network = build(NARROW)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.3, 2)  # type: ignore[union-attr]
            module.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    images = torch.rand(2, *size)
    with torch.no_grad():
        out = network.eval()(images)
        list(network.parameters())[-1].sub_((out.logit() if schema in GIVES_PROBABILITIES else out).median())
    return network, images


def imported(state: dict[str, Tensor], schema: str) -> UNet:
    ours = translate(state, schema)
    network = UNet(**options_of(schema, ours)).eval()
    load_into(network, state, schema)
    return network


def zipped(state: dict[str, Tensor], path: Path) -> None:
    torch.save(state, path)


def parallel_under_key(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"epoch": 29, "model_state_dict": {f"module.{k}": v for k, v in state.items()}, "optimizer": {"lr": 1e-4}}, path)


def of_old_torch(state: dict[str, Tensor], path: Path) -> None:
    """Not a zip file, and batches were not counted."""
    older = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": older}, path, _use_new_zipfile_serialization=False)


def safetensors(state: dict[str, Tensor], path: Path) -> None:
    save_file({f"_orig_mod.{k}": v.contiguous() for k, v in state.items()}, path)


@pytest.mark.parametrize("write", [zipped, parallel_under_key, of_old_torch, safetensors])
@pytest.mark.parametrize("schema", FOREIGN)
def test_outputs_are_those_of_the_foreign_network(schema: str, write: Callable[..., None], tmp_path: Path) -> None:
    theirs, image = foreign_network(schema)
    write(theirs.state_dict(), tmp_path / "weights.bin")
    state, found = obtain(Weights(path=str(tmp_path / "weights.bin")))
    assert found == schema
    with torch.no_grad():
        expected, out = theirs(image), imported(state, schema)(image)
    assert out.shape == expected.shape
    assert expected.std() > 1e-3  # an output that says something
    assert torch.allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("schema", FOREIGN)
def test_the_other_order_of_concatenation_is_found_out(schema: str) -> None:
    """It fits by shape and computes something else: it is refused before any weights are loaded."""
    theirs, image = foreign_network(schema)
    state, right = theirs.state_dict(), SCHEMAS[schema]
    other = {"skip_first": "up_first", "up_first": "skip_first"}[right.options["concat"]]
    network = UNet(**{**options_of(schema, translate(state, schema)), "concat": other}).eval()
    load_into(network, translate(state, schema), PLAIN)
    with torch.no_grad():
        assert not torch.allclose(network(image), theirs(image), atol=1e-3)
    with pytest.raises(SegkitError, match=f"by shape, not by meaning(.|\n)*use  model.concat={right.options['concat']}"):
        load_into(network, state, schema)


@pytest.mark.parametrize("schema", FOREIGN)
def test_widths_channels_and_parameters_at_full_size(schema: str) -> None:
    with torch.device("meta"):
        state = FOREIGN[schema][0]().state_dict()
        options = options_of(schema, translate(state, identify(state).name))
        network = UNet(**options)
    widths = [32, 64, 128, 256, 512] if schema == "mateuszbuda_hub" else [64, 128, 256, 512, 1024]
    assert (options["widths"], options["in_channels"], options["out_channels"], options["dims"]) == (widths, FOREIGN[schema][1][0], 1, 2)
    n_foreign = sum(tensor.numel() for name, tensor in state.items() if name.endswith(("weight", "bias")))
    n_dead = sum(tensor.numel() for name, tensor in state.items() if name.startswith("upconv4.") and schema == "isbi_valid_unet")
    assert n_foreign == N_PARAMETERS.get(schema, n_foreign)
    assert n_dead == (2_097_664 if schema == "isbi_valid_unet" else 0)
    assert sum(p.numel() for p in network.parameters()) == n_foreign - n_dead


def test_a_hash_is_checked_before_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(foreign_network("brats_unet")[0].state_dict(), path)
    with pytest.raises(SegkitError, match=f"sha256 [0-9a-f]{{64}}, not {'0' * 64}"):
        obtain(Weights(path=str(path), sha256="0" * 64))
    obtain(Weights(path=str(path), sha256=sha256_of(path).upper()))


@pytest.mark.parametrize("given", [{}, {"path": "a.pt", "url": "file:///a.pt"}])
def test_weights_come_from_one_place(given: dict[str, Any]) -> None:
    with pytest.raises(SegkitError, match="path or a url, one of them"):
        obtain(Weights(**given))


def test_a_schema_with_a_slip_of_the_pen_is_named(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match=r"did you mean brats_unet\?"):
        obtain(Weights.model_validate({"path": "a.pt", "schema": "brats_umet"}))


def test_tensors_of_no_known_network_are_compared_with_the_closest() -> None:
    state = foreign_network("brats_unet")[0].state_dict()
    state["extra.weight"] = state.pop("out.bias")
    with pytest.raises(SegkitError, match=r"closest is brats_unet") as caught:
        identify(state)
    assert [line.strip() for line in str(caught.value).splitlines()[1:3]] == [
        "the file lacks 1: out.bias",
        "it has besides 1: extra.weight",
    ]
    assert "schema=plain" in str(caught.value)


def test_all_that_does_not_fit_is_reported_at_once() -> None:
    state = foreign_network("brats_unet")[0].state_dict()
    state["up_transpose_2.weight"] = torch.zeros(5, 9, 2, 2)
    with pytest.raises(SegkitError, match=r"another shape 1: up_transpose_2\.weight \(5, 9, 2, 2\) for \(5, 4, 2, 2\)"):
        translate(state, "brats_unet")
    del state["out.weight"], state["out.bias"]
    state["head"] = torch.zeros(1)
    with pytest.raises(SegkitError, match=r"lacks 2: out\.weight, out\.bias(.|\n)*besides 1: head"):
        translate(state, "brats_unet")


def test_images_with_other_channels_are_reported_both_numbers_and_the_ways_out() -> None:
    state = foreign_network("mateuszbuda_hub")[0].state_dict()
    network = UNet(1, 1, NARROW, bias=False, concat="up_first")
    with pytest.raises(SegkitError, match=r"3 input channels, the data has 1(.|\n)*init_from"):
        load_into(network, state, "mateuszbuda_hub")


def test_a_network_of_other_options_is_reported_the_right_ones() -> None:
    state = foreign_network("isbi_valid_unet")[0].state_dict()
    with pytest.raises(SegkitError, match=r"lack \d+: encoder\.0(.|\n)*model\.widths=\[2,3,4,5,6\] model\.padding=valid model\.norm=none"):
        load_into(UNet(1, 1, NARROW), state, "isbi_valid_unet")
    with pytest.raises(SegkitError, match=r"is a network of segkit\.models\.UNet"):
        load_into(nn.Linear(1, 1), state, "isbi_valid_unet")


def test_plain_takes_the_very_network_that_was_saved(tmp_path: Path) -> None:
    network = UNet(2, 3, (2, 4), residual=True)
    torch.save({"net": network.state_dict()}, tmp_path / "own.pt")
    state, schema = obtain(Weights(path=str(tmp_path / "own.pt")))
    assert schema == PLAIN
    other = UNet(2, 3, (2, 4), residual=True)
    load_into(other, state, schema)
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), network.state_dict().values(), strict=True))
    with pytest.raises(SegkitError, match="lack"):
        load_into(UNet(2, 3, (2, 4), residual=True, attention=True), state, schema)


def test_looking_at_weights_leaves_the_random_stream_of_a_training_as_it_is() -> None:
    state = foreign_network("fetal_head_unet")[0].state_dict()
    before = torch.get_rng_state()
    identify(state)
    translate(state, "fetal_head_unet")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fetal_network_as_coded_makes_240_of_252() -> None:
    """Its output stands for the whole image (its authors trained it so), so the wrapper stretches it."""
    theirs, _ = foreign_network("fetal_head_unet")
    network = imported(theirs.state_dict(), "fetal_head_unet")
    image = torch.rand(1, 1, 252, 252)
    with torch.no_grad():
        assert theirs(image).shape == network(image).shape == (1, 1, 240, 240)
        probs = SegmentationModel(network, Normalizer("unit"), "binary").eval()(image)
        stretched = interpolate(theirs(image).logit(), (252, 252), mode="bilinear").sigmoid()
    assert torch.allclose(probs, stretched, atol=1e-4)
