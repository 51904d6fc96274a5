"""Names of tensors in the U-Nets of other programs: one table a network.

A name in the file is STAGE + LAYER + .weight and the like: `down_convolution_1.` + `0` + `.weight`. Stages go from the image
to the bottom (`encoder`) and back (`up`, `decoder`); `layers` says what the places inside a block are in segkit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from segkit.models.unet import UNet

CONV_NORM = {"0": "convs.0.conv", "1": "convs.0.norm", "3": "convs.1.conv", "4": "convs.1.norm"}
LEVELS = 5


@dataclass(frozen=True)
class Schema:
    name: str
    images: str
    """Images that the network was trained on."""
    preprocess: str
    """Overrides that make such images of others."""
    encoder: tuple[str, ...]
    up: tuple[str, ...]
    decoder: tuple[str, ...]
    layers: Mapping[str, str]
    rest: Mapping[str, str]
    cat: tuple[str, str]
    """In which order the foreign program joins the skip and what comes from below: a fact of its source code."""
    options: Mapping[str, Any]
    """Keywords of `UNet` that the tensors do not tell."""
    unused: tuple[str, ...] = field(default=())
    """Layers that are in the file, but that the foreign program never calls."""

    @cached_property
    def prefixes(self) -> dict[str, str]:
        """Foreign prefix -> segkit's."""
        stages = {"encoder": self.encoder, "decoder": self.decoder}
        blocks = {
            f"{stage}{theirs}": f"{part}.{i}.{ours}"
            for part, names in stages.items()
            for i, stage in enumerate(names)
            for theirs, ours in self.layers.items()
        }
        return blocks | {name: f"up.{i}.conv" for i, name in enumerate(self.up)} | dict(self.rest)

    @cached_property
    def tensors(self) -> dict[str, str]:
        """Foreign name -> segkit's, of every tensor that the network has."""
        foreign = {ours: theirs for theirs, ours in self.prefixes.items()}
        named = [(name.rpartition("."), name) for name in self.network([1] * LEVELS).state_dict()]
        return {f"{foreign[prefix]}.{leaf}": name for (prefix, _, leaf), name in named}

    def network(self, widths: list[int]) -> UNet:
        """Without values: it takes no memory, and leaves the random stream of a training as it is."""
        with torch.device("meta"):
            return UNet(1, 1, widths, **self.options)

    def differences(self, names: set[str]) -> tuple[list[str], list[str]]:
        """Names that a file lacks, and names that it has besides. Old torch did not count batches, and nobody needs it."""
        needed = [name for name in self.tensors if not name.endswith(".num_batches_tracked")]
        known_unused = tuple(f"{layer}." for layer in self.unused)
        besides = [name for name in sorted(names - set(self.tensors)) if not name.startswith(known_unused)]
        return [name for name in needed if name not in names], besides


ISBI = Schema(
    "isbi_valid_unet",
    images="one gray channel, 0..1, mirrored at its borders (ISBI-2012 electron microscopy; white is cell, black is membrane)",
    preprocess="preprocess=native preprocess.normalize=unit",
    encoder=tuple(f"conv{i}." for i in (1, 2, 3, 4, 5)),
    up=tuple(f"up_conv{k}" for k in (1, 2, 3, 4)),
    decoder=tuple(f"conv{i}." for i in (6, 7, 8, 9)),
    layers={"0": "convs.0.conv", "2": "convs.1.conv"},
    rest={"conv10": "head.conv"},
    cat=("skip", "up"),
    options={"padding": "valid", "norm": "none", "concat": "skip_first", "final": "sigmoid"},
    unused=("upconv4",),
)
BRATS = Schema(
    "brats_unet",
    images="one channel, 240 x 240, T2 slices over the largest value of their volume (BraTS 2020; whole tumour)",
    preprocess="preprocess=native preprocess.scale=max preprocess.scope=volume preprocess.normalize=unit",
    encoder=tuple(f"down_convolution_{i}." for i in (1, 2, 3, 4, 5)),
    up=tuple(f"up_transpose_{k}" for k in (1, 2, 3, 4)),
    decoder=tuple(f"up_convolution_{k}." for k in (1, 2, 3, 4)),
    layers=CONV_NORM,
    rest={"out": "head.conv"},
    cat=("skip", "up"),
    options={"concat": "skip_first"},
)
CHEST = Schema(
    "chest_bones_unet",
    images="three channels (gray repeated), 512 x 512, 0..1 (chest radiographs; clavicles and ribs together)",
    preprocess="preprocess.size=[512,512] preprocess.normalize=unit",
    encoder=(*(f"downs.{i}.conv." for i in (0, 1, 2, 3)), "bottleneck.conv."),
    up=tuple(f"ups.{k}" for k in (0, 2, 4, 6)),
    decoder=tuple(f"ups.{k}.conv." for k in (1, 3, 5, 7)),
    layers=CONV_NORM,
    rest={"finalConv": "head.conv"},
    cat=("skip", "up"),
    options={"concat": "skip_first", "odd_sides": "resize_up"},
)
FETAL = Schema(
    "fetal_head_unet",
    images="one gray channel, 252 x 252, values 0..255 as stored (HC18 ultrasound; the head, filled)",
    preprocess="preprocess.size=[252,252] preprocess.fit=pad preprocess.scale=none preprocess.normalize=unit",
    encoder=tuple(f"down_conv{i}." for i in (1, 2, 3, 4, 5)),
    up=tuple(f"trans{k}" for k in (1, 2, 3, 4)),
    decoder=tuple(f"up_conv{k}." for k in (1, 2, 3, 4)),
    layers={"0": "pre_norm", "1": "convs.0.conv", "2": "convs.0.norm", "4": "convs.1.conv", "5": "convs.1.norm"},
    rest={"conv_bn": "bottom.0", "out.0": "head.conv", "out.1": "head.norm"},
    cat=("up", "skip"),
    options={
        "pre_norm": True,
        "bottleneck_norm": True,
        "head_norm": True,
        "concat": "up_first",
        "odd_sides": "crop_skip",
        "target": "resize",
        "final": "sigmoid",
    },
)
HUB = Schema(
    "mateuszbuda_hub",
    images="three channels (before contrast, FLAIR, after), 256 x 256, each z-scored over its volume (TCGA-LGG brain MR)",
    preprocess="preprocess.size=[256,256] preprocess.crop_foreground=0.1 preprocess.fit=pad preprocess.scale=percentiles"
    " preprocess.percentiles=[10,99] preprocess.per_channel=false preprocess.normalize=volume",
    encoder=(*(f"encoder{i}.enc{i}" for i in (1, 2, 3, 4)), "bottleneck.bottleneck"),
    up=tuple(f"upconv{i}" for i in (4, 3, 2, 1)),
    decoder=tuple(f"decoder{i}.dec{i}" for i in (4, 3, 2, 1)),
    layers={"conv1": "convs.0.conv", "norm1": "convs.0.norm", "conv2": "convs.1.conv", "norm2": "convs.1.norm"},
    rest={"conv": "head.conv"},
    cat=("up", "skip"),
    options={"bias": False, "concat": "up_first", "final": "sigmoid"},
)
SCHEMAS = {schema.name: schema for schema in (ISBI, BRATS, CHEST, FETAL, HUB)}
