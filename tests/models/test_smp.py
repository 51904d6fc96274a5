"""segmentation-models-pytorch through one function and one YAML; its hub replaced by a cache folder with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from segkit.models.segmentation import Normalizer, SegmentationModel
from segkit.models.smp import SMP, Architecture, weights_on_offer
from segkit.system.errors import SegkitError

ARCHITECTURES = get_args(Architecture)
STRIDES = {"PSPNet": 8, "PAN": 128, "DeepLabV3": 8, "DeepLabV3Plus": 16}
OWN, TIMM = "resnet18", "tu-test_resnet"
NO_WEIGHTS = next(f"tu-{name}" for name in timm.list_models("resnet*") if not timm.models.is_model_pretrained(name))


def encoder_for(arch: str) -> str:
    return "tu-test_vit" if arch == "DPT" else OWN


def wrapped(network: nn.Module) -> SegmentationModel:
    return SegmentationModel(network, Normalizer("unit"), "multiclass")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_trains_at_an_odd_size(arch: Architecture) -> None:
    model = wrapped(SMP(2, 3, arch, encoder_for(arch))).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits(torch.rand(2, 2, 70, 90))
    assert logits.shape == (2, 3, 70, 90)
    nn.functional.cross_entropy(logits, torch.randint(0, 3, (2, 70, 90))).backward()
    first, *_, last = model.parameters()
    assert first.grad is not None
    assert last.grad is not None  # some encoders' deepest parts stay unused, as in PSPNet and DPT
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_stride_is_the_smallest_image_and_its_multiples_fit(arch: Architecture) -> None:
    network = SMP(1, 2, arch, encoder_for(arch)).eval()
    stride: Any = network.stride
    assert stride == STRIDES.get(arch, 32)
    with torch.no_grad():
        for size in ((stride, stride), (2 * stride, 3 * stride)):
            assert network(torch.rand(1, 1, *size)).shape == (1, 2, *size)


def test_a_shallow_encoder_has_a_smaller_stride() -> None:
    network = SMP(1, 1, "Unet", OWN, encoder_depth=3, decoder_channels=[64, 32, 16])
    assert network.stride == 8
    assert wrapped(network).eval()(torch.rand(1, 1, 36, 44)).shape == (1, 1, 36, 44)


@pytest.mark.parametrize("encoder", [TIMM, "tu-test_convnext", "tu-swin_tiny_patch4_window7_224"])
def test_encoders_of_timm_take_any_size(encoder: str) -> None:
    """Of swin too, though it is made for 224 x 224."""
    with torch.no_grad():
        assert wrapped(SMP(1, 2, "Unet", encoder)).eval()(torch.rand(1, 1, 70, 90)).shape == (1, 2, 70, 90)


@pytest.mark.parametrize(
    ("arch", "encoder", "options", "message"),
    [
        ("Unet", "resnet43", {}, "did you mean resnet34"),
        ("Unet", "tu-resnet8", {}, "did you mean tu-resnet18"),
        ("Unet", "tu-resnet18.a1_in2k", {}, "did you mean a1_in1k"),
        ("Unet", "tu-resnet18.imagenet", {}, "no weights imagenet"),
        ("Unet", "tu-hf-hub:someone/model", {}, "no address to load from"),
        ("Unit", OWN, {}, "available: Unet, UnetPlusPlus"),
        ("Linknet", "mit_b0", {}, "not supported for Linknet(.|\n)*model.arch=NAME"),
        ("UnetPlusPlus", "mit_b0", {}, "cannot be built with mit_b0"),
        ("PAN", "densenet121", {}, "dilated(.|\n)*model.encoder_name=resnet34"),
        ("DeepLabV3", "tu-hrnet_w18_small", {}, "needs an encoder that can be dilated"),
        ("Unet", "tu-test_vit", {}, "model.arch=DPT"),
        ("DPT", "resnet34", {}, "model.encoder_name=tu-vit_base_patch16_224"),
        ("DPT", "tu-vit_small_patch14_dinov2", {}, "patches of 8, 16 or 32(.|\n)*model.encoder_name=tu-vit_base_patch16_224"),
        ("DPT", "tu-beit_base_patch16_224", {}, "doesn't match model(.|\n)*model.encoder_name=tu-vit_base_patch16_224"),
        ("Unet", OWN, {"decoder_chanels": [1]}, "did you mean model.decoder_channels"),
        ("Unet", OWN, {"decoder_channels": [8, 4]}, "or other values of  model.decoder_channels"),
        ("Unet", OWN, {"activation": "sigmoid"}, "losses want logits"),
        ("Unet", TIMM, {"checkpoint_path": "weights.pth"}, "model.encoder_weights=FILE"),
    ],
)
def test_what_does_not_go_together_says_what_to_type(arch: Any, encoder: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SegkitError, match=message):
        SMP(1, 1, arch, encoder, **options)


# Pre-trained weights


def random_encoder(name: str) -> dict[str, Tensor]:
    """State as it lies on the hub: of three channels; timm's with the classifier."""
    torch.manual_seed(1)
    network = timm.create_model(name.removeprefix("tu-")) if name.startswith("tu-") else smp.encoders.get_encoder(name)
    return {key: tensor.clone() for key, tensor in network.state_dict().items()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, dict[str, Tensor]], Path]:
    """A cache of the hub without a connection, and a way to put a repository into it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(repository: str, revision: str, state: dict[str, Tensor]) -> Path:
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        snapshot = folder / "snapshots" / revision
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(revision)
        (snapshot / "config.json").write_text("{}")
        save_file(state, snapshot / "model.safetensors")
        return snapshot / "model.safetensors"

    return put


def first_conv(network: Any) -> Tensor:
    return next(module.weight for module in network.encoder.modules() if isinstance(module, nn.Conv2d))


def features(network: Any, image: Tensor) -> Tensor:
    with torch.no_grad():
        return network.eval().encoder(image)[-1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [OWN, TIMM])
def test_weights_come_from_the_cache_of_the_hub_and_from_its_file(name: str, hub: Callable[..., Path]) -> None:
    state, repository = random_encoder(name), weights_on_offer(name)["imagenet"]
    settings = smp.encoders.encoders[OWN]["pretrained_settings"]["imagenet"]
    file = hub(repository, settings["revision"] if name == OWN else "0" * 40, state)
    right: Any = SMP(3, 1, "Unet", name)
    if name == TIMM:
        right.encoder.model.load_state_dict(state, strict=False)
    else:
        right.encoder.load_state_dict(dict(state))
    image = torch.rand(1, 3, 64, 64)
    for weights in ("imagenet", str(file)):
        torch.manual_seed(2)
        network = SMP(3, 1, "Unet", name, weights)
        torch.testing.assert_close(features(network, image), features(right, image), rtol=0, atol=0)
    torch.manual_seed(2)
    fresh = SMP(3, 1, "Unet", name)
    assert not torch.equal(first_conv(fresh), first_conv(network))


@pytest.mark.parametrize("source", ["hub", "file"])
@pytest.mark.parametrize("name", [OWN, TIMM])
def test_other_channels_reuse_the_first_convolution(name: str, source: str, hub: Callable[..., Path]) -> None:
    """One channel sees the sum over red, green and blue; n channels see them in turn, times 3/n."""
    state, repository = random_encoder(name), weights_on_offer(name)["imagenet"]
    settings = smp.encoders.encoders[OWN]["pretrained_settings"]["imagenet"]
    file = hub(repository, settings["revision"] if name == OWN else "0" * 40, state)
    rgb = next(tensor for tensor in state.values() if tensor.ndim == 4)
    for channels in (1, 2, 5):
        network = SMP(channels, 1, "Unet", name, "imagenet" if source == "hub" else str(file))
        fitted = rgb.sum(1, keepdim=True) if channels == 1 else rgb[:, [i % 3 for i in range(channels)]] * 3 / channels
        torch.testing.assert_close(first_conv(network), fitted)
        assert wrapped(network).eval()(torch.rand(1, channels, 33, 40)).shape == (1, 1, 33, 40)


def test_a_file_of_an_encoder_with_as_many_channels_is_taken_as_it_is(tmp_path: Path) -> None:
    own: Any = SMP(1, 1, "Unet", OWN)
    torch.save(own.encoder.state_dict(), tmp_path / "encoder.pth")
    again = SMP(1, 1, "FPN", OWN, str(tmp_path / "encoder.pth"))
    assert torch.equal(first_conv(own), first_conv(again))


def test_a_transformer_takes_weights_from_a_file(tmp_path: Path) -> None:
    state = random_encoder("tu-test_vit")
    save_file(state, tmp_path / "vit.safetensors")
    network: Any = SMP(3, 1, "DPT", "tu-test_vit", str(tmp_path / "vit.safetensors"))
    assert torch.equal(network.encoder.model.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("name", [OWN, TIMM])
def test_a_file_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    torch.save(random_encoder("tu-test_convnext"), tmp_path / "other.pth")
    with pytest.raises(SegkitError, match=r"other.pth.*of " + name):
        SMP(3, 1, "Unet", name, str(tmp_path / "other.pth"))
    with pytest.raises(SegkitError, match="no such file"):
        SMP(3, 1, "Unet", name, str(tmp_path / "none.safetensors"))


def test_a_file_with_a_part_of_the_weights_is_refused(tmp_path: Path) -> None:
    state = {key: tensor for key, tensor in random_encoder(TIMM).items() if not key.startswith("layer4.0.conv2")}
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(SegkitError, match=r"lacks 1 of \d+ weights of tu-test_resnet: model.layer4.0.conv2.weight"):
        SMP(3, 1, "Unet", TIMM, str(tmp_path / "part.pth"))


@pytest.mark.parametrize("name", [OWN, TIMM])
def test_without_a_connection_the_error_names_the_repository_and_where_it_belongs(name: str, hub: object, tmp_path: Path) -> None:
    repository = weights_on_offer(name)["imagenet"]
    with pytest.raises(SegkitError) as caught:
        SMP(1, 1, "Unet", name, "imagenet")
    message = str(caught.value)
    folder = str(tmp_path / f"models--{repository.replace('/', '--')}")
    for words in ("no connection", repository, folder, "model.safetensors", "model.encoder_weights=null"):
        assert words in message


def test_a_damaged_file_in_the_cache_is_named(hub: Callable[..., Path]) -> None:
    settings = smp.encoders.encoders[OWN]["pretrained_settings"]["imagenet"]
    hub(settings["repo_id"], settings["revision"], {"a": torch.zeros(1)}).write_bytes(b"cut")
    with pytest.raises(SegkitError, match="damaged"):
        SMP(1, 1, "Unet", OWN, "imagenet")


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        (OWN, "imagnet", "did you mean imagenet"),
        (OWN, "in22k", "available: imagenet, ssl, swsl"),
        ("tu-resnet18", "a1_in2k", "did you mean a1_in1k"),
        ("tu-resnet18.a2_in1k", "gluon", "available: imagenet, a2_in1k$"),
        ("tu-vgg11_bn", "other", "available: imagenet, tv_in1k"),
        (NO_WEIGHTS, "imagenet", "none are on offer"),
    ],
)
def test_unknown_weights_name_those_on_offer(name: str, weights: str, message: str, hub: object) -> None:
    with pytest.raises(SegkitError, match=message):
        SMP(1, 1, "Unet", name, weights)
