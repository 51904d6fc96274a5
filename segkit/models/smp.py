"""Networks of segmentation-models-pytorch (Iakubovskii, 2019), with its own encoders or any of timm's (Wightman, 2019; `tu-NAME`)."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn

from segkit.models.weights import files
from segkit.system.errors import SegkitError, first_line, nearest

Architecture = Literal[
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer", "DPT"
]  # fmt: skip
TIMM, TRANSFORMER = "tu-", "tu-vit_base_patch16_224"
IMAGENET, ANY_SIZE = "imagenet", "dynamic_img_size"
FILES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors")
DILATED = ("PAN", "DeepLabV3", "DeepLabV3Plus")
"""Take the strides out of the encoder's last stages, which not every encoder allows."""
NO_OPTIONS = {
    "activation": "losses want logits, and prediction adds the activation itself",
    "aux_params": "one output is trained, the mask",
    **dict.fromkeys(
        ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"), "use  model.encoder_weights=FILE"
    ),
}


class SMP(nn.Module):
    """A network of segmentation-models-pytorch: images (B, in_channels, H, W) -> logits (B, out_channels, H, W).

    H and W must divide by `stride`, which depends on encoder and architecture.

    Args:
        in_channels: channels of the images.
        out_channels: planes of the logits.
        arch: the architecture: Unet, UnetPlusPlus, MAnet, Linknet, FPN, PSPNet, PAN, DeepLabV3, DeepLabV3Plus, UPerNet,
            Segformer or DPT.
        encoder_name: one of segmentation-models-pytorch, or tu-NAME of timm; `segkit models` lists them.
        encoder_weights: a name on offer for this encoder, downloaded once into the cache of the Hugging Face hub; or a file
            with the encoder's state dict. They were trained on three channels: of one channel the first convolution takes
            the sum of its weights, of n it repeats them in turn, times 3/n.
        options: keywords of the architecture's own constructor.

    Raises:
        SegkitError: encoder, architecture and options do not go together, or the weights cannot be loaded.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        arch: Architecture = "Unet",
        encoder_name: str = "resnet34",
        encoder_weights: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        check_encoder(encoder_name)
        _check(arch, encoder_name, options)
        recipe = Recipe(in_channels, out_channels, arch, encoder_name, {**_any_size(encoder_name, options), **options})
        if arch == "DPT":
            _try_sizes(recipe)
        network: Any
        if encoder_weights is None:
            network = recipe.build()
        elif not is_file(encoder_weights):
            network = _from_hub(recipe, encoder_weights)
        else:
            from_file = _timm_from_file if encoder_name.startswith(TIMM) else _own_from_file
            network = from_file(recipe, Path(encoder_weights).expanduser())
        self.encoder, self.decoder, self.segmentation_head = network.encoder, network.decoder, network.segmentation_head
        self.stride = stride_of(network, arch)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)  # DPT's encoders give tokens besides
        decoded = self.decoder(*features) if isinstance(features, tuple) else self.decoder(features)
        return self.segmentation_head(decoded)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Recipe:
    in_channels: int
    out_channels: int
    arch: str
    encoder_name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, weights: str | bool | None = None) -> nn.Module:
        """SegkitError where encoder, architecture and options do not go together. OSError: the weights cannot be downloaded."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Encoder does not have prefix tokens")  # which DPT then does without
                network: nn.Module = smp.create_model(
                    self.arch, self.encoder_name, weights, in_channels=self.in_channels, classes=self.out_channels, **self.options
                )
        except (OSError, SafetensorError):
            raise
        except Exception as error:  # smp, timm and torch raise whatever suits them
            raise SegkitError(
                f"model: {self.arch} cannot be built with {self.encoder_name}: {first_line(error)}\n  {self.ways()}"
            ) from error
        return network

    def ways(self) -> str:
        if self.arch == "DPT":
            return f"DPT needs a vision transformer with patches of 8, 16 or 32 pixels;   use  model.encoder_name={TRANSFORMER}"
        if self.arch in DILATED:
            return f"{self.arch} needs an encoder that can be dilated;   use  model.encoder_name=resnet34"
        if "vit" in self.encoder_name:
            return "plain vision transformers have one scale, which only DPT takes;   use  model.arch=DPT"
        mine = [key for key in self.options if key != ANY_SIZE]
        other = f",  or other values of  {', '.join(f'model.{key}' for key in mine)}" if mine else ""
        return f"use  model.encoder_name=resnet34,  or another  model.arch=NAME{other};   segkit models  lists both"


