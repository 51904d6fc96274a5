"""Augmentation as a function of (seed, epoch, index). The only file that touches albumentations.

Left alone, albumentations' workers all draw the same random stream and repeat it every epoch, whatever Lightning seeds.
New generators from (seed, epoch, index) for each sample make the result independent of workers, processes, order and crashes.
All transforms draw from the same two, one after the other: `Compose.set_random_seed` gives each a copy of its own, so that they
all draw the same numbers, and one of p=0.2 is applied only where those of p=0.5 are as well.

Volumes go through the same transforms: a 2-D one does the same to every slice, so that slices stay in place.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else every import asks a server for news

import albumentations as A

from segkit.config.targets import instantiate
from segkit.data.labels import Array
from segkit.system.errors import SegkitError


class Augmentation:
    """Random changes of a training image and its mask.

    Args:
        transforms: `augment.transforms`, by name.
        allow: packages of the user's own whose classes may be named.
        is_volume: images are volumes (D, H, W, C).
        has_planes: masks are planes (K, *S), of structures that overlap.

    Raises:
        SegkitError: A transform does not know how to change such an image or mask; albumentations would leave it as it is.
    """

    def __init__(
        self,
        transforms: Mapping[str, Mapping[str, Any] | None],
        allow: Sequence[str] = (),
        is_volume: bool = False,
        has_planes: bool = False,
    ) -> None:
        nodes = {f"augment.transforms.{name}": node for name, node in transforms.items() if node is not None}
        steps = {key: instantiate(node, key, allow=allow, training=True) for key, node in nodes.items()}
        for key, step in steps.items():
            check_targets(key, step, target_names(is_volume, has_planes))
        self._compose = A.Compose(list(steps.values()))

    def __call__(self, image: Array, mask: Array, key: tuple[int, ...]) -> tuple[Array, Array]:
        """Image (*S, C) uint8 or float32, mask (*S) or planes (K, *S); `key` is (seed, epoch, index).

        What was in 0..1 stays there.
        """
        seeds = np.random.SeedSequence(key)
        self._compose.set_random_state(np.random.default_rng(seeds), random.Random(int(seeds.generate_state(1)[0])))
        in_unit = image.dtype != np.uint8 and float(image.min()) >= 0 and float(image.max()) <= 1
        is_volume, has_planes = image.ndim == 4, mask.ndim == image.ndim
        # of a volume albumentations takes slices (D, H, W, K)
        mask = np.ascontiguousarray(np.moveaxis(mask, 0, -1) if is_volume and has_planes else mask)
        names = target_names(is_volume, has_planes)
        out = self._compose(**dict(zip(names, (image, mask), strict=True)))
        image, mask = (np.asarray(out[name]) for name in names)
        if in_unit:
            image = np.clip(image, 0.0, 1.0)
        return image, np.moveaxis(mask, -1, 0) if is_volume and has_planes else mask


def target_names(is_volume: bool, has_planes: bool) -> tuple[str, str]:
    """albumentations' names for image and mask: of volumes it takes stacks of slices, and of overlapping structures planes.

    Planes one by one: OpenCV warps two channels less exactly than one, and of more than four albumentations makes chunks.
    """
    return "images" if is_volume else "image", "masks" if is_volume or has_planes else "mask"


def check_targets(key: str, step: A.BasicTransform | A.BaseCompose, names: tuple[str, str]) -> None:
    """Raise SegkitError for a transform that needs other targets than `names`, or does not know them: those it leaves as they are."""
    for transform in leaves(step):
        known = transform.available_keys
        unchanged = [name for name in names if name not in known and (name == names[0] or "mask" in known)]
        missing = set(transform.targets_as_params) - set(names)
        if unchanged or missing:
            what = f"does not change `{unchanged[0]}`" if unchanged else f"needs `{min(missing)}`"
            given = f"images and masks are given to it as `{names[0]}` and `{names[1]}`"
            raise SegkitError(f"{key}: {type(transform).__name__} {what}, and {given} here;   choose another transform, or {key}=null")


def leaves(step: A.BasicTransform | A.BaseCompose) -> Iterator[A.BasicTransform]:
    """The transforms themselves, of OneOf and its like those inside."""
    if isinstance(step, A.BaseCompose):
        for inner in step.transforms:
            yield from leaves(inner)
    else:
        yield step
