"""Networks of segmentation-models-pytorch (Iakubovskii, 2019), through its one factory."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from segkit.errors import SegkitError, nearest

Architecture = Literal[
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer", "DPT"
]  # fmt: skip


def smp_network(
    in_channels: int,
    out_channels: int,
    arch: Architecture = "Unet",
    encoder_name: str = "resnet34",
    encoder_weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Logits (B, out_channels, H, W) of the input's size. `options` go to the architecture's own constructor.

    `encoder_weights` downloads once into the cache of torch or the Hugging Face hub; offline, the error says so.
    """
    import segmentation_models_pytorch as smp

    if any(place in encoder_name for place in (":", "/")):
        raise SegkitError(f"model.encoder_name = {encoder_name}: a name of the list or tu-NAME, no address to load from")
    known = smp.encoders.get_encoder_names()
    if encoder_name not in known and not encoder_name.startswith("tu-"):
        raise SegkitError(f"model.encoder_name = {encoder_name}: no such encoder; {nearest(encoder_name, known)}")
    try:
        network: nn.Module = smp.create_model(arch, encoder_name, encoder_weights, in_channels=in_channels, classes=out_channels, **options)
    except (OSError, RuntimeError) as error:
        if encoder_weights is None:
            raise
        raise SegkitError(
            f"model.encoder_weights={encoder_weights} of {encoder_name} cannot be had: {str(error).splitlines()[0]}\n"
            "  connect once so that they are cached, or train from scratch:   model.encoder_weights=null"
        ) from error
    network.stride = 32  # type: ignore[assignment]  # no encoder of smp reduces an image further
    return network