def stride_of(network: nn.Module, arch: str) -> int:
    """Return what the sides of an image must divide by: the encoder's coarsest scale, or the decoder's where that is coarser."""
    encoder: Any = network.encoder
    if arch == "PAN":
        return int(8 * encoder.output_stride)  # its feature pyramid attention halves the features three times
    if arch == "DPT":
        return math.lcm(encoder.output_stride, 2 ** (len(encoder.output_strides) + 1))
    return int(encoder.output_stride)


# Encoders


def check_encoder(name: str) -> None:
    if any(place in name for place in (":", "/", os.sep)):
        raise SegkitError(f"model.encoder_name = {name}: a name of the list or tu-NAME, no address to load from")
    base, _, tag = name.partition(".")
    known = encoder_names()
    if base not in known and not (base.startswith(TIMM) and timm.is_model(base.removeprefix(TIMM))):
        raise SegkitError(f"model.encoder_name = {name}: no such encoder;   {nearest(name, known) or 'segkit models  lists them'}")
    there = weights_on_offer(base) if tag else {}
    if tag and (tag == IMAGENET or tag not in there):
        there.pop(IMAGENET, None)
        raise SegkitError(f"model.encoder_name = {name}: no weights {tag};   {_choice(tag, there)}")


def encoder_names() -> list[str]:
    """smp's own, then timm's; not all of timm's fit."""
    return [*smp.encoders.get_encoder_names(), *(f"{TIMM}{name}" for name in timm.list_models())]


def weights_on_offer(encoder_name: str) -> dict[str, str]:
    """Values of `encoder_weights`, and the hub's repository of each. Of timm's, `imagenet` stands for the first, its default."""
    base, _, tag = encoder_name.removeprefix(TIMM).partition(".")
    if not encoder_name.startswith(TIMM):
        return {name: place["repo_id"] for name, place in smp.encoders.encoders[encoder_name]["pretrained_settings"].items()}
    cfgs: list[Any] = [timm.models.get_pretrained_cfg(name) for name in timm.list_pretrained(f"{base}.{tag or '*'}")]
    default: Any = timm.models.get_pretrained_cfg(base)
    cfgs.sort(key=lambda cfg: cfg.tag != default.tag)
    places = {str(cfg.tag): str(cfg.hf_hub_id) for cfg in cfgs if cfg.hf_hub_id}
    return {IMAGENET: next(iter(places.values())), **places} if places else {}


def _check(arch: str, encoder_name: str, options: Mapping[str, Any]) -> None:
    if arch not in get_args(Architecture):
        raise SegkitError(f"model.arch = {arch}: available: {', '.join(get_args(Architecture))}")
    for key in options.keys() & NO_OPTIONS:
        raise SegkitError(f"model.{key} cannot be set: {NO_OPTIONS[key]}")
    if arch == "DPT" and not encoder_name.startswith(TIMM):
        raise SegkitError(f"model.arch=DPT takes transformers of timm, not {encoder_name};   use  model.encoder_name={TRANSFORMER}")
    known = inspect.signature(getattr(smp, arch)).parameters
    for key in [] if encoder_name.startswith(TIMM) else options.keys() - known.keys():  # smp drops them without a word
        raise SegkitError(f"model.{key}: {arch} takes no {key};   {nearest(key, known, 'model.')}".rstrip("; "))


def _any_size(encoder_name: str, options: Mapping[str, Any]) -> dict[str, bool]:
    """timm's switch of transformers that are made for images of one size, where this one has it."""
    if not encoder_name.startswith(TIMM) or "img_size" in options:
        return {}
    base = encoder_name.removeprefix(TIMM).partition(".")[0]
    cfg = timm.models.get_pretrained_cfg(base)
    if cfg is None or not cfg.fixed_input_size:
        return {}
    try:
        with torch.device("meta"):
            timm.create_model(base, dynamic_img_size=True)
    except TypeError:
        return {}
    return {ANY_SIZE: True}


