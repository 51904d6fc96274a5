"""Every family of networks can learn: Dice over 0.95 on four phantom images in at most 200 steps."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from segkit.config.compose import compose
from segkit.data.datamodule import intensity_statistics
from segkit.data.dataset import CaseDataset, collate
from segkit.training import train as run
from segkit.training.building import build_parts, make_metadata
from segkit.training.module import SegmentationModule

IMAGES = ("data.phantom_n=16", "preprocess.size=[64,64]")
VOLUMES = ("data=decathlon", "data.dims=3", "preprocess=volume", "data.phantom_n=12", "model.widths=[8,16,32]")
NARROW = "model.widths=[8,16,32,64]"
FAMILIES: dict[str, tuple[str, ...]] = {
    "classic": ("model=unet", NARROW),
    "valid": ("model=unet_valid", "model.widths=[8,16,32]", "model.norm=batch", "preprocess.size=[60,60]"),
    "residual": ("model=unet_residual", NARROW),
    "pre_norm": ("model=unet_pre_norm", NARROW),
    "attention": ("model=unet_attention", NARROW),
    "plain": ("model=unet_plain", NARROW, "model.deep_supervision=2"),
    "flair": ("model=unet_flair", NARROW),
    "smp": ("model=smp", "model.encoder_name=resnet18"),
    "deeplab": ("model=deeplab", "model.encoder_name=resnet18"),
    "mdu_like": ("model=mdu_like",),
    "volume": ("model=unet_3d", *VOLUMES),
}


@cache
def prepared(keys: tuple[str, ...]) -> Any:
    return run.prepare_data(config(keys), None)


def config(keys: tuple[str, ...]) -> Any:
    return compose("train", [*(() if VOLUMES[0] in keys else IMAGES), *keys, "augment=none"])


def four(cfg: Any, data: Any) -> tuple[Tensor, Tensor]:
    """Images and masks of the first training cases; of volumes the middle, where the structures are."""
    cases = [data.manifest.by_id[i] for i in data.split.train[:4]]
    dataset = CaseDataset(cases, data.manifest.labels, cfg.preprocess)
    if data.manifest.dims == 2:
        batch = collate([dataset[i] for i in range(4)])
        return batch.image, batch.mask
    images, masks = [], []
    for i in range(4):
        sample = dataset[i]
        where = torch.nonzero(sample.mask == 1).float().mean(0).round().int().tolist()
        box = tuple(
            slice(max(0, min(c - 8, n - 16)), max(0, min(c - 8, n - 16)) + 16) for c, n in zip(where, sample.mask.shape, strict=True)
        )
        images.append(sample.image[(slice(None), *box)])
        masks.append(sample.mask[box])
    return torch.stack(images), torch.stack(masks)


def dice(model: Any, image: Tensor, mask: Tensor) -> float:
    with torch.no_grad():
        probs = model.eval()(image)
    found = probs.argmax(1) > 0 if model.mode == "multiclass" else probs[:, 0] > 0.5
    truth = mask > 0
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_four_images_are_memorized(family: str) -> None:
    cfg = config(FAMILIES[family])
    data = prepared(FAMILIES[family] if family == "volume" else ())
    torch.set_num_threads(2)
    parts = build_parts(cfg, make_metadata(cfg, data, intensity_statistics(cfg, data), "32"))
    task = SegmentationModule(parts.model, parts.loss, parts.metrics, cfg, parts.metadata)
    image, mask = four(cfg, data)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    best = 0.0
    for step in range(1, 201):
        task.model.train()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts = task.loss(*task.model.supervised(image, mask))
        parts["loss"].backward()
        optimizer.step()
        if step % 20 == 0:
            best = max(best, dice(task.model, image, mask))
            if best > 0.95:
                return
    pytest.fail(f"Dice {best:.3f} after 200 steps")
