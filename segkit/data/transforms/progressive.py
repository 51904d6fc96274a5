"""Progressive resizing: small training images first, so that the early epochs, which decide little, cost little.

Smith, Topin and others used it to train fast (fast.ai at DAWNBench, 2018); the parameters are those of MosaicML Composer's
`ProgressiveResizing`. Validation and prediction see images of full size throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segkit.config.schema import Preprocess, Progressive
from segkit.data.labels import Array
from segkit.data.transforms.geometry import Resize


@dataclass(frozen=True)
class ProgressiveResizing:
    """The size of training images as a function of the epoch alone, so that a resumed training sees the same.

    Args:
        config: `sampling.progressive_resizing`.
        epochs: of the whole training.
        preprocess: says how images and masks are resized.
    """

    config: Progressive
    epochs: int
    preprocess: Preprocess

    def scale(self, epoch: int) -> float:
        """Share of each side: `initial_scale` until `delay_fraction` of the training, 1 in the last `finetune_fraction`, linear between."""
        cfg, done = self.config, epoch / self.epochs
        end = 1 - cfg.finetune_fraction
        if done >= end:
            return 1.0
        ramp = max(0.0, done - cfg.delay_fraction) / (end - cfg.delay_fraction) if end > cfg.delay_fraction else 0.0
        return cfg.initial_scale + (1 - cfg.initial_scale) * ramp

    def size(self, shape: Sequence[int], epoch: int) -> tuple[int, ...]:
        """Sides at `epoch`: multiples of `size_increment`, and never larger than those of `shape`."""
        scale, step = self.scale(epoch), self.config.size_increment
        return tuple(min(n, max(step, step * round(scale * n / step))) if scale < 1 else n for n in shape)

    def __call__(self, image: Array, mask: Array, epoch: int) -> tuple[Array, Array]:
        """Image (*S, C) and mask (*S) or (K, *S) in the size of `epoch`."""
        shape = image.shape[:-1]
        size = self.size(shape, epoch)
        if size == shape:
            return image, mask
        step = Resize(shape, size, self.preprocess.interpolation, self.preprocess.mask_interpolation == "soft")
        return step.forward(image), step.forward_mask(mask)