def _try_sizes(recipe: Recipe) -> None:
    """DPT is built with encoders that it then cannot run with."""
    with torch.device("meta"):
        meta_model = recipe.build().eval()
        stride, size = stride_of(meta_model, "DPT"), recipe.options.get("img_size")
        sides = (2 * stride, 3 * stride) if size is None else (size, size) if isinstance(size, int) else tuple(size)
        try:
            out = meta_model(torch.empty(1, recipe.in_channels, *sides)).shape[2:]
        except (RuntimeError, AssertionError, ValueError, AttributeError, TypeError) as error:
            out, reason = None, first_line(error)
        else:
            reason = f"its output is {tuple(out)} for images of {sides}"
    if out != sides:
        raise SegkitError(f"model: DPT cannot run with {recipe.encoder_name}: {reason}\n  {recipe.ways()}")


# Pre-trained weights


def is_file(weights: str) -> bool:
    return weights.endswith(FILES) or os.sep in weights


def _from_hub(recipe: Recipe, weights: str) -> nn.Module:
    name = recipe.encoder_name
    there = weights_on_offer(name)
    if weights not in there:
        ways = _choice(weights, there) if there else "none are on offer; use  model.encoder_weights=null  or a file"
        raise SegkitError(f"model.encoder_weights = {weights} is not available for {name};   {ways}")
    value: str | bool = weights
    if name.startswith(TIMM):  # where the tag is part of the name
        tag = next(tag for tag in there if tag != IMAGENET) if weights == IMAGENET else weights
        recipe, value = replace(recipe, encoder_name=f"{name.partition('.')[0]}.{tag}"), True
        cached = try_to_load_from_cache(there[weights], "model.safetensors")
        if isinstance(cached, str):  # timm would ask the hub first, half a minute where there is no connection
            return _timm_from_file(recipe, Path(cached))
    try:
        return recipe.build(value)
    except (OSError, SafetensorError) as error:
        raise SegkitError(_not_had(name, weights, there[weights], error)) from error


def _not_had(encoder_name: str, weights: str, repository: str, error: Exception) -> str:
    reason = first_line(error)
    if isinstance(error, LocalEntryNotFoundError | ConnectionError):
        reason = "no connection to the Hugging Face hub, and they are not in its cache"
    elif isinstance(error, SafetensorError):
        reason = f"the file in the cache is damaged ({reason}); remove it"
    place = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return (
        f"model.encoder_weights = {weights} of {encoder_name} cannot be downloaded: {reason}\n"
        f"  they are {repository} on the hub: start once on a connected machine, and copy the folder from its cache to  {place}\n"
        "  or take the file from there:   model.encoder_weights=FOLDER/model.safetensors\n"
        "  or train from scratch:         model.encoder_weights=null"
    )


def _own_from_file(recipe: Recipe, path: Path) -> nn.Module:
    """smp's encoders know older names of their weights; the first convolution is fitted as smp fits it."""
    state = files.read(path)
    for channels in dict.fromkeys((recipe.in_channels, 3)):
        network = replace(recipe, in_channels=channels).build()
        encoder: Any = network.encoder
        try:
            encoder.load_state_dict(dict(state))
        except (RuntimeError, KeyError) as error:
            misfit = error
            continue
        if channels != recipe.in_channels:
            encoder.set_in_channels(recipe.in_channels, pretrained=True)
        return network
    lines = " ".join(line.strip() for line in str(misfit).splitlines()[1:3])
    raise SegkitError(f"model.encoder_weights: {path} does not hold the weights of {recipe.encoder_name}: {lines[:300]}") from misfit


def _timm_from_file(recipe: Recipe, path: Path) -> nn.Module:
    """timm knows older names, other channels and other sizes, but leaves at random what it does not find."""
    random = torch.get_rng_state()
    fresh: Any = recipe.build().encoder
    torch.set_rng_state(random)
    overlay = {"pretrained_cfg_overlay": {"state_dict": files.read(path)}}
    network = replace(recipe, options={**recipe.options, **overlay}).build(True)
    loaded: Any = network.encoder
    pairs = [(name, a, b) for (name, a), b in zip(fresh.named_parameters(), loaded.parameters(), strict=True) if a.ndim > 1 and a.any()]
    missing = [name for name, a, b in pairs if a.shape == b.shape and torch.equal(a, b)]
    if missing:
        raise SegkitError(
            f"model.encoder_weights: {path} lacks {len(missing)} of {len(pairs)} weights of {recipe.encoder_name}: "
            f"{', '.join(missing[:4])}{', …' if len(missing) > 4 else ''}"
        )
    return network


def _choice(word: str, there: Mapping[str, str]) -> str:
    return nearest(word, there) or f"available: {', '.join(there)}"
